#include "locus/comm/board.h"

#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <thread>

namespace locus::comm {
namespace {

std::shared_ptr<Store> connect(const Store& served) {
  return make_tcp_store("127.0.0.1", served.port(), false, 10.0);
}

TEST(Board, ShowsToAllWhatOnePosts) {
  const std::shared_ptr<Store> store = make_tcp_store("127.0.0.1", 0, true, 10.0);
  EXPECT_GT(store->port(), 0);
  EXPECT_TRUE(store->serves());
  Board board({store}, "watch/0/"), other({connect(*store)}, "watch/0/"),
      stranger({store}, "watch/1/");
  board.post("a", "text");
  EXPECT_EQ(other.read({"a", "b"}), (std::vector<std::string>{"text", ""}));
  EXPECT_EQ(stranger.read({"a"}), (std::vector<std::string>{""}));
}

TEST(Board, LetsOneOfAllClaim) {
  const std::shared_ptr<Store> store = make_memory_store(), second = make_memory_store();
  Board board({store, second}, ""), other({store, second}, ""), last({second}, "");
  EXPECT_EQ(board.claim("speaker"), std::optional(true));
  EXPECT_EQ(other.claim("speaker"), std::optional(false));
  EXPECT_EQ(last.claim("speaker"), std::optional(false));
  EXPECT_EQ(last.claim("another"), std::optional(true));
  // First in one store, but not in the next.
  EXPECT_EQ(board.claim("another"), std::optional(false));
}

TEST(Board, GoesOnWithTheSecondStoreWhenTheFirstIsGone) {
  std::shared_ptr<Store> first = make_tcp_store("127.0.0.1", 0, true, 10.0);
  const std::shared_ptr<Store> second = make_tcp_store("127.0.0.1", 0, true, 10.0);
  Board board({connect(*first), second}, "");
  board.post("a", "1");
  first.reset();
  board.post("a", "2");
  EXPECT_EQ(board.read({"a"}), (std::vector<std::string>{"2"}));
  EXPECT_EQ(board.claim("speaker"), std::optional(true));
}

TEST(Board, SaysWhereNobodyAnswers) {
  std::shared_ptr<Store> store = make_tcp_store("127.0.0.1", 0, true, 10.0);
  Board board({connect(*store)}, "");
  store.reset();
  EXPECT_EQ(board.read({"a"}), std::nullopt);
  EXPECT_EQ(board.claim("speaker"), std::nullopt);
}

// Whoever serves stays until the others have read what they want.
TEST(Board, IsNotLeftByTheServerBeforeTheOthers) {
  const std::shared_ptr<Store> store = make_tcp_store("127.0.0.1", 0, true, 10.0);
  Board server({store}, "");
  Board client({connect(*store)}, "");
  std::future<void> left = std::async(std::launch::async, [&] { server.leave(2, 10.0); });
  EXPECT_EQ(left.wait_for(std::chrono::milliseconds(200)), std::future_status::timeout);
  client.leave(2, 10.0);
  left.get();
}

TEST(PatientStore, DoesNotWaitForAStoreThatHangs) {
  std::promise<void> released;
  std::future<void> release = released.get_future();
  PatientStore store(make_memory_store());
  EXPECT_TRUE(store.ask([](Store& asked) { asked.set("a", "1"); }, 5.0));
  EXPECT_FALSE(store.ask([&](Store&) { release.wait(); }, 0.05));
  // And not for the same hanging again and again.
  bool is_asked = false;
  EXPECT_FALSE(store.ask([&](Store&) { is_asked = true; }, 0.05));
  EXPECT_FALSE(store.ask([&](Store&) { is_asked = true; }, 0.0));
  released.set_value();
  EXPECT_TRUE(store.ask([](Store& asked) { asked.set("a", "2"); }, 5.0));
}

}  // namespace
}  // namespace locus::comm

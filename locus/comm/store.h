// A small store of keys and values that all ranks see: they meet there before they have groups, and
// say there how they are. Between processes one of them serves it over TCP; ranks that are threads
// of a test share one in memory.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

namespace locus::comm {

class Store {
 public:
  struct Impl;  // comm/c10d_store.h
  explicit Store(std::unique_ptr<Impl> impl);
  ~Store();

  void set(const std::string& key, const std::string& value);
  // Waits until some rank has set it; CommError that names `key` after `timeout_s`.
  std::string get(const std::string& key, double timeout_s);
  // Without waiting.
  std::optional<std::string> find(const std::string& key);
  // The sum after adding; keys begin at 0.
  int64_t add(const std::string& key, int64_t amount);

  // The same store, for another thread: while one waits in it, its connection serves nobody else.
  // Does not keep the store alive that this process serves.
  std::shared_ptr<Store> another_connection() const;
  // Where the others reach a TCP store; 0: in memory.
  int64_t port() const;
  // It ends with this process.
  bool serves() const;

  Impl& impl() { return *impl_; }

 private:
  std::unique_ptr<Impl> impl_;
};

// One process (rank 0, or a launcher's agent) serves at host:port, the others connect. Who serves
// may leave the choice of the port, 0, to the system. CommError that names both when nobody
// answers, or when the port is taken, within `timeout_s`.
std::shared_ptr<Store> make_tcp_store(const std::string& host, int64_t port, bool serves,
                                      double timeout_s);
std::shared_ptr<Store> make_memory_store();

}  // namespace locus::comm

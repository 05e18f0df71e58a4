#include "locus/comm/together.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <exception>
#include <filesystem>

namespace locus::comm {
namespace {

// What the program ends with for exceptions that carry no code of their own: cli/main.cpp.
constexpr int64_t kInternalError = 1, kBadFile = 3;

}  // namespace

void together(ProcessGroup* world, const std::function<void()>& action) {
  if (world == nullptr) return action();
  std::exception_ptr own;
  int64_t code = 0;
  try {
    action();
  } catch (const Error& error) {
    own = std::current_exception();
    code = error.exit_code();
  } catch (const std::filesystem::filesystem_error&) {
    own = std::current_exception();
    code = kBadFile;
  } catch (...) {
    own = std::current_exception();
    code = kInternalError;
  }
  const at::Tensor code_R = at::empty({world->size()}, at::kLong);
  world->all_gather(code_R, at::full({1}, code, at::kLong))->wait();
  const int64_t* codes = code_R.const_data_ptr<int64_t>();
  for (int64_t rank = 0; rank < world->size(); ++rank) {
    if (codes[rank] == 0) continue;
    if (rank == world->rank()) std::rethrow_exception(own);
    throw PeerError(rank, static_cast<int>(codes[rank]));
  }
}

}  // namespace locus::comm

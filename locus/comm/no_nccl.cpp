// Twin of nccl.cpp for a program without CUDA.
#include "locus/base/error.h"
#include "locus/comm/nccl.h"

namespace locus::comm {

bool nccl_is_available(std::string* why) {
  *why = "this program was built without NCCL (cmake -DLOCUS_CUDA=ON, with a libtorch for CUDA)";
  return false;
}

std::unique_ptr<Transport> make_nccl_transport(const GlooSettings& /*settings*/,
                                               const std::shared_ptr<Store>& /*store*/) {
  std::string why;
  nccl_is_available(&why);
  throw ConfigError("comm.backend = \"nccl\": {}", why);
}

}  // namespace locus::comm

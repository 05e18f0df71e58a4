#include "locus/base/error.h"

namespace locus {

void fail_check(const char* file, int line, const char* condition, const std::string& message) {
  throw InternalError(format("{}:{}: check failed: {}{}{}", file, line, condition,
                             message.empty() ? "" : ": ", message));
}

}  // namespace locus

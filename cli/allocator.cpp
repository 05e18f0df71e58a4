#include "cli/allocator.h"

#include <cstdlib>  // defines __GLIBC__

#ifdef __GLIBC__
#include <malloc.h>

#include <limits>
#endif

namespace locus::cli {

void keep_freed_memory() {
#ifdef __GLIBC__
  constexpr int kTopPadBytes = 64 << 20;
  mallopt(M_MMAP_MAX, 0);  // large blocks come from the heap, too
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());  // whose top is not given back,
  mallopt(M_TOP_PAD, kTopPadBytes);                            // and which grows in large steps
#endif
}

}  // namespace locus::cli

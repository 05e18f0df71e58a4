// How the C library's allocator treats large blocks.
#pragma once

namespace locus::cli {

// From now on freed memory stays with the process: for commands that compute with tensors.
//
// glibc serves blocks over 32 MiB with mmap and gives them back at each free, and trims the top of
// its heap. A training step frees and takes the same large activations again and again, and the
// kernel must zero each page anew: the page faults cost 10 to 30 % of a training step on a CPU. The
// price is that memory in use never falls below its peak. Other C libraries are left as they are.
void keep_freed_memory();

}  // namespace locus::cli

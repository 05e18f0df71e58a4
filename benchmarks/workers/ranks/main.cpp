// The workers that are several ranks, in a program of their own: what they are compared with may
// need libraries that `locus_bench` does without.
#include "benchmarks/workers/serve.h"

namespace locus::benchmarks {

MakeWorker make_exchange, make_reduce;

}  // namespace locus::benchmarks

int main(int argc, char** argv) {
  using namespace locus::benchmarks;  // NOLINT: the table below reads better
  return serve(argc, argv,
               {{"exchange", "rows from each rank to each", make_exchange},
                {"reduce", "sums of gradients over all ranks", make_reduce}});
}

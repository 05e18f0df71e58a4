// All workers that measure Locus, in one program: benchmarks/README.md.
#include "benchmarks/workers/serve.h"

namespace locus::benchmarks {

MakeWorker make_moe_layer, make_expert_gemms, make_square_product, make_train_step, make_step_part,
    make_generate, make_loader, make_checkpoint, make_gate, make_placement, make_auction;

}  // namespace locus::benchmarks

int main(int argc, char** argv) {
  using namespace locus::benchmarks;  // NOLINT: the table below reads better
  return serve(argc, argv,
               {
                   {"moe_layer", "one MoE layer, forward and backward", make_moe_layer},
                   {"expert_gemms", "its bare matrix products", make_expert_gemms},
                   {"square_product", "one large matrix product", make_square_product},
                   {"train_step", "whole training steps", make_train_step},
                   {"step_part", "one part of a step alone", make_step_part},
                   {"generate", "tokens one by one", make_generate},
                   {"loader", "batches out of a corpus", make_loader},
                   {"checkpoint", "saving and loading about 1 GB", make_checkpoint},
                   {"gate", "a router's gate alone, forward and backward", make_gate},
                   {"auction", "tokens shared out evenly over experts", make_auction},
                   {"placement", "sequences shared out over many ranks", make_placement},
               });
}

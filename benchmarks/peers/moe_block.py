"""transformers' OLMoE block, forward and backward: the peer of workers/moe_layer.cpp."""
from benchmarks.peers.serve import serve, timed


def make(experts, dtype, num_experts, top_k, intermediate_size, tokens=4096, hidden_size=512):
    import torch
    import transformers
    from transformers.models.olmoe.modeling_olmoe import OlmoeSparseMoeBlock

    config = transformers.OlmoeConfig(
        hidden_size=int(hidden_size), intermediate_size=int(intermediate_size),
        num_experts=int(num_experts), num_experts_per_tok=int(top_k), norm_topk_prob=False)
    config._experts_implementation = experts
    block = OlmoeSparseMoeBlock(config)
    kind = getattr(torch, dtype)

    # The same draws in the same order as in workers/moe_layer.cpp.
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(int(tokens), int(hidden_size), generator=generator).to(kind)
    y_gradient = torch.randn(int(tokens), int(hidden_size), generator=generator).to(kind)
    for parameter in (block.gate.weight, block.experts.gate_up_proj, block.experts.down_proj):
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.02
    block.to(kind)

    def run():
        leaf = x.detach().requires_grad_()

        def both():
            block(leaf[None]).backward(y_gradient[None])

        seconds, _ = timed(both)
        block.zero_grad()
        return {"seconds": seconds}

    return {"torch": torch.__version__, "transformers": transformers.__version__}, run


if __name__ == "__main__":
    serve(make)

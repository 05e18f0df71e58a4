"""Whole training steps of a transformers model: the peer of workers/train_step.cpp.

precision: float32; autocast (bfloat16 where autocast says so, float32 weights); bfloat16 (all).
"""
from benchmarks.peers.models import build
from benchmarks.peers.serve import serve, timed


def make_optimizer(model):
    """AdamW with the defaults of Locus: no decay on norms and biases."""
    import torch

    decayed = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    return torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1},
                              {"params": others, "weight_decay": 0.0}],
                             betas=(0.9, 0.95), eps=1e-8, fused=True)


def make(config, batches, precision="float32", weights="", experts="grouped_mm"):
    import contextlib

    import torch
    from safetensors.torch import load_file

    model, _, versions = build(config, weights, experts)
    if precision == "bfloat16":
        model.to(torch.bfloat16)
    model.train()
    optimizer = make_optimizer(model)
    data = load_file(batches)
    steps = len(data["lr"])
    step = 0

    def context():
        if precision == "autocast":
            return torch.autocast("cpu", dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def train():
        at = step % steps
        for group in optimizer.param_groups:
            group["lr"] = data["lr"][at].item()
        labels = data["labels"][at]
        with context():
            loss = model(input_ids=data["input_ids"][at], labels=labels, shift_labels=labels,
                         use_cache=False).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad()
        return {"loss": loss.item(), "grad_norm": norm.item()}

    def run():
        nonlocal step
        seconds, report = timed(train)
        step += 1
        return {"seconds": seconds, **report}

    return {**versions, "parameters": sum(p.numel() for p in model.parameters()),
            "tokens": data["input_ids"][0].numel()}, run


if __name__ == "__main__":
    serve(make)

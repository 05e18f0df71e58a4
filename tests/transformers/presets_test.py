"""Checkpoints of Locus in transformers: each public family's preset, shrunk, trained for a few steps.

    presets_test.py build/locus build/transformers_probe
"""
import sys
import tempfile

import peers

peers.needs("torch", "transformers", "safetensors")
import corpus  # noqa: E402

SMALL = ["model.vocab_size=0", "model.hidden_size=32", "model.num_hidden_layers=3", "model.num_attention_heads=4",
         "model.intermediate_size=40", "model.max_position_embeddings=64", "train.max_steps=6", "log.interval=2"]
MOE = ["moe.num_experts=6", "moe.intermediate_size=24"]
PRESETS = {
    "gpt2": [],
    "llama-3.2-1b": ["model.num_key_value_heads=2", "model.head_dim=0"],
    "mixtral-8x7b": [*MOE, "model.num_key_value_heads=2"],
    "olmoe-1b-7b": [*MOE, "moe.router.top_k=3"],
    "qwen3-30b-a3b": [*MOE, "moe.router.top_k=3", "model.num_key_value_heads=2", "model.head_dim=12",
                      "moe.layers=[0, 2]"],
}
ARCHITECTURES = {"gpt2": "GPT2LMHeadModel", "llama-3.2-1b": "LlamaForCausalLM", "mixtral-8x7b": "MixtralForCausalLM",
                 "olmoe-1b-7b": "OlmoeForCausalLM", "qwen3-30b-a3b": "Qwen3MoeForCausalLM"}


def test_presets_open_in_transformers(peer):
    for preset, settings in PRESETS.items():
        folder, log = peer.train(preset, f"model.preset={preset}", *SMALL, *settings)
        assert "transformers has" not in log, log  # nothing is lost
        model = peer.expect_equal(folder)
        assert type(model).__name__ == ARCHITECTURES[preset], type(model)
        assert model.config.eos_token_id == model.generation_config.eos_token_id is not None


def test_their_tokenizers_open_too_and_generate_the_same_text(peer):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    folder = peer.folder / "olmoe-1b-7b"
    checkpoint = folder / "checkpoints" / "step_00000006"
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    ids = tokenizer("abc", return_tensors="pt", add_special_tokens=False).input_ids
    out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12)
    ours, _ = peer.locus("generate", "--checkpoint", folder, "--prompt", "abc", "--temperature", "0",
                         "--max-new-tokens", "12")
    theirs = tokenizer.decode(out[0], skip_special_tokens=True)
    assert ours.rstrip("\n") == theirs, (ours, theirs)


def test_other_shapes_of_the_families(peer):
    """Biases, linear RoPE scaling, NTK scaling (another base to transformers), top-1, untied GPT-2."""
    bias = ["model.attention_bias=true", "model.attention_output_bias=true"]
    for name, settings in {
        "biased": ["model.preset=llama-3.2-1b", *SMALL, *PRESETS["llama-3.2-1b"], *bias, "model.mlp_bias=true"],
        "linear": ["model.preset=olmoe-1b-7b", *SMALL, *PRESETS["olmoe-1b-7b"], "model.rope_scaling=linear",
                   "model.rope_scaling_factor=2.0"],
        "llama3": ["model.preset=llama-3.2-1b", *SMALL, *PRESETS["llama-3.2-1b"], "model.rope_scaling=llama3",
                   "model.rope_scaling_factor=8.0", "model.rope_original_max_position_embeddings=16"],
        "ntk": ["model.preset=mixtral-8x7b", *SMALL, *PRESETS["mixtral-8x7b"], "model.rope_scaling=ntk",
                "model.rope_scaling_factor=4.0"],
        "top1": ["model.preset=qwen3-30b-a3b", *SMALL, *PRESETS["qwen3-30b-a3b"], "moe.router.top_k=1",
                 "moe.top_k.norm_topk_prob=false"],
        "untied": ["model.preset=gpt2", *SMALL, "model.tie_word_embeddings=false"],
        "sharded": ["model.preset=gpt2", *SMALL, "checkpoint.max_shard_bytes=20000"],
    }.items():
        folder, log = peer.train(name, *settings)
        assert "transformers has" not in log, log
        peer.expect_equal(folder)
    assert len(list(folder.glob("model-*.safetensors"))) > 2


def test_what_transformers_cannot_compute_is_said_once(peer):
    _, log = peer.train("switch", "model.preset=olmoe-1b-7b", *SMALL, *PRESETS["olmoe-1b-7b"],
                        "moe.router.type=switch", "checkpoint.interval=2")
    lines = [line for line in log.splitlines() if "transformers has" in line]
    assert len(lines) == 1 and 'moe.router.type = "switch"' in lines[0], log
    _, log = peer.train("odd", "model.norm_type=layernorm", "train.max_steps=2")
    lines = [line for line in log.splitlines() if "transformers has" in line]
    assert len(lines) == 1 and "no class for this shape" in lines[0], log
    for run in ("switch", "odd"):
        peer.locus("eval", "--checkpoint", run, "--split", "test")
        peer.locus("export", run, f"{run}-out")
        start, _ = peer.train(f"{run}-again", f"checkpoint.initial_load_path={run}-out", "train.max_steps=2",
                              *(["model.norm_type=layernorm"] if run == "odd" else []))
        assert (start / "config.json").read_text() == (peer.folder / f"{run}-out" / "config.json").read_text()


def main():
    with tempfile.TemporaryDirectory() as name:
        peer = peers.Peers(*sys.argv[1:3], corpus.make(sys.argv[1], name))
        # The corpus names a shape of its own; a preset's is wanted here.
        settings = (peer.folder / "run.toml").read_text()
        kept = settings[settings.index("[data]"):]
        (peer.folder / "run.toml").write_text(kept)
        peers.run_tests([test_presets_open_in_transformers, test_their_tokenizers_open_too_and_generate_the_same_text,
                         test_other_shapes_of_the_families, test_what_transformers_cannot_compute_is_said_once], peer)


if __name__ == "__main__":
    main()

"""Folders that transformers wrote: Locus computes the same, trains on, and transformers opens the result.

    folders_test.py build/locus build/transformers_probe
"""
import json
import sys
import tempfile

import peers

peers.needs("torch", "transformers", "safetensors")
import corpus  # noqa: E402

VOCABULARY = 400


def models():
    """Random small models: name -> (configuration, how it is saved)."""
    from transformers import GPT2Config, LlamaConfig, MixtralConfig, OlmoeConfig, Qwen3MoeConfig
    ids = dict(bos_token_id=1, eos_token_id=2)
    size = dict(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                max_position_embeddings=64, **ids)
    moe = dict(intermediate_size=24, num_experts_per_tok=2)
    grouped = dict(num_key_value_heads=2)
    fused = dict(save_original_format=False)  # experts as transformers 5 holds them
    gpt2 = dict(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, **ids)
    qwen = dict(head_dim=12, moe_intermediate_size=20, num_experts=5, **{**moe, "intermediate_size": 40})
    return {
        "gpt2": (GPT2Config(**gpt2), {}),
        "gpt2_wide": (GPT2Config(**gpt2, n_inner=50, activation_function="gelu"), {}),
        "llama": (LlamaConfig(**size, **grouped, intermediate_size=40), {}),
        "llama_tied": (LlamaConfig(**size, intermediate_size=40, tie_word_embeddings=True), {}),
        "llama_bias": (LlamaConfig(**size, intermediate_size=40, attention_bias=True, mlp_bias=True), {}),
        "llama_linear": (LlamaConfig(**size, intermediate_size=40,
                                     rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0}), {}),
        "llama_shards": (LlamaConfig(**size, **grouped, intermediate_size=40), dict(max_shard_size="30KB")),
        "mixtral": (MixtralConfig(**size, **grouped, **moe, num_local_experts=5), {}),
        "mixtral_fused": (MixtralConfig(**size, **grouped, **moe, num_local_experts=5), fused),
        "olmoe": (OlmoeConfig(**size, **moe, num_experts=5), {}),
        "olmoe_fused": (OlmoeConfig(**size, **moe, num_experts=5, norm_topk_prob=True, tie_word_embeddings=True),
                        dict(max_shard_size="60KB", **fused)),
        "qwen3_moe": (Qwen3MoeConfig(**size, **grouped, **qwen, norm_topk_prob=True), {}),
        "qwen3_moe_fused": (Qwen3MoeConfig(**size, **grouped, **qwen, mlp_only_layers=[0]), fused),
    }


def test_locus_computes_what_transformers_computes(peer):
    import torch
    from transformers import AutoModelForCausalLM
    for number, (name, (config, how)) in enumerate(models().items()):
        torch.manual_seed(number)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)  # biases and norms, too, are not plain
        model.save_pretrained(peer.folder / name, **how)
        peer.expect_equal(peer.folder / name)


def test_training_goes_on_and_comes_back(peer):
    import torch
    from transformers import AutoModelForCausalLM
    for name, (config, _) in models().items():
        start = AutoModelForCausalLM.from_pretrained(peer.folder / name)
        kept = ["lr_schedule.lr=0", "optimizer.weight_decay=0", "lr_schedule.min_lr=0"]
        source = f"checkpoint.initial_load_path={name}"
        still, _ = peer.train(f"{name}-still", source, *kept, "train.max_steps=1")
        again = AutoModelForCausalLM.from_pretrained(still)
        assert type(again) is type(start)
        for (key, left), (_, right) in zip(start.named_parameters(), again.named_parameters()):
            assert torch.equal(left, right), f"{name}: {key}"  # there and back without a bit changed
        trained, log = peer.train(f"{name}-trained", source, "train.max_steps=8", "lr_schedule.warmup_steps=0",
                                  "lr_schedule.lr=1e-2")
        assert "starting from the weights of" in log, log
        peer.expect_equal(trained)
        lines = [json.loads(line) for line in (peer.folder / f"{name}-trained" / "metrics.jsonl").read_text().split("\n")
                 if line]
        losses = [line["loss"] for line in lines if line["kind"] == "train"]
        assert losses[-1] < losses[0], losses


def test_settings_must_not_contradict_the_folder(peer):
    train = ["train", "--config", "run.toml", "--set", "checkpoint.initial_load_path=mixtral"]
    _, errors = peer.locus(*train, "--set", "model.hidden_size=64", code=2)
    assert "model.hidden_size = 64 contradicts mixtral (32)" in errors, errors
    _, errors = peer.locus(*train, "--set", "moe.router.type=switch", code=2)
    assert 'moe.router.type = "switch" contradicts mixtral ("top_k")' in errors, errors
    peer.locus(*train, "--dry-run", "--set", "model.hidden_size=32", "--set", "model.hidden_dropout=0.1", "--set",
               "moe.router.aux_loss_coeff=0.02")


def test_eval_and_generate_take_the_folder_itself(peer):
    folder = peer.folder / "olmoe"
    _, errors = peer.locus("generate", "--checkpoint", "olmoe", "--prompt", "abc", code=3)
    assert "holds no tokenizer" in errors, errors
    (folder / "tokenizer.model").write_bytes((peer.folder / "data" / "tokenizer.model").read_bytes())
    out, _ = peer.locus("eval", "--checkpoint", "olmoe", "--data", "data", "--split", "test")
    assert out.startswith("model olmoe on data (test)"), out
    out, _ = peer.locus("generate", "--checkpoint", "olmoe", "--prompt", "abc", "--max-new-tokens", "5")
    assert out.startswith("abc"), out


def main():
    with tempfile.TemporaryDirectory() as name:
        peer = peers.Peers(*sys.argv[1:3], corpus.make(sys.argv[1], name))
        settings = (peer.folder / "run.toml").read_text()
        (peer.folder / "run.toml").write_text(settings[settings.index("[data]"):])
        peers.run_tests([test_locus_computes_what_transformers_computes, test_training_goes_on_and_comes_back,
                         test_settings_must_not_contradict_the_folder, test_eval_and_generate_take_the_folder_itself],
                        peer)


if __name__ == "__main__":
    main()

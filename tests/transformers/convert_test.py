"""`locus import` and `locus export`: types, sizes of files, and that transformers opens what comes out.

    convert_test.py build/locus build/transformers_probe
"""
import json
import sys
import tempfile

import peers

peers.needs("torch", "transformers", "safetensors")
import corpus  # noqa: E402


def test_export_converts_the_type_as_torch_does(peer):
    import torch
    from transformers import AutoModelForCausalLM
    source = peers.values_of(peer.checkpoint)
    for dtype in ("float32", "bfloat16", "float16"):
        target = peer.folder / f"export-{dtype}"
        out, _ = peer.locus("export", "run", target, "--dtype", dtype)
        assert "OlmoeForCausalLM" in out and dtype in out, out
        values = peers.values_of(target)
        assert set(values) == set(source)
        for name, value in values.items():
            assert torch.equal(value, source[name].to(getattr(torch, dtype))), name
        model = AutoModelForCausalLM.from_pretrained(target, dtype="auto")
        assert model.dtype == getattr(torch, dtype)
        assert not list(target.glob("optimizer*")) + list(target.glob("trainer*")) + list(target.glob("config.toml"))
        peer.expect_equal(target)


def test_shards_have_the_size_that_was_asked_for(peer):
    peer.locus("export", "run", "shards", "--max-shard-size", "40KB")
    files = sorted((peer.folder / "shards").glob("model-*.safetensors"))
    index = json.loads((peer.folder / "shards" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {file.name for file in files} and len(files) > 3
    source = peers.values_of(peer.checkpoint)
    largest = max(value.nbytes for value in source.values())
    assert all(file.stat().st_size < max(40_000, largest) + 10_000 for file in files)
    peer.expect_equal(peer.folder / "shards")


def test_import_takes_what_transformers_wrote(peer):
    import torch
    from transformers import AutoModelForCausalLM, MixtralConfig
    config = MixtralConfig(vocab_size=400, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                           num_key_value_heads=2, intermediate_size=24, num_local_experts=4, bos_token_id=3,
                           eos_token_id=[4, 5], max_position_embeddings=64)
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    model.save_pretrained(peer.folder / "fused", save_original_format=False)
    peer.locus("import", "fused", "each")
    each = AutoModelForCausalLM.from_pretrained(peer.folder / "each", dtype="auto")
    assert each.dtype == torch.bfloat16 and each.config.eos_token_id == [4, 5]
    for (name, left), (_, right) in zip(model.named_parameters(), each.named_parameters()):
        assert torch.equal(left, right), name
    assert "model.layers.0.block_sparse_moe.experts.3.w2.weight" in peers.values_of(peer.folder / "each")


def test_values_too_large_for_float16_are_an_error(peer):
    from safetensors.torch import load_file, save_file
    peer.locus("export", "run", "large")
    values = load_file(peer.folder / "large" / "model.safetensors")
    values["model.norm.weight"][0] = 1e6
    save_file(values, peer.folder / "large" / "model.safetensors", {"format": "pt"})
    _, errors = peer.locus("export", "large", "half", "--dtype", "float16", code=3)
    assert "model.norm.weight" in errors and "too large" in errors, errors
    assert not (peer.folder / "half").exists() and not list(peer.folder.glob("half.tmp*"))


def main():
    with tempfile.TemporaryDirectory() as name:
        peer = peers.Peers(*sys.argv[1:3], corpus.make(sys.argv[1], name))
        peer.checkpoint, _ = peer.train("run", "model.qk_norm=full", "moe.top_k.norm_topk_prob=false",
                                        "train.max_steps=4")
        peers.run_tests([test_export_converts_the_type_as_torch_does, test_shards_have_the_size_that_was_asked_for,
                         test_import_takes_what_transformers_wrote, test_values_too_large_for_float16_are_an_error],
                        peer)


if __name__ == "__main__":
    main()

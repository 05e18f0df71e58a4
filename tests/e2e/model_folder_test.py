"""Broken and hostile model folders: one clear error each. Conversion: atomic, and bounded in memory.

    model_folder_test.py build/locus
"""
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile

import corpus

PROGRAM = str(pathlib.Path(sys.argv[1]).resolve())
INDEX = "model.safetensors.index.json"


def locus(folder, *arguments, code=0):
    return corpus.locus(PROGRAM, *map(str, arguments), cwd=folder, code=code)


def read_tensors(path):
    """The header of a safetensors file, and its data."""
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:8 + size])
    header.pop("__metadata__", None)
    return header, content[8 + size:]


def write_tensors(path, tensors):
    """name -> (dtype, shape, bytes), in order."""
    header, position = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + len(data)]}
        position += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values()))


def tensors_of(folder):
    header, data = read_tensors(folder / "model.safetensors")
    return {name: (one["dtype"], one["shape"], data[slice(*one["data_offsets"])]) for name, one in header.items()}


def change_config(folder, **keys):
    config = json.loads((folder / "config.json").read_text())
    for key, value in keys.items():
        config.pop(key, None) if value is ... else config.update({key: value})
    (folder / "config.json").write_text(json.dumps(config))


class Broken:
    """A copy of the good folder, broken by the caller, which every command has to refuse."""

    def __init__(self, folder, source="model"):
        self.folder, self.bad = folder, folder / "bad"
        shutil.rmtree(self.bad, ignore_errors=True)
        shutil.copytree(folder / source, self.bad)

    def expect(self, *parts):
        for command in (["eval", "--data", "data", "--checkpoint", "bad"], ["import", "bad", "out"],
                        ["train", "--config", "run.toml", "--set", "checkpoint.initial_load_path=bad", "--set",
                         "train.output_dir=never"]):
            _, errors = locus(self.folder, *command, code=3)
            messages = [line for line in errors.splitlines() if line.startswith("locus: ")]
            assert len(messages) == 1, errors
            for part in parts:
                assert part in messages[0], f"{part!r} is not in: {messages[0]}"
            for left in ("out", *(p.name for p in self.folder.glob("out.tmp*"))):
                assert not (self.folder / left).exists(), left
            shutil.rmtree(self.folder / "never", ignore_errors=True)


def broken_config(folder, expected, **keys):
    broken = Broken(folder)
    change_config(broken.bad, **keys)
    broken.expect(*expected)


def test_features_that_locus_does_not_compute(folder):
    for keys, expected in [
        (dict(sliding_window=4096), ['"sliding_window" = 4096']),
        (dict(hidden_act="relu"), ['"hidden_act" = "relu"', "silu"]),
        (dict(rope_parameters={"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}), ["yarn"]),
        (dict(rope_parameters=..., rope_scaling={"type": "longrope", "factor": 8.0}), ["longrope"]),
        (dict(rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}),
         ["partial_rotary_factor"]),
        (dict(clip_qkv=8.0), ['"clip_qkv" = 8.0']),
        (dict(quantization_config={"quant_method": "fp8"}), ["quantization_config"]),
        (dict(layer_types=["full_attention", "sliding_attention"]), ["layer_types", "sliding_attention"]),
        (dict(final_logit_softcapping=30.0), ["final_logit_softcapping"]),
    ]:
        broken_config(folder, expected, **keys)


def test_what_is_said_and_passed_over(folder):
    broken = Broken(folder)
    change_config(broken.bad, attention_dropout=0.1, some_new_feature=3)
    _, log = locus(folder, "eval", "--data", "data", "--checkpoint", "bad", "--max-batches", "1")
    assert '"attention_dropout" = 0.1' in log and '"some_new_feature" = 3' in log, log


def test_unknown_architectures(folder):
    broken_config(folder, ['"olmoes"', "the nearest is olmoe", "known: gpt2, llama"], model_type="olmoes")
    broken_config(folder, ['"t5"', "known: gpt2, llama"], model_type="t5")
    broken_config(folder, ["model_type"], model_type=...)


def test_hostile_values(folder):
    broken_config(folder, ['"hidden_size" = -32'], hidden_size=-32)
    broken_config(folder, ["hidden_size"], hidden_size=10**30)
    broken_config(folder, ["layers"], num_hidden_layers=2_000_000_000)
    broken_config(folder, ["num_attention_heads"], num_attention_heads=0)
    broken_config(folder, ['has no "hidden_size"'], hidden_size=...)
    broken_config(folder, ['"vocab_size" = "many"'], vocab_size="many")
    broken_config(folder, ["top_k"], num_experts_per_tok=50)
    broken = Broken(folder)
    (broken.bad / "config.json").write_text('{"model_type": "olmoe", ')
    broken.expect("config.json", "not valid JSON")
    (broken.bad / "config.json").write_text('{"model_type": "olmoe", "model_type": "llama"}')
    broken.expect("names", "twice")


def test_configuration_against_weights(folder):
    broken_config(folder, ["shape [400, 32], the model needs [400, 64]"], hidden_size=64, num_attention_heads=8,
                  num_key_value_heads=8)
    broken_config(folder, ["is missing", "layers.2"], num_hidden_layers=3)
    broken_config(folder, ["layers.1", "not part of this model's shape"], num_hidden_layers=1)
    broken_config(folder, ["needs [2000000000, 32]"], vocab_size=2_000_000_000)  # and nothing is allocated
    broken_config(folder, ["mlp.gate.weight has shape [4, 32], the model needs [9, 32]"], num_experts=9)


def test_a_tokenizer_larger_than_the_vocabulary(folder):
    broken = Broken(folder)
    tensors = tensors_of(broken.bad)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        dtype, (_, width), data = tensors[name]
        tensors[name] = dtype, [399, width], data[:399 * width * 4]
    write_tensors(broken.bad / "model.safetensors", tensors)
    change_config(broken.bad, vocab_size=399)
    broken.expect("tokenizer has 400 pieces", "vocabulary of 399")


def broken_tensor(folder, name, change, *expected):
    broken = Broken(folder)
    tensors = tensors_of(broken.bad)
    new = change(tensors)
    tensors[name] = new if new else tensors.pop(name)
    write_tensors(broken.bad / "model.safetensors", tensors)
    broken.expect(name, *expected)


def test_broken_tensors(folder):
    name = "model.layers.0.self_attn.q_proj.weight"
    broken_tensor(folder, name, lambda t: ("I8", [32, 32], bytes(1024)), "type I8", "needs F32, BF16")
    broken_tensor(folder, name, lambda t: ("F8_E4M3", [32, 32], bytes(1024)), "F8_E4M3")
    broken_tensor(folder, name, lambda t: ("F32", [16, 64], t[name][2]), "shape [16, 64]", "[32, 32]")
    broken_tensor(folder, "model.surprise", lambda t: ("F32", [1], bytes(4)), "not part of this model's shape")
    broken_tensor(folder, "model.norm.weight", lambda t: ("F32", [32], b"\0\0\xc0\x7f" * 32), "NaN")


def test_tied_weights_that_differ(folder):
    broken = Broken(folder)
    change_config(broken.bad, tie_word_embeddings=True)
    broken.expect("lm_head.weight", "embed_tokens.weight", "tie_word_embeddings", "twice with different values")
    tensors = tensors_of(broken.bad)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    write_tensors(broken.bad / "model.safetensors", tensors)
    locus(folder, "eval", "--data", "data", "--checkpoint", "bad", "--max-batches", "1")


def test_shards(folder):
    locus(folder, "export", "model", "shards", "--max-shard-size", "40KB")
    first = "model-00001-of-"
    shard = next(p.name for p in (folder / "shards").iterdir() if p.name.startswith(first))
    broken = Broken(folder, "shards")
    (broken.bad / shard).unlink()
    broken.expect(shard, "missing")
    broken = Broken(folder, "shards")
    index = json.loads((broken.bad / INDEX).read_text())
    index["weight_map"]["lm_head.weight"] = shard
    (broken.bad / INDEX).write_text(json.dumps(index))
    broken.expect("lm_head.weight", shard)
    (broken.bad / INDEX).write_text("{")
    broken.expect(INDEX, "not valid JSON")


def test_links_out_of_the_folder(folder):
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        broken = Broken(folder)
        if not (broken.bad / name).exists():
            continue
        (broken.bad / name).unlink()
        (broken.bad / name).symlink_to(folder / "model" / name)
        broken.expect("link leads out of the folder")


def test_the_links_of_hugging_faces_cache(folder):
    cache = folder / "hub" / "models--x--y"
    (cache / "blobs").mkdir(parents=True)
    snapshot = cache / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted((folder / "model").iterdir())):
        shutil.copy(file, cache / "blobs" / f"{number:08x}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number:08x}")
    locus(folder, "eval", "--data", "data", "--checkpoint", snapshot, "--max-batches", "1")
    locus(folder, "import", snapshot, "from-cache")
    assert not any(p.is_symlink() for p in (folder / "from-cache").iterdir())


def test_pickle_files(folder):
    for name in ("pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth"):
        broken = Broken(folder)
        (broken.bad / "model.safetensors").rename(broken.bad / name)
        broken.expect(name, "pickle", "safetensors alone", "save_pretrained")


def refused(folder, *arguments, code=2):
    _, errors = locus(folder, *arguments, code=code)
    assert "filesystem error" not in errors, errors
    return errors


def files_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_targets_are_not_overwritten(folder):
    (folder / "full").mkdir()
    (folder / "full" / "mine.txt").write_text("precious")
    for target in ("full", "full/mine.txt", "model"):
        locus(folder, "export", "model", target, code=2)
    assert "mine.txt" in refused(folder, "export", "model", "full", "--overwrite")
    assert (folder / "full" / "mine.txt").read_text() == "precious"
    locus(folder, "export", "model", "twice")
    locus(folder, "export", "model", "twice", "--overwrite", "--dtype", "bfloat16")
    assert "bfloat16" in (folder / "twice" / "config.json").read_text()
    (folder / "twice" / "notes").mkdir()
    before = files_of(folder / "twice")
    assert "twice/notes" in refused(folder, "import", "model", "twice", "--overwrite")
    assert files_of(folder / "twice") == before and (folder / "twice" / "notes").is_dir()
    _, errors = locus(folder, "export", "model", "sized", "--max-shard-size", "5 apples", code=2)
    assert "5 apples" in errors
    _, errors = locus(folder, "export", "model", "typed", "--dtype", "int8", code=2)
    assert "int8" in errors


def test_the_source_is_never_the_target(folder):
    before = files_of(folder / "model"), files_of(folder / "run")
    (folder / "to-model").symlink_to("model")
    for target, expected in [("model", "is the source"), ("to-model", "is the source"), (".", "holds the source"),
                             ("model/inside", "lies inside the source"), ("to-model/in", "lies inside the source")]:
        assert expected in refused(folder, "export", "model", target, "--overwrite"), target
    step = next(p.name for p in (folder / "run" / "checkpoints").iterdir() if p.name.startswith("step_"))
    for target in ("run", "run/new", "run/checkpoints", f"run/checkpoints/{step}", f"run/checkpoints/{step}/x"):
        refused(folder, "export", "run", target, "--overwrite")
        refused(folder, "export", f"run/checkpoints/{step}", target, "--overwrite")
    refused(folder, "export", "model", f"run/checkpoints/{step}", "--overwrite")  # holds a trainer's state
    assert "TARGET is empty" in refused(folder, "export", "model", "")
    assert "SOURCE is empty" in refused(folder, "export", "", "out")
    assert before == (files_of(folder / "model"), files_of(folder / "run"))
    (folder / "to-model").unlink()


def test_what_is_no_source(folder):
    (folder / "nothing").mkdir()
    (folder / "dangling").symlink_to("gone")
    os.mkfifo(folder / "pipe")
    for source, expected in [("nowhere", "nowhere: is not there"), ("run.toml", "run.toml: is a file"),
                             ("nothing", "nothing: holds neither config.json nor checkpoints"),
                             ("dangling", "dangling: is a link to nothing"), ("pipe", "pipe: is a file")]:
        for command in (["import", source, "out"], ["export", source, "a/b/out"],
                        ["eval", "--checkpoint", source, "--data", "data"],
                        ["train", "--config", "run.toml", "--set", f"checkpoint.initial_load_path={source}"]):
            assert expected in refused(folder, *command, code=3), (source, command)
    refused(folder, "eval", "--checkpoint", "", "--data", "data")
    for name in ("config.json", "model.safetensors"):
        broken = Broken(folder)
        (broken.bad / name).unlink()
        (broken.bad / name).mkdir()
        errors = refused(folder, "import", "bad", "out", code=3)
        assert name in errors and "missing" not in errors, errors


def test_a_failed_import_leaves_no_folders(folder):
    broken = Broken(folder)
    tensors = tensors_of(broken.bad)
    tensors["model.norm.weight"] = "F32", [32], b"\0\0\xc0\x7f" * 32
    write_tensors(broken.bad / "model.safetensors", tensors)
    refused(folder, "import", "bad", "new/deep/out", code=3)
    assert not (folder / "new").exists()
    locus(folder, "import", "model", "new/deep/out")
    assert (folder / "new" / "deep" / "out" / "config.json").exists()


def test_files_that_are_no_json(folder):
    for name in ("tokenizer_config.json", "generation_config.json"):
        broken = Broken(folder)
        (broken.bad / name).write_text("{")
        broken.expect(name, "not valid JSON")
    broken_config(folder, ['"eos_token_id" = 400'], eos_token_id=400)
    broken_config(folder, ['"locus" = 7'], locus=7)


def test_data_of_another_tokenizer(folder):
    locus(folder, "prepare", "--output", "other-data", "--vocab-size", "300", "text.jsonl")
    errors = refused(folder, "train", "--config", "run.toml", "--set", "checkpoint.initial_load_path=model", "--set",
                     'data.train=["other-data"]', "--set", "data.valid=[]", "--set", "train.output_dir=never", code=3)
    assert "other-data: was prepared with another tokenizer than that of model" in errors, errors
    assert "locus prepare --tokenizer model" in errors and not (folder / "never").exists()
    assert "a model folder has no data of its own" in refused(folder, "eval", "--checkpoint", "model")


def test_a_full_disk_leaves_nothing(folder):
    command = "trap '' XFSZ; ulimit -f 40; exec \"$0\" export model never"
    done = subprocess.run(["bash", "-c", command, PROGRAM], cwd=folder, text=True, capture_output=True, timeout=60)
    assert done.returncode == 3, done.stderr
    assert not list(folder.glob("never*"))


def peak_bytes(folder, *arguments):
    """The largest resident memory of one command."""
    code = ("import resource, subprocess, sys; done = subprocess.run(sys.argv[1:], capture_output=True);"
            "print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)")
    done = subprocess.run([sys.executable, "-c", code, PROGRAM, *map(str, arguments)], cwd=folder, text=True,
                          capture_output=True, timeout=300)
    status, peak = map(int, done.stdout.split())
    assert status == 0
    return peak


def test_memory_holds_one_tensor_at_a_time(folder):
    """Experts that are stored together, layer by layer: 400 MB pass through in the space of one of them."""
    big = folder / "big"
    shutil.copytree(folder / "model", big)
    width, layers, experts = 2048, 8, 8
    change_config(big, hidden_size=512, intermediate_size=width, num_hidden_layers=layers, num_experts=experts,
                  num_attention_heads=4, num_key_value_heads=4, head_dim=128)

    def value(*shape):
        count = 1
        for size in shape:
            count *= size
        return "BF16", list(shape), bytes(2 * count)

    tensors = {"model.embed_tokens.weight": value(400, 512), "lm_head.weight": value(400, 512),
               "model.norm.weight": value(512)}
    for i in range(layers):
        layer = f"model.layers.{i}."
        for name in ("input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm"):
            tensors[layer + name + ".weight"] = value(512)
        for name in "qkvo":
            tensors[f"{layer}self_attn.{name}_proj.weight"] = value(512, 512)
        tensors[layer + "mlp.gate.weight"] = value(experts, 512)
        tensors[layer + "mlp.experts.gate_up_proj"] = value(experts, 2 * width, 512)
        tensors[layer + "mlp.experts.down_proj"] = value(experts, 512, width)
    write_tensors(big / "model.safetensors", tensors)
    total = (big / "model.safetensors").stat().st_size
    largest = 2 * experts * 2 * width * 512  # as it is stored: the experts of a layer together
    before = peak_bytes(folder, "export", "model", "small-out")
    after = peak_bytes(folder, "export", "big", "big-out", "--dtype", "float32")
    assert total > 350e6 and (folder / "big-out" / "model.safetensors").stat().st_size > 700e6
    extra = after - before
    assert extra < 1.5 * largest + 32e6, f"{extra / 1e6:.0f} MB more for {total / 1e6:.0f} MB, a tensor {largest / 1e6:.0f}"


def main():
    tests = [(name, test) for name, test in globals().items() if name.startswith("test_")]
    only = sys.argv[2:]
    with tempfile.TemporaryDirectory() as name:
        folder = corpus.make(PROGRAM, name)
        text = (folder / "run.toml").read_text()
        locus(folder, "train", "--config", "run.toml", "--set", "train.max_steps=2", "--set", "model.qk_norm=full",
              "--set", "moe.top_k.norm_topk_prob=false")
        locus(folder, "export", "run", "model")
        (folder / "run.toml").write_text(text[text.index("[data]"):])
        for title, test in tests:
            if only and title not in only:
                continue
            test(folder)
            print("passed", title, flush=True)
    print(f"{len(tests)} passed, 0 failed")


if __name__ == "__main__":
    main()

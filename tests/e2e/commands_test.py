"""train, eval, generate and report on a real run: what they print, and how they fail.

    commands_test.py build/locus
"""
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import corpus

PROGRAM = str(pathlib.Path(sys.argv[1]).resolve())


def locus(folder, *arguments, code=0, stdin=""):
    return corpus.locus(PROGRAM, *arguments, cwd=folder, code=code, stdin=stdin)


def expect(text, *parts):
    for part in parts:
        assert part in text, f"{part!r} is not in:\n{text}"


def expect_error(folder, code, parts, *arguments, stdin=""):
    """One clear error on stderr with these parts, and the exit code."""
    _, errors = locus(folder, *arguments, code=code, stdin=stdin)
    messages = [line for line in errors.splitlines() if line.startswith("locus: ")]
    assert len(messages) == 1, errors
    expect(errors, *parts)


def test_train_writes_a_run(folder):
    out, _ = locus(folder, "train", "--config", "run.toml")
    expect(out, "finished step=60 ", "loss=")
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert losses[-1] < losses[0], losses
    assert lines[-1]["peak_rss_bytes"] >= max(line["rss_bytes"] for line in lines if line["kind"] == "train")
    assert {line["kind"] for line in lines} == {"run", "train", "moe", "valid", "checkpoint", "end"}
    moe = [line for line in lines if line["kind"] == "moe"][-1]
    assert sum(moe["tokens_per_expert"]) == 4 * 32 * 2 and len(moe["domain_expert"]) == 2
    # 60 steps: the last sum over twenty of them, of which every tenth writes a line.
    assert sum(map(sum, moe["domain_expert"])) == 2 * 4 * 32 * 2, moe["domain_expert"]
    assert len((folder / "run" / "metrics.csv").read_text().splitlines()) == 13
    for name in ("config.toml", "log.txt", "checkpoints/latest"):
        assert (folder / "run" / name).exists(), name


def test_the_resolved_settings_give_the_same_run(folder):
    locus(folder, "train", "--config", "run/config.toml", "--set", "train.output_dir=again")
    for file in ("model.safetensors", "optimizer.safetensors"):
        first = (folder / "run" / "checkpoints" / "step_00000060" / file).read_bytes()
        assert first == (folder / "again" / "checkpoints" / "step_00000060" / file).read_bytes(), file


def test_dry_run_allocates_and_writes_nothing(folder):
    out, _ = locus(folder, "train", "--config", "run.toml", "--dry-run", "--set", "train.output_dir=dry")
    expect(out, "active per token", "FLOPs per token", "memory for training")
    assert not (folder / "dry").exists()
    out, _ = locus(folder, "train", "--dry-run", "--set", "model.preset=mixtral-8x7b")
    expect(out, "46.7G", "12.9G")


def test_eval_by_domain_and_on_text(folder):
    out, _ = locus(folder, "eval", "--checkpoint", "run", "--split", "test", "--output", "run/eval.json")
    expect(out, "left", "right", "all", "bits/byte")
    result = json.loads((folder / "run" / "eval.json").read_text())
    assert set(result["by_domain"]) == {"left", "right"}
    assert sum(d["tokens"] for d in result["by_domain"].values()) == result["tokens"]
    (folder / "plain.txt").write_text("some words that nobody has seen\n" * 20)
    out, _ = locus(folder, "eval", "--checkpoint", "run/checkpoints/step_00000060", "--text", "plain.txt")
    expect(out, "plain.txt")


def test_generate(folder):
    ask = ["generate", "--checkpoint", "run", "--max-new-tokens", "12", "--seed", "3"]
    out, log = locus(folder, *ask, "--prompt", "abc")
    expect(log, "tokens/s")
    assert out.startswith("abc")
    assert out == locus(folder, *ask, "--prompt", "abc", "--no-cache")[0]
    assert out == locus(folder, *ask, "--prompt", "abc", "--stream")[0]
    assert out == locus(folder, *ask, stdin="abc\n")[0]
    both, _ = locus(folder, *ask, "--prompt", "abc", "--prompt", "de", "--output", "samples.txt")
    assert both == (folder / "samples.txt").read_text()
    locus(folder, *ask, "--prompt", "")


def test_report(folder):
    locus(folder, "report", "run", "again", "--output", "report.html")
    page = (folder / "report.html").read_text()
    expect(page, "<html", "again")
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page


def test_bad_run_folders(folder):
    expect_error(folder, 2, ["holds a run already", "--resume"], "train", "--config", "run.toml")
    expect_error(folder, 3, ["/proc/nowhere", "cannot be made"], "train", "--config", "run.toml", "--set",
                 "train.output_dir=/proc/nowhere")
    long = ["train", "--config", "run.toml", "--set", "train.output_dir=busy", "--set", "train.max_steps=1000000"]
    holder = subprocess.Popen([PROGRAM, *long], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (folder / "busy" / "checkpoints" / "latest").exists():
            assert holder.poll() is None
        expect_error(folder, 2, ["busy", "in use by another process", str(holder.pid)], *long, "--resume")
        holder.terminate()
        assert holder.wait(timeout=60) == 143
    finally:
        holder.kill()
    last = [json.loads(line) for line in (folder / "busy" / "metrics.jsonl").read_text().splitlines()][-1]
    assert last["kind"] == "end" and last["reason"] == "interrupted"
    assert (folder / "busy" / "checkpoints" / ("step_%08d" % last["step"])).is_dir()


def test_nothing_of_others_is_replaced(folder):
    (folder / "mine").mkdir()
    (folder / "mine" / "config.toml").write_text("precious")
    expect_error(folder, 2, ["mine", "other things in it"], "train", "--config", "run.toml", "--set",
                 "train.output_dir=mine")
    assert (folder / "mine" / "config.toml").read_text() == "precious"
    ask = ["eval", "--checkpoint", "run", "--max-batches", "1", "--output"]
    expect_error(folder, 3, ["/dev/null", "not a regular file"], *ask, "/dev/null")
    (folder / "target.json").write_text("{}")
    (folder / "link.json").symlink_to("target.json")
    locus(folder, *ask, "link.json")
    assert (folder / "link.json").is_symlink() and "loss" in (folder / "target.json").read_text()


def test_resuming_says_what_changed_and_what_there_was_to_do(folder):
    out, log = locus(folder, "train", "--config", "run.toml", "--resume", "--set", "moe.router.type=switch")
    expect(log, 'moe.router.type was "top_k" and is "switch"', "nothing was trained")
    assert "loss=" not in out, out
    lines = (folder / "again" / "metrics.jsonl").read_text()
    shutil.rmtree(folder / "again" / "checkpoints")
    locus(folder, "train", "--config", "run.toml", "--resume", "--set", "train.output_dir=again", "--set",
          "train.max_steps=5")
    assert (folder / "again" / "metrics.jsonl").read_text().startswith(lines), "the history is gone"


def test_damaged_checkpoints(folder):
    shutil.copytree(folder / "run", folder / "hurt")
    newest = folder / "hurt" / "checkpoints" / "step_00000060" / "model.safetensors"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    expect_error(folder, 3, ["model.safetensors", "checksum"], "eval", "--checkpoint", str(newest.parent))
    _, log = locus(folder, "train", "--config", "run.toml", "--resume", "--set", "train.output_dir=hurt")
    expect(log, "step_00000060 is damaged and passed over", "continuing from hurt/checkpoints/step_00000057")
    expect_error(folder, 2, ["moe.intermediate_size cannot change on --resume: it is 48"], "train", "--config", "run.toml",
                 "--resume", "--set", "moe.intermediate_size=64")
    shutil.rmtree(folder / "hurt" / "checkpoints")
    expect_error(folder, 3, ["holds neither config.json nor checkpoints"], "generate", "--checkpoint", "hurt", "--prompt", "x")


def test_bad_data(folder):
    shutil.copytree(folder / "data", folder / "lying")
    with open(folder / "lying" / "train.bin", "r+b") as file:
        file.truncate(100)
    run = ["train", "--config", "run.toml", "--set", "train.output_dir=other"]
    expect_error(folder, 3, ["lying/train"], *run, "--set", "data.train=['lying']")
    expect_error(folder, 3, ["nowhere"], *run, "--set", "data.train=['nowhere']", "--set",
                 "data.tokenizer=data/tokenizer.model")
    expect_error(folder, 2, ["model.vocab_size = 100", "400"], *run, "--set", "model.vocab_size=100")
    locus(folder, "prepare", "--output", "data2", "--vocab-size", "380", "text.jsonl")
    expect_error(folder, 3, ["another tokenizer"], *run, "--set", "data.train=['data', 'data2']")
    expect_error(folder, 2, ["sequence_length"], *run, "--set", "data.sequence_length=65")
    expect_error(folder, 3, ["plain.bin"], "eval", "--checkpoint", "run", "--text", "plain.bin")
    (folder / "broken.txt").write_bytes(b"good \xff bad")
    expect_error(folder, 3, ["broken.txt", "UTF-8"], "eval", "--checkpoint", "run", "--text", "broken.txt")


def test_bad_prompts(folder):
    expect_error(folder, 2, ["64"], "generate", "--checkpoint", "run", "--prompt", "abc de " * 200)
    expect_error(folder, 2, ["no prompt"], "generate", "--checkpoint", "run")


def test_full_disk_while_training(folder):
    """A limit on file sizes is what a full disk looks like to a writer; the first checkpoint fits, then none."""
    command = "trap '' XFSZ; ulimit -f 100; exec \"$0\" train --config run.toml --set train.output_dir=full"
    done = subprocess.run(["bash", "-c", command, PROGRAM], cwd=folder, text=True, capture_output=True, timeout=300)
    assert done.returncode == 3, done.stderr
    expect(done.stderr, "cannot be written")
    checkpoints = folder / "full" / "checkpoints"
    assert not [p for p in checkpoints.iterdir() if p.name.startswith("step_")], list(checkpoints.iterdir())


def test_routing_by_domain(folder):
    routed = ["--config", "run.toml", "--set", "moe.router.type=locmoe", "--set", "train.output_dir=domains",
              "--set", "train.max_steps=6"]
    locus(folder, "train", *routed, "--set", "moe.num_domain_groups=2")
    settings = (folder / "domains" / "config.toml").read_text()
    expect(settings, '"left = ', '"right = ', "= 0-1", "= 2-3")
    out, errors = locus(folder, "eval", "--checkpoint", "domains")
    expect(out, "told from the text", "all (inferred)")
    assert "warning" not in errors, errors
    locus(folder, "generate", "--checkpoint", "domains", "--max-new-tokens", "4", "--prompt", "abc")
    # Other names: the text says where its tokens go.
    locus(folder, "prepare", "--output", "renamed", "--tokenizer", "data/tokenizer.model", "--valid-share", "0.2",
          "--test-share", "0", "up=text.jsonl")
    out, errors = locus(folder, "eval", "--checkpoint", "domains", "--data", "renamed", "--split", "valid")
    expect(errors, "no experts of its own for up")
    assert "inferred" not in out, out
    # Groups that do not fit the data.
    shutil.rmtree(folder / "domains")
    train = ["train", *routed]
    expect_error(folder, 2, ['no experts to "right"'], *train, "--set", 'moe.domain_groups=["left = 0-3"]')
    for suffix in ("bin", "idx"):
        shutil.copy(folder / "data" / f"train.{suffix}", folder / f"bare.{suffix}")
    expect_error(folder, 2, ["tell no domains"], *train, "--set", "moe.num_domain_groups=2", "--set",
                 'data.train=["bare"]', "--set", 'data.tokenizer="data/tokenizer.model"')
    assert not (folder / "domains" / "checkpoints").exists()


def main():
    tests = [(name, test) for name, test in globals().items() if name.startswith("test_")]
    with tempfile.TemporaryDirectory() as name:
        folder = corpus.make(PROGRAM, name)
        for title, test in tests:
            test(folder)
            print("passed", title)
    print(f"{len(tests)} passed, 0 failed")


if __name__ == "__main__":
    main()

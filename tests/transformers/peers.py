"""What the tests against Hugging Face's packages share: a Python that has them, runs, comparisons.

A test says which packages it needs by `needs(...)`: it goes on in the project's .venv where this Python
lacks them, and is skipped, by name, where that one lacks them too (exit code 77). LOCUS_PYTHON names
another Python.
"""
import importlib
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
SKIPPED = 77
sys.path.insert(0, str(ROOT / "tests" / "e2e"))


def needs(*packages):
    """Imports the packages; ends the test where they cannot be had."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here comes from the network
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    missing = []
    for package in packages:
        try:
            importlib.import_module(package)
        except (ImportError, OSError) as error:  # OSError: a library that a package loads is missing
            missing.append(f"{package} ({str(error).splitlines()[0]})")
    if not missing:
        return
    other = os.environ.get("LOCUS_PYTHON") or str(ROOT / ".venv" / "bin" / "python3")
    if os.path.exists(other) and not os.environ.get("LOCUS_PYTHON_TRIED"):
        os.environ["LOCUS_PYTHON_TRIED"] = "1"
        os.execv(other, [other, "-B", *sys.argv])
    print(f"skipped: {sys.executable} has no {', '.join(missing)}; `make test-packages` installs them")
    sys.exit(SKIPPED)


def run_tests(tests, *arguments):
    for test in tests:
        test(*arguments)
        print("passed", test.__name__, flush=True)
    print(f"{len(tests)} passed, 0 failed")


class Peers:
    """The program and the probe, with transformers beside them, in a folder for files."""

    def __init__(self, program, probe, folder):
        self.program, self.probe = (str(pathlib.Path(p).resolve()) for p in (program, probe))
        self.folder = pathlib.Path(folder)

    def locus(self, *arguments, code=0, stdin=""):
        import corpus
        return corpus.locus(self.program, *map(str, arguments), cwd=self.folder, code=code, stdin=stdin)

    def train(self, run, *settings):
        """A run of the small corpus; its last checkpoint and what was said."""
        given = [word for one in (f"train.output_dir={run}", *settings) for word in ("--set", one)]
        _, log = self.locus("train", "--config", "run.toml", *given)
        latest = (self.folder / run / "checkpoints" / "latest").read_text().strip()
        return self.folder / run / "checkpoints" / latest, log

    def ids(self, vocab_size, rows=2, length=12):
        import torch
        return torch.randint(0, vocab_size, (rows, length), generator=torch.Generator().manual_seed(1))

    def ask_locus(self, model_folder, ids, new_tokens=0):
        from safetensors.torch import load_file
        asked, answer = self.folder / "ids.txt", self.folder / "answer.safetensors"
        asked.write_text("".join(" ".join(map(str, row.tolist())) + "\n" for row in ids))
        done = subprocess.run([self.probe, str(model_folder), str(asked), str(answer), str(new_tokens)],
                              text=True, capture_output=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return load_file(answer)

    def expect_equal(self, model_folder, new_tokens=8, **load):
        """Logits, loss, each gradient and greedy tokens of one folder, by both; transformers' model."""
        import torch
        from transformers import AutoModelForCausalLM
        model, report = AutoModelForCausalLM.from_pretrained(
            model_folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True, **load)
        assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
        model.eval()  # no dropout; gradients are those of the loss of next tokens alone
        ids = self.ids(model.config.vocab_size)
        ours = self.ask_locus(model_folder, ids, new_tokens)
        out = model(ids, labels=ids)
        difference = (out.logits - ours["logits"]).abs().max().item()
        assert difference < 1e-4, f"logits differ by {difference}"
        assert abs(out.loss.item() - ours["loss"].item()) < 1e-3 * out.loss.item(), (out.loss, ours["loss"])
        out.loss.backward()
        self.expect_gradients(model, ours)
        with torch.no_grad():
            theirs = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False,
                                    min_new_tokens=new_tokens, max_new_tokens=new_tokens, eos_token_id=None,
                                    pad_token_id=0)
        assert torch.equal(theirs[:, ids.shape[1]:], ours["generated"]), (theirs, ours["generated"])
        return model

    def expect_gradients(self, model, ours):
        """transformers' gradients under the names that its files have, to 1e-3 of the largest entry."""
        theirs = gradients_by_file_name(model, self.folder / "gradients")
        named = {name.removeprefix("grad."): value for name, value in ours.items() if name.startswith("grad.")}
        assert set(theirs) == set(named), set(theirs) ^ set(named)
        for name, value in theirs.items():
            scale = max(value.abs().max().item(), 1e-6)
            difference = (value - named[name]).abs().max().item() / scale
            assert difference < 1e-3, f"gradient of {name} differs by {difference} of its largest entry"


def gradients_by_file_name(model, folder):
    """transformers saves gradients as it would weights: those of a model of its own, under names of files."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM
    holder = AutoModelForCausalLM.from_config(model.config)
    with torch.no_grad():
        for target, source in zip(holder.parameters(), model.parameters()):
            target.copy_(torch.zeros_like(source) if source.grad is None else source.grad)
    holder.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def values_of(folder):
    """All tensors of a folder, sharded or not."""
    from safetensors.torch import load_file
    tensors = {}
    for file in sorted(pathlib.Path(folder).glob("model*.safetensors")):
        tensors.update(load_file(file))
    return tensors

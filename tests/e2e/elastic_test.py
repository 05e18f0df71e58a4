"""One training, every size: smaller models trained inside, an exact resume in each stage, the family, models taken out
that evaluate, generate and train on, and what is refused.

    elastic_test.py build/locus
"""
import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import xml.dom.minidom

import corpus

ROOT = pathlib.Path(__file__).resolve().parents[2]
ELASTIC = """
[moe.router]
type = "top_k"
top_k = 2

[moe.top_k]
norm_topk_prob = false

[dance]
budgets = [0.5, 0.75]
begin = 0.5
calibration_steps = 10
block_size = 8
gate_interval = 3
"""


class Elastic:
    def __init__(self, program, folder):
        self.program, self.folder = program, corpus.make(program, folder)
        settings = (self.folder / "run.toml").read_text()
        (self.folder / "elastic.toml").write_text(settings + ELASTIC)

    def run(self, *arguments, code=0):
        return corpus.locus(self.program, *arguments, cwd=self.folder, code=code)

    def train(self, run, *sets, resume=False, code=0):
        arguments = [word for one in (f"train.output_dir={run}", *sets) for word in ("--set", one)]
        return self.run("train", "--config", "elastic.toml", *arguments, *(["--resume"] if resume else []), code=code)

    def train_on_two_ranks(self, run, *sets, resume=False):
        arguments = [word for one in (f"train.output_dir={run}", *sets) for word in ("--set", one)]
        return subprocess.run([sys.executable, ROOT / "tools" / "ranks.py", "2", self.program, "train", "--config",
                               "elastic.toml", *arguments, *(["--resume"] if resume else [])],
                              cwd=self.folder, text=True, capture_output=True, timeout=300)

    def trains_smaller_models_in_its_second_half(self):
        self.train("whole", "checkpoint.keep_last=0")
        lines = corpus.lines_of(self.folder / "whole", "train")
        assert all(("smaller_losses" in line) == (line["step"] > 30) for line in lines), lines
        assert {name for line in lines for name in line.get("smaller_losses", {})} == {"0.5", "0.75"}
        before, after = [[b["flops"] - a["flops"] for a, b in zip(some, some[1:])]
                         for some in (lines[1:6], lines[7:])]
        # The whole model, half of it, and three quarters or the full width.
        assert 2.0 < after[-1] / before[-1] < 2.5, (before, after)

    def begins_as_without(self):
        """The first half is bit by bit that of a training without smaller models."""
        self.train("plain", "dance.budgets=[]", "checkpoint.keep_last=0")
        sums = [json.loads((self.folder / run / "checkpoints" / "step_00000030" / "manifest.json").read_text())["files"]
                for run in ("whole", "plain")]
        for name in ("model.safetensors", "optimizer.safetensors"):
            assert sums[0][name]["xxh128"] == sums[1][name]["xxh128"], name

    def resumes_exactly(self):
        """Stopped in the main stage, while it calibrates, while gates are learned, and after."""
        wanted = corpus.sums_of(self.folder / "whole")
        for stop in (12, 24, 33, 48):
            name = f"stopped_at_{stop}"
            self.train(name, "checkpoint.keep_last=0")
            for path in (self.folder / name / "checkpoints").glob("step_*"):
                if int(path.name.removeprefix("step_")) > stop:
                    subprocess.run(["rm", "-r", path], check=True)
            self.train(name, "checkpoint.keep_last=0", resume=True)
            assert corpus.sums_of(self.folder / name) == wanted, name

    def goes_on_with_other_ranks(self):
        """Stopped with its gates half learned, and taken up by two ranks that share the experts."""
        for ranks, code in ((2, 0), (1, 2)):  # settled when the run begins: for two, or for one
            name = f"for_{ranks}"
            self.train(name, "checkpoint.keep_last=0", *([f"dance.expert_ranks={ranks}"] if ranks > 1 else []))
            wanted = corpus.lines_of(self.folder / name, "valid")[-1]["loss"]
            for path in (self.folder / name / "checkpoints").glob("step_*"):
                if int(path.name.removeprefix("step_")) > 33:
                    subprocess.run(["rm", "-r", path], check=True)
            done = self.train_on_two_ranks(name, "parallel.expert_model_parallel_size=2", resume=True)
            assert (done.returncode == 0) == (code == 0), done.stderr
            if code == 0:
                found = corpus.lines_of(self.folder / name, "valid")[-1]["loss"]
                assert abs(found - wanted) < 1e-3, (found, wanted)
            else:
                assert "settled when it began" in done.stderr, done.stderr

    def shows_the_family(self):
        out, _ = self.run("search", "whole", "--output", "family")
        rows = [line.split() for line in out.splitlines()]
        assert [row[0] for row in rows[1:]] == ["100%", "75%", "50%"], out
        assert all(float(row[1].rstrip("%")) <= float(row[0].rstrip("%")) for row in rows[1:]), out
        page = (self.folder / "family" / "search.md").read_text()
        assert "layer 1:" in page and "(kept.svg)" in page
        for picture in ("front.svg", "kept.svg"):
            xml.dom.minidom.parse(str(self.folder / "family" / picture))

    def takes_models_out(self):
        out, _ = self.run("extract", "whole", "--budget", "flops=0.5", "--output", "half")
        told = float(re.search(r"validation loss ([\d.]+)", out)[1])
        record = json.loads((self.folder / "half" / "extract.json").read_text())
        assert record["costs"]["flops"]["share"] <= 0.5 and abs(record["validation_loss"] - told) < 1e-3
        self.run("eval", "--checkpoint", "half", "--data", "data", "--output", "eval.json")
        loss = json.loads((self.folder / "eval.json").read_text())
        assert abs(next(value for value in losses(loss)) - told) < 2e-3, (loss, told)
        self.run("generate", "--checkpoint", "half", "--prompt", "ab cd", "--max-new-tokens", "8")
        self.run("export", "half", "half_exported")
        inspected, _ = self.run("inspect", "half")
        parameters = record["costs"]["parameters"]["cost"]
        assert f"{parameters / 1000:.1f}K" in inspected or str(int(parameters)) in inspected.replace(",", ""), inspected
        # By parameters, experts go; the file is as small as was said.
        self.run("extract", "whole", "--budget", "parameters=0.6", "--output", "few")
        record = json.loads((self.folder / "few" / "extract.json").read_text())
        size = sum(path.stat().st_size for path in (self.folder / "few").glob("*.safetensors"))
        assert abs(size / (4 * record["costs"]["parameters"]["cost"]) - 1) < 0.15, size
        assert any("-" not in layer["experts"] or layer["experts"] != "0-3" for layer in record["layers"]), record

    def takes_one_out_of_another(self):
        self.run("extract", "half", "--budget", "parameters=0.7", "--output", "quarter")
        self.run("eval", "--checkpoint", "quarter", "--data", "data")

    def is_the_same_on_every_layout(self):
        sets = ["dance.budgets=[0.5,0.75]", "dance.block_size=4", "dance.expert_ranks=4", "dance.gate_interval=1",
                "moe.top_k.norm_topk_prob=false"]
        arguments = [word for one in sets for word in ("--set", one)]
        config = str(ROOT / "configs" / "verify.toml")
        self.run("verify", "--config", config, "--steps", "3", "--layouts", "dp2 ep2 ep4", *arguments)
        _, errors = self.run("verify", "--config", config, "--steps", "3", "--layouts", "dp2:zero1", *arguments, code=2)
        assert "are not trained with an optimiser's state that is spread" in errors, errors

    def keeps_to_milliseconds(self):
        out, _ = self.run("measure-latency", "whole", "--output", "latency.json", "--num-threads", "1")
        assert "a token of the whole model" in out, out
        out, _ = self.run("measure-latency", "half", "--num-threads", "1", "--context", "9")
        assert re.fullmatch(r"a token of the model [\d.]+ ms \(float32, threads: 1, sequences: 1, tokens before: 9\)\n", out), out
        _, errors = self.run("measure-latency", "half", "--output", "nowhere/latency.json", code=2)
        assert "there is no folder nowhere" in errors, errors
        # So small a model takes as long whatever is cut from it: times that follow sizes, in the table's place.
        table = json.loads((self.folder / "latency.json").read_text())
        table["constant_s"] = 1.0
        for layer in table["layers"]:
            layer["attention"]["seconds"] = layer["attention"]["axes"][0]
            widths, top_k, experts = layer["feed_forward"]["axes"]
            layer["feed_forward"]["seconds"] = [w * k / 10 for w in widths for k in top_k for _ in experts]
        (self.folder / "latency.json").write_text(json.dumps(table))
        out, _ = self.run("extract", "whole", "--budget", "latency=0.9", "--target", "latency.json", "--output", "fast",
                          "--num-threads", "1")
        assert float(re.search(r"latency ([\d.]+)", out)[1]) <= 0.9, out
        for target, threads, wanted in (("latency.json", "2", "another number of threads"),
                                        ("extract.json", "1", "key 'version' not found")):
            path = target if target == "latency.json" else str(self.folder / "half" / target)
            _, errors = self.run("extract", "whole", "--budget", "latency=0.9", "--target", path, "--output", "refused",
                                 "--num-threads", threads, code=2 if threads == "2" else 3)
            assert wanted in errors, errors
        _, errors = self.run("extract", "whole", "--budget", "latency=0.9", "--output", "refused", code=2)
        assert "make one with `locus measure-latency`" in errors, errors

    def measures_only_what_can_go(self):
        self.train("normed", "dance.budgets=[]", "train.max_steps=2", "lr_schedule.warmup_steps=1", "model.qk_norm=\"full\"")
        self.run("measure-latency", "normed", "--output", "normed.json", "--num-threads", "1")
        layers = json.loads((self.folder / "normed.json").read_text())["layers"]
        assert all(layer["attention"]["axes"] == [[layer["heads"]]] for layer in layers), layers

    def trains_on_from_one(self):
        self.train("tuned", "checkpoint.initial_load_path=half", "dance.budgets=[]", "train.max_steps=10",
                   "lr_schedule.lr=1e-4", "lr_schedule.min_lr=1e-5")
        before = json.loads((self.folder / "half" / "extract.json").read_text())["validation_loss"]
        after = corpus.lines_of(self.folder / "tuned", "valid")[-1]["loss"]
        assert after < before + 0.1, (before, after)
        # The same, taught by the model that it was taken out of.
        sets = ("checkpoint.initial_load_path=half", "dance.budgets=[]", "train.max_steps=10", "lr_schedule.lr=1e-4",
                "lr_schedule.min_lr=1e-5", "distillation.teacher_path=whole")
        self.train("taught", *sets)
        taught = corpus.lines_of(self.folder / "taught", "valid")[-1]["loss"]
        assert taught < before + 0.1 and taught != after, (before, taught)
        words = [word for one in sets for word in ("--set", one)]
        out, _ = self.run("train", "--config", "elastic.toml", *words, "--dry-run")
        assert "teacher's FLOPs per token" in out, out
        # Two ranks that share the experts learn the same; each has the whole teacher.
        done = self.train_on_two_ranks("taught_on_two", *sets, "parallel.expert_model_parallel_size=2")
        assert done.returncode == 0, done.stderr
        on_two = corpus.lines_of(self.folder / "taught_on_two", "valid")[-1]["loss"]
        assert abs(on_two - taught) < min(1e-3, abs(taught - after) / 4), (on_two, taught, after)
        _, errors = self.train("refused", "distillation.teacher_path=whole", "train.label_smoothing=0.1", code=2)
        assert "distillation.teacher_path: not with train.label_smoothing" in errors, errors

    def chooses_by_rules_and_domains(self):
        found = {}
        for rule in ("learned", "proportional", "magnitude", "even", "random"):
            out, _ = self.run("extract", "whole", "--budget", "flops=0.5", "--rule", rule, "--output", f"by_{rule}")
            found[rule] = json.loads((self.folder / f"by_{rule}" / "extract.json").read_text())
            assert found[rule]["chosen_by"] == rule and found[rule]["costs"]["flops"]["share"] <= 0.5, out
        best = min(found[rule]["validation_loss"] for rule in ("learned", "proportional"))
        half = json.loads((self.folder / "half" / "extract.json").read_text())["validation_loss"]
        assert abs(best - half) < 1e-6, (best, half)
        assert found["random"]["layers"] != found["even"]["layers"]
        self.run("extract", "whole", "--budget", "parameters=0.8", "--rule", "use", "--output", "by_use")
        use = json.loads((self.folder / "by_use" / "extract.json").read_text())["layers"]
        assert all(layer["channels"] == use[0]["channels"] for layer in use), use
        assert any(layer["experts"] != "0-3" for layer in use), use
        domains = corpus.lines_of(self.folder / "whole", "run")[-1]["domains"]
        out, _ = self.run("extract", "whole", "--budget", "parameters=0.7", "--domain", domains[0], "--output", "own")
        assert json.loads((self.folder / "own" / "extract.json").read_text())["domain"] == domains[0]
        for arguments, wanted in (
                (["--rule", "best"], 'is not known; one of auto, learned'),
                (["--rule", "domain"], "name one by --domain"),
                (["--domain", "nowhere"], f"the training data have {domains[0]}"),
                (["--rule", "use", "--budget", "parameters=0.45"], "dropping experts alone")):
            _, errors = self.run("extract", "whole", "--budget", "parameters=0.7", *arguments, "--output", "refused",
                                 code=2)
            assert wanted in errors, errors

    def trains_for_budgets_of_parameters(self):
        """Experts go, inside the training."""
        self.train("light", "dance.resource=parameters", "dance.budgets=[0.7]")
        out, _ = self.run("search", "light")
        assert float(out.splitlines()[2].split()[2].rstrip("%")) <= 70, out
        self.run("extract", "light", "--budget", "parameters=0.7", "--rule", "learned", "--output", "light_70")
        layers = json.loads((self.folder / "light_70" / "extract.json").read_text())["layers"]
        assert any(layer["experts"] != "0-3" for layer in layers), layers
        _, errors = self.train("refused", "dance.resource=time", code=2)
        assert "is not one of flops, parameters" in errors, errors

    def follows_the_paper(self):
        """The published gates: the same share of each layer's heads and channels, at the whole model's price."""
        sets = ("dance.mode=\"paper\"", "dance.budgets=[0.7]", "checkpoint.keep_last=0")
        self.train("published", *sets)
        lines = corpus.lines_of(self.folder / "published", "train")
        assert all(("gate_loss" in line) == (line["step"] > 30) for line in lines), lines
        before, after = lines[3]["flops"] - lines[2]["flops"], lines[-1]["flops"] - lines[-2]["flops"]
        assert abs(after / before - 2) < 0.01, (before, after)
        wanted = corpus.sums_of(self.folder / "published")
        self.train("published_2", *sets)
        for path in (self.folder / "published_2" / "checkpoints").glob("step_*"):
            if int(path.name.removeprefix("step_")) > 48:
                subprocess.run(["rm", "-r", path], check=True)
        self.train("published_2", *sets, resume=True)
        assert corpus.sums_of(self.folder / "published_2") == wanted
        self.run("extract", "published", "--budget", "flops=0.7", "--rule", "learned", "--output", "by_paper")
        record = json.loads((self.folder / "by_paper" / "extract.json").read_text())
        assert record["costs"]["flops"]["share"] <= 0.7, record
        kept = {(count(layer["heads"]), count(layer["channels"]), layer["experts"], layer["top_k"])
                for layer in record["layers"] if layer["top_k"]}
        assert len(kept) == 1 and kept.pop()[2:] == ("0-3", 2), record
        self.run("verify", "--config", "elastic.toml", "--steps", "4", "--layouts", "dp2 ep2", "--set", sets[0],
                 "--set", sets[1], "--set", "dance.expert_ranks=2")
        for more, wanted in ((["dance.budgets=[0.5,0.75]"], "takes one budget"), (["dance.budgets=[0.2]"], "heads and channels alone"),
                             (["dance.mode=\"score\""], "is not one of budget, paper")):
            _, errors = self.train("refused", *sets[:2], *more, code=2)
            assert wanted in errors, errors

    def works_without_a_joint_stage(self):
        _, errors = self.run("extract", "plain", "--budget", "flops=0.5", "--output", "pruned")
        assert "was trained without a joint stage" in errors, errors
        half, pruned = [json.loads((self.folder / name / "extract.json").read_text())["validation_loss"]
                        for name in ("half", "pruned")]
        assert half < pruned, (half, pruned)

    def refuses(self):
        for arguments, wanted in (
                (["--budget", "flops=0.01"], "the least that can be left is flops ="),
                (["--budget", "speed=0.5"], "is not a cost; known: flops"),
                (["--budget", "flops"], "write a cost and its limit")):
            _, errors = self.run("extract", "whole", *arguments, "--output", "refused", code=2)
            assert wanted in errors, errors
            assert not (self.folder / "refused").exists()
        _, errors = self.run("extract", "whole", "--budget", "flops=0.5", "--output", "half", code=2)
        assert "is there already" in errors, errors
        for sets, wanted in (
                (["dance.budgets=[1.5]"], "dance.budgets holds 1.5"),
                (["dance.begin=1.0"], "leaves no joint step"),
                (["dance.budgets=[0.05]"], "budget flops=0.05: the least that can be left"),
                (["parallel.use_distributed_optimizer=true"], "not with parallel.use_distributed_optimizer"),
                (["model.num_key_value_heads_per_layer=[1]"], "has 1 entries for model.num_hidden_layers = 2"),
                (["moe.experts_per_layer=[\"0-9\",\"\"]"], "write the experts that are left of 4")):
            _, errors = self.train("refused", *sets, code=2)
            assert wanted in errors, errors
        _, errors = self.train("whole", "dance.block_size=4", resume=True, code=2)
        assert "dance.block_size cannot change on --resume" in errors, errors


def count(numbers):
    """Of "0-2,5": 4."""
    ends = [[int(end) for end in part.split("-")] for part in numbers.split(",") if part]
    return sum(part[-1] - part[0] + 1 for part in ends)


def losses(tree):
    """Every "loss" in what eval has written, the first one of all tokens."""
    if isinstance(tree, dict):
        if "loss" in tree:
            yield tree["loss"]
        for value in tree.values():
            yield from losses(value)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    program = str(pathlib.Path(parser.parse_args().program).resolve())
    with tempfile.TemporaryDirectory() as folder:
        elastic = Elastic(program, folder)
        for step in (elastic.trains_smaller_models_in_its_second_half, elastic.begins_as_without,
                     elastic.resumes_exactly, elastic.goes_on_with_other_ranks, elastic.shows_the_family, elastic.takes_models_out,
                     elastic.takes_one_out_of_another,
                     elastic.trains_on_from_one, elastic.chooses_by_rules_and_domains,
                     elastic.trains_for_budgets_of_parameters, elastic.keeps_to_milliseconds,
                     elastic.measures_only_what_can_go, elastic.is_the_same_on_every_layout, elastic.follows_the_paper,
                     elastic.works_without_a_joint_stage,
                     elastic.refuses):
            step()
            print(f"{step.__name__}: ok", flush=True)


if __name__ == "__main__":
    main()

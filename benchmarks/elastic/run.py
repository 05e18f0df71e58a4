#!/usr/bin/env python3
"""One training that serves every size, against trainings of each size alone, against cutting a model that was trained
alone, and what the smaller models save where they run.

Everything is done once: start it as often as you like, it goes on where it was stopped. Writes
benchmarks/results/elastic.json; docs/elastic.md explains the rows.
"""
from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
from benchmarks import bench  # noqa: E402: the tree first
from benchmarks.elastic.family import EVAL_BATCHES, Family, newest  # noqa: E402
from benchmarks.elastic.page import PARTS, write_page  # noqa: E402
from benchmarks.learning import chart  # noqa: E402
from benchmarks.learning.runs import Records, Run, Trainings, options, train_all  # noqa: E402

CONFIG = bench.ROOT / "benchmarks" / "configs" / "elastic.toml"
WORK = bench.ROOT / "runs" / "elastic"
RECORDS = pathlib.Path(__file__).with_name("runs.json")
COMMAND = "make bench-elastic"
BUDGETS = (0.25, 0.5, 0.75)
DANCE = {"dance.budgets": list(BUDGETS), "dance.begin": 0.5}
# Of a training's steps: in which the rate falls.
DECAY_SHARE = 0.4
# Of a training's steps: how long a cut model is trained on, with a tenth of the rate.
TUNED_SHARE = 0.05
# Of parts that have fewer than the others.
NUM_SEEDS = {"experts": 2, "learned": 1, "published": 1, "routers": 1, "kinds": 1}
ROUTERS = {
    "top_k": {},
    "locmoe_plus": {"moe.router.type": "locmoe_plus", "moe.router.top_k": 1, "moe.locmoe_plus.temperature": 0.3,
                    "moe.locmoe_plus.output_weight": "probability"},
    "evomoe": {"moe.router.type": "dense_to_sparse", "moe.router.top_k": 1, "moe.dense_to_sparse.max_temperature": 1.0,
               "moe.dense_to_sparse.min_temperature": 0.1, "moe.dense_to_sparse.anneal_steps": 40,
               "evolve.num_experts": [1], "evolve.spawn_steps": [80]},
}
# Of 120 million parameters.
LARGE = {"model.hidden_size": 512, "model.num_hidden_layers": 6, "model.num_attention_heads": 8,
         "moe.intermediate_size": 1536}
# At the smoke scale: of how many steps, and what makes the model.
KIND_STEPS = 300
KINDS = {
    "encoder": {"model.num_encoder_layers": 4},
    "translator": {"model.num_encoder_layers": 2, "model.tie_word_embeddings": True},
}


def percent(budget: float) -> str:
    return f"{budget:.0%}"


def flops(budget: float) -> str:
    return f"flops={budget}"


def record_of(run: Run) -> dict:
    return run.record() | {"flops": run.lines("train")[-1]["flops"]}


class Experiment:
    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.seeds = arguments.seeds
        self.trainings = Trainings(str(arguments.build), CONFIG, WORK / "domains", eval_batches=EVAL_BATCHES)
        self.trainings.prepare(pathlib.Path(arguments.data), vocab_size=1024)
        self.records = Records(RECORDS)
        self.harness = bench.Bench("elastic", arguments.build.resolve(), sys.executable)

    def run_of(self, name: str, seed: int, settings: dict, steps: int | None = None) -> Run:
        steps = steps or self.arguments.steps
        every = {"train.seed": seed, "train.max_steps": steps, "lr_schedule.decay_steps": round(DECAY_SHARE * steps)} | settings
        return Run(name, seed, steps, WORK / "runs" / f"{name.replace(' ', '_').replace('%', '')}-{seed}-{steps}",
                   tuple(options(every)))

    def train(self, runs: list[Run]) -> list[dict]:
        train_all(self.trainings, self.records, runs, self.arguments.jobs, record_of)
        return [self.records.find(run) for run in runs]

    def joint_runs(self, name: str = "joint", settings: dict | None = None) -> list[Run]:
        runs = [self.run_of(name, seed, DANCE | (settings or {})) for seed in self.seeds]
        self.train(runs)
        for run in runs:  # models are taken out of the run itself, whoever trained it first
            self.trainings.train(run)
        return runs

    def families(self, runs: list[Run]) -> list[Family]:
        return [Family(self.trainings.program, run) for run in runs]

    def take_out(self, families: list[Family], limits, rules=("auto",)) -> None:
        """Several at a time; what has been taken out already is kept."""
        wanted = [(one, limit, rule) for one in families for limit in limits for rule in rules]
        with concurrent.futures.ThreadPoolExecutor(self.arguments.jobs) as pool:
            list(pool.map(lambda one: one[0].member(one[1], one[2]), wanted))

    def row(self, what: str, values: list[float], unit: str, *rest, **more) -> dict:
        return self.harness.row(what, values, unit, *rest, **({"command": COMMAND, "seeds": self.seeds, "steps": self.arguments.steps} | more))

    def alone_runs(self, families: list[Family], budget: float) -> list[Run]:
        """Of that size, its layers as alike as the budget allows."""
        shape = {} if budget == 1.0 else families[0].shape(flops(budget), "even")
        return [self.run_of(f"alone {percent(budget)}", seed, shape) for seed in self.seeds]

    def family(self) -> list[dict]:
        self.train([self.run_of("joint", seed, DANCE) for seed in self.seeds] + self.alone_runs([], 1.0))
        runs = self.joint_runs()
        families = self.families(runs)
        of_size = {budget: self.alone_runs(families, budget) for budget in (*BUDGETS, 1.0)}
        self.train([run for some in of_size.values() for run in some])
        alone = {budget: self.train(some) for budget, some in of_size.items()}
        joint = [self.records.find(run) for run in runs]
        rows = []
        for budget in (*BUDGETS, 1.0):
            losses = ([one["loss"] for one in joint] if budget == 1.0 else
                      [one.loss(flops(budget)) for one in families])
            goal = {"at_most": 1.0 if budget == 0.25 else 1.02}
            size = "a model as large" if budget < 1.0 else "the same model"
            rows.append(self.row(f"validation loss at {percent(budget)} of the FLOPs, of one run", losses, "nats per token",
                                 f"{size}, trained alone", [one["loss"] for one in alone[budget]], goal))
        self.draw_front(joint, families, alone)
        self.draw_kept(families[0])
        rows.append(self.row(
            "FLOPs of that run", [one["flops"] for one in joint], "FLOPs", "the four trained alone",
            [sum(of_size[i]["flops"] for of_size in alone.values()) for i in range(len(joint))], {"at_most": 0.60}))
        rows.append(self.row("a further budget: choosing, evaluating and writing it",
                             [one.member(flops(budget), is_timed=True)["seconds"] for one in families for budget in BUDGETS], "s", "10 s", 10.0,
                             {"at_most": 1.0}))
        return rows

    def draw_front(self, joint: list[dict], families: list[Family], alone: dict) -> None:
        """Means over the seeds."""
        mean = statistics.mean
        together = [(budget, mean(one.loss(flops(budget)) for one in families)) for budget in BUDGETS]
        series = {"one run": [*together, (1.0, mean(one["loss"] for one in joint))],
                  "each alone": [(budget, mean(one["loss"] for one in alone[budget])) for budget in (*BUDGETS, 1.0)]}
        (bench.ROOT / "docs" / "images" / "elastic_front.svg").write_text(
            chart.lines(f"Loss of every size, {self.arguments.steps} steps", "share of the FLOPs", "validation loss, nats per token",
                        series), encoding="utf-8")

    def draw_kept(self, family: Family) -> None:
        """What each layer keeps, of one seed."""
        folder = WORK / "family"
        subprocess.run(["rm", "-rf", folder], check=True)
        self.trainings.call("search", family.run.folder, "--output", folder, "--num-threads", 1, "--max-batches", EVAL_BATCHES)
        (bench.ROOT / "docs" / "images" / "elastic_kept.svg").write_bytes((folder / "kept.svg").read_bytes())

    def plain_families(self) -> list[Family]:
        """Of models that were trained alone, whole."""
        runs = self.alone_runs([], 1.0)
        self.train(runs)
        for run in runs:
            self.trainings.train(run)
        return self.families(runs)

    def choice(self) -> list[dict]:
        """P8, P10, P11 and P17 of the specification."""
        families, plain = self.families(self.joint_runs()), self.plain_families()
        rows = []
        limits = [flops(budget) for budget in BUDGETS]
        fine = [round(0.3 + 0.05 * i, 2) for i in range(14)]
        self.take_out(families, limits, ("auto", "learned", "proportional"))
        self.take_out(families, [flops(budget) for budget in fine])
        self.take_out(plain, limits, ("auto", "random", "proportional"))

        def mean_losses(some: list[Family], rule: str) -> list[float]:
            return [statistics.mean(one.loss(flops(budget), rule) for budget in BUDGETS) for one in some]

        proportional = mean_losses(families, "proportional")
        for rule, goal in (("auto", 1.0), ("learned", 1.003)):
            what = "the better of both" if rule == "auto" else "by gates"
            rows.append(self.row(f"P10: loss, mean of 25, 50, 75%: {what}", mean_losses(families, rule), "nats per token",
                                 "proportional", proportional, {"at_most": goal}))
        rows.append(self.row("P10: the same without a joint stage: units drawn at random", mean_losses(plain, "random"),
                             "nats per token", "proportional, by the size of weights", mean_losses(plain, "proportional"),
                             {"at_least": 1.01}))
        rows.append(self.row("P17: loss at 25% without a joint stage", [one.loss(flops(0.25)) for one in plain],
                             "nats per token", "with one", [one.loss(flops(0.25)) for one in families], {"at_least": 1.02}))
        ladder = [[one.loss(flops(budget)) for budget in BUDGETS] + [self.records.find(one.run)["loss"]]
                  for one in families]
        rows.append(self.row("P11: loss of a size, of that of the next smaller one: the largest of each run",
                             [max(b / a for a, b in zip(one, one[1:])) for one in ladder], "", "1", 1.0, {"at_most": 1.003}))
        steps = []
        for one in families:
            losses = [one.loss(flops(budget)) for budget in fine]
            steps.append(max(abs(b / a - 1) for a, b in zip(losses, losses[1:])))
        rows.append(self.row("P8: change of the loss between budgets 5 points apart, above 30%: the largest of each run",
                             [100 * step for step in steps], "%", "1%", 1.0, {"at_most": 1.0}))
        return rows

    def learned(self) -> list[dict]:
        """P10 once more: against a training whose smaller models are the proportional choice from the first joint step on."""
        ours = self.families(self.joint_runs())
        runs = self.joint_runs("joint fixed", {"dance.gate_lr": 0.0})
        fixed = self.families(runs)
        rows = [self.row(f"P10: validation loss at {percent(budget)}, gates learned", [one.loss(flops(budget)) for one in ours],
                         "nats per token", "trained on the proportional choice", [one.loss(flops(budget)) for one in fixed],
                         {"at_most": 1.003}) for budget in BUDGETS]
        whole, other = ([self.records.find(one.run)["loss"] for one in some] for some in (ours, fixed))
        return rows + [self.row("P10: validation loss of the whole model, gates learned", whole, "nats per token",
                                "trained on the proportional choice", other, {"at_most": 1.003})]

    def published(self) -> list[dict]:
        """P20: every layer alike, gates learned in each step at the whole model's price; they know one budget."""
        ours = self.families(self.joint_runs())
        runs = self.joint_runs("joint published", {"dance.mode": "paper", "dance.budgets": [0.5]})
        theirs = self.families(runs)
        limit = flops(0.5)

        def records(families: list[Family], key: str) -> list[float]:
            return [self.records.find(one.run)[key] for one in families]

        return [
            self.row("P20: validation loss at 50%, by the published gates", [one.loss(limit, "learned") for one in theirs],
                     "nats per token", "by ours, which serve 25 and 75%, too", [one.loss(limit, "learned") for one in ours],
                     {"at_least": 1.0}),
            self.row("P20: the same runs at 50%, every layer alike by importance", [one.loss(limit, "proportional") for one in theirs],
                     "nats per token", "in our runs", [one.loss(limit, "proportional") for one in ours]),
            self.row("P20: validation loss of the whole model, with the published gates", records(theirs, "loss"),
                     "nats per token", "with ours", records(ours, "loss")),
            self.row("P20: FLOPs of that training", records(theirs, "flops"), "FLOPs", "of ours", records(ours, "flops"))]

    def tuned(self, name: str, family: Family, limit: str, rule: str = "auto", teacher: str = "") -> Run:
        steps = max(1, round(TUNED_SHARE * self.arguments.steps))
        settings = {"lr_schedule.lr": 3e-4, "lr_schedule.min_lr": 3e-5, "lr_schedule.warmup_steps": 1,
                    "checkpoint.initial_load_path": str(family.member(limit, rule)["folder"].relative_to(bench.ROOT))}
        if teacher:
            settings["distillation.teacher_path"] = str(family.run.folder.relative_to(bench.ROOT))
        return self.run_of(f"{name} {limit} tuned", family.run.seed, settings, steps)

    def cut(self) -> list[dict]:
        """Each with the same steps of training after it."""
        joint, plain = self.families(self.joint_runs()), self.plain_families()
        others = {"magnitude": "pruned by the size of weights", "even": "scaled evenly"}
        rows = []
        self.take_out(plain, [flops(budget) for budget in BUDGETS], others)
        for budget in BUDGETS:
            limit = flops(budget)
            before = [one.loss(limit) for one in joint]
            after = [one["loss"] for one in self.train([self.tuned("joint", one, limit) for one in joint])]
            for rule, what in others.items():
                rows.append(self.row(f"validation loss at {percent(budget)}, as it is", before, "nats per token", what,
                                     [one.loss(limit, rule) for one in plain]))
                theirs = self.train([self.tuned(rule, one, limit, rule) for one in plain])
                rows.append(self.row(f"validation loss at {percent(budget)}, tuned", after, "nats per token", f"{what}, tuned",
                                     [one["loss"] for one in theirs], {"at_most": 1.0}))
            taught = self.train([self.tuned("taught", one, limit, teacher="itself") for one in joint])
            rows.append(self.row(f"P18: validation loss at {percent(budget)}, tuned with the whole model as teacher",
                                 [one["loss"] for one in taught], "nats per token", "tuned", after))
            alone = [one["loss"] for one in self.train(self.alone_runs(joint, budget))]
            closed = [(a - b["loss"]) / (a - c) for a, b, c in zip(before, taught, alone)]
            rows.append(self.row(f"P18: what that closes of the distance to the model that was trained alone, {percent(budget)}",
                                 closed, "of it", "all", 1.0, {"at_least": 0.3}))
        return rows

    def experts(self) -> list[dict]:
        """Budgets of parameters. A quarter cannot be reached by dropping experts alone."""
        settings = {"dance.resource": "parameters", "dance.budgets": [0.5, 0.75]}
        joint = self.families(self.joint_runs("joint parameters", settings))
        plain = self.plain_families()
        rows = []
        limits = ["parameters=0.5", "parameters=0.75"]
        self.take_out(joint, limits)
        self.take_out(plain, limits, ("use",))
        for budget in (0.5, 0.75):
            limit = f"parameters={budget}"
            after = [one["loss"] for one in self.train([self.tuned("joint", one, limit) for one in joint])]
            theirs = [one["loss"] for one in self.train([self.tuned("use", one, limit, "use") for one in plain])]
            rows.append(self.row(f"validation loss with {percent(budget)} of the parameters, as it is",
                                 [one.loss(limit) for one in joint], "nats per token", "without the experts that are used least",
                                 [one.loss(limit, "use") for one in plain]))
            rows.append(self.row(f"validation loss with {percent(budget)} of the parameters, tuned", after, "nats per token",
                                 "without the experts that are used least, tuned", theirs, {"at_most": 1.0}))
        rows += self.domain_rows(joint)
        changes = [abs(1 - one.member("parameters=0.5")["costs"]["flops"]["share"]) * 100 for one in joint]
        rows.append(self.row("P16: FLOPs that go with half of the parameters", changes, "%", "35%", 35.0, {"at_most": 1.0}))
        return rows

    def domain_rows(self, families: list[Family]) -> list[dict]:
        """P19: half of the parameters, taken out for one of four domains each."""
        own, others = [], []
        for family in families:
            names = family.run.lines("run")[0]["domains"][:4]
            losses = {name: self.losses_by_domain(family.member("parameters=0.5", domain=name)["folder"]) for name in names}
            own.append(statistics.mean(losses[name][name] for name in names))
            others.append(statistics.mean(losses[taken][name] for name in names for taken in names if taken != name))
        return [self.row("P19: loss on a domain, with the half of the parameters that was taken out for it", own, "nats per token",
                         "taken out for another domain", others, {"at_most": 1.0})]

    def losses_by_domain(self, folder: pathlib.Path) -> dict[str, float]:
        found = folder.with_name(folder.name + ".eval.json")
        if not found.exists():
            self.trainings.call("eval", "--checkpoint", folder, "--data", self.trainings.data, "--split", "valid",
                                "--num-threads", 1, "--max-batches", EVAL_BATCHES, "--output", found)
        score = json.loads(found.read_text(encoding="utf-8"))
        return {name: one["loss"] for name, one in score["by_domain"].items()}

    def served(self) -> list[dict]:
        """Of a larger model whose weights nobody has trained: speed does not ask for them."""
        large, of_large = self.run_of("large", 1, LARGE, 1), {"seeds": [1], "steps": 1}
        self.trainings.train(large)
        family = Family(self.trainings.program, large, eval_batches=1)
        whole, half, light = newest(large), family.member(flops(0.5)), family.member("parameters=0.5")
        parameters = large.lines("run")[0]["parameters"]

        def tokens_per_s(folder: pathlib.Path) -> float:
            begin = time.monotonic()
            out = self.trainings.call("eval", "--checkpoint", folder, "--data", self.trainings.data, "--num-threads", 1,
                                      "--max-batches", 12, "--batch-size", 16)
            return int(out.split()[-1]) / (time.monotonic() - begin)

        speeds = [(tokens_per_s(half["folder"]), tokens_per_s(whole)) for _ in range(5)]
        rows = [self.row("tokens/s of evaluation at 50% of the FLOPs, program start included", [a for a, _ in speeds],
                         "tokens/s", "the whole model", [b for _, b in speeds], {"at_least": 1.6}, **of_large)]
        size = sum(path.stat().st_size for path in light["folder"].glob("*.safetensors"))
        told = 4 * light["costs"]["parameters"]["cost"]
        rows.append(self.row("bytes of the file at 50% of the parameters", [size], "bytes", "4 a parameter of the cost model",
                             told, {"at_most": 1.02}, **of_large))
        saved = [self.peak_bytes(whole) - self.peak_bytes(light["folder"]) for _ in range(3)]
        away = [100 * abs(one / (4 * parameters - told) - 1) for one in saved]
        rows.append(self.row(f"peak memory that half of the parameters save, {saved[0] / 2**20:.0f} MiB: distance from the cost model",
                             away, "%", "2%", 2.0, {"at_most": 1.0}, **of_large))
        return rows

    def latency(self) -> list[dict]:
        """Of that larger model, too: a token of a small one is all overhead, whatever is left of it."""
        run = self.run_of("large", 1, LARGE, 1)
        self.trainings.train(run)
        whole, table, fast = newest(run), WORK / "latency.json", WORK / "fast"
        self.trainings.call("measure-latency", whole, "--output", table, "--num-threads", 1)
        subprocess.run(["rm", "-rf", fast], check=True)
        out = self.trainings.call("extract", run.folder, "--budget", "latency=0.75", "--target", table, "--output", fast,
                                  "--num-threads", 1, "--max-batches", 1)
        share = float(re.search(r"latency ([\d.]+)", out)[1])
        measured = [self.token_ms(fast) / self.token_ms(whole) for _ in range(9)]
        return [self.row("latency of a token, asked for 0.75", measured, "of the whole model's", "as reckoned", share,
                         {"at_most": 1.05}, seeds=[1], steps=1)]

    def peak_bytes(self, folder: pathlib.Path) -> int:
        command = [self.trainings.program, "eval", "--checkpoint", folder, "--data", self.trainings.data, "--num-threads", "1",
                   "--max-batches", "1", "--batch-size", "1"]
        process = subprocess.Popen(command, cwd=bench.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{' '.join(map(str, command))} ended with {process.returncode}")
        return usage.ru_maxrss * 1024

    def token_ms(self, folder: pathlib.Path) -> float:
        out = self.trainings.call("measure-latency", folder, "--num-threads", 1)
        return float(re.search(r"a token of the model ([\d.]+) ms", out)[1])

    def routers(self) -> list[dict]:
        """Two budgets: of a model whose tokens have one expert, embeddings and logits are more than a quarter."""
        rows, base = [], None
        for name, settings in ROUTERS.items():
            runs = self.joint_runs(f"halves {name}", settings | {"dance.budgets": [0.5, 0.75]})
            losses = [self.records.find(run)["loss"] for run in runs]
            half = [one.loss(flops(0.5)) for one in self.families(runs)]
            ratios = [a / b for a, b in zip(half, losses)]
            base = base or ratios
            rows.append(self.row(f"loss of half of a {name} model, of the whole one's", ratios, "", "top_k's", base,
                                 None if name == "top_k" else {"at_most": 1.02}))
        return rows

    def kinds(self) -> list[dict]:
        """Of one seed and few steps."""
        rows = []
        seed = self.seeds[0]
        of_one = {"seeds": [seed], "steps": KIND_STEPS}
        for name, settings in KINDS.items():
            is_translator = name == "translator"
            if is_translator and not self.prepare_pairs():
                bench.note("skipped: translator (no multi30k.* beside the data)")
                continue
            trainings = Trainings(str(self.arguments.build), CONFIG, WORK / ("pairs" if is_translator else "domains"),
                                  eval_batches=EVAL_BATCHES)
            joint, alone = (self.run_of(f"{name} {what}", seed, settings | more, KIND_STEPS)
                            for what, more in (("joint", DANCE), ("alone", {})))
            train_all(trainings, self.records, [joint, alone], self.arguments.jobs, record_of)
            for run in (joint, alone):  # whoever trained it first
                trainings.train(run)
            together, plain = Family(self.trainings.program, joint), Family(self.trainings.program, alone)
            rows.append(self.row(f"{name}: validation loss of the whole model", [self.records.find(joint)["loss"]], "nats per token",
                                 "trained alone", [self.records.find(alone)["loss"]], {"at_most": 1.02}, **of_one))
            for budget in BUDGETS:
                rows.append(self.row(f"{name}: validation loss at {percent(budget)}", [together.loss(flops(budget))],
                                     "nats per token", "pruned by the size of weights",
                                     [plain.loss(flops(budget), "magnitude")], {"at_most": 1.0}, **of_one))
        return rows

    def prepare_pairs(self) -> bool:
        folder = self.arguments.data.resolve().parent
        sides = [folder / f"multi30k.train.{language}" for language in ("en", "de")]
        if not all(path.exists() for path in sides):
            return False
        if not (WORK / "pairs" / "dataset.json").exists():
            self.trainings.call("prepare", "--output", WORK / "pairs", "--vocab-size", 1024, "--test-share", 0, "--pairs", *sides)
        return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=bench.ROOT / "../shared/data/domains.jsonl.gz", type=pathlib.Path)
    parser.add_argument("--build", default="build", type=pathlib.Path, help="folder of the program")
    parser.add_argument("--steps", type=int, default=800, help="of a training, 2,048 tokens each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="parts that are less weighty take the first of them")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    if not arguments.data.exists():
        raise SystemExit(f"skipped: {arguments.data} is not there; name a text by --data")
    experiment = Experiment(arguments)
    rows = bench.read_rows().get("elastic", [])
    for part in arguments.parts:
        experiment.seeds = arguments.seeds[:NUM_SEEDS.get(part, len(arguments.seeds))]
        found = getattr(experiment, part)()
        rows = [row for row in rows if row["part"] != part] + [row | {"part": part} for row in found]
        bench.write_rows("elastic", rows, are_all=True)
        write_page(rows)
    print(bench.table({"elastic": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

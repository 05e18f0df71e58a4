"""From one expert to four in the middle of a run: exact resumes on either side of the spawn, on one rank and on two,
from a dense checkpoint, and what is refused.

    evolve_test.py build/locus
"""
import argparse
import os
import pathlib
import socket
import subprocess
import tempfile

import corpus

ROOT = pathlib.Path(__file__).resolve().parents[2]
GROWING = """
[evolve]
num_experts = [1]
spawn_steps = [24]
diversify = "mask"
ratio = 0.2
"""


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Growing:
    def __init__(self, program, folder):
        self.program, self.folder = program, corpus.make(program, folder)
        settings = (self.folder / "run.toml").read_text()
        assert "[moe]\n" in settings
        settings = settings.replace("[moe]\n", "[moe.router]\ntype = \"dense_to_sparse\"\ntop_k = 1\n\n[moe]\n")
        (self.folder / "grow.toml").write_text(settings + GROWING)

    def train(self, run, *sets, resume=False, code=0):
        arguments = [word for one in (f"train.output_dir={run}", *sets) for word in ("--set", one)]
        return corpus.locus(self.program, "train", "--config", "grow.toml", *arguments,
                            *(["--resume"] if resume else []), cwd=self.folder, code=code)

    def grows(self):
        self.train("whole")
        run = self.folder / "whole"
        spawn, = corpus.lines_of(run, "spawn")
        assert (spawn["step"], spawn["num_experts_before"], spawn["num_experts"]) == (24, 1, 4), spawn
        assert [line["num_experts"] for line in corpus.lines_of(run, "run")] == [0, 4]
        before, after = [line["loss"] for line in corpus.lines_of(run, "valid") if line["step"] == 24]
        assert abs(after - before) < 0.5, (before, after)  # a fifth of three experts' weights is gone
        steps = [line["step"] for line in corpus.lines_of(run, "train")]
        assert steps == sorted(steps) and steps[-1] == 60, steps
        active = [line["experts_per_token"] for line in corpus.lines_of(run, "moe")]
        assert all(line["step"] > 24 for line in corpus.lines_of(run, "moe"))
        assert active[0] > 2 and active[-1] == 1, active  # all of them at first, one at the end

    def resumes_exactly(self):
        """Stopped before the spawn, right at it, and after it; the run goes on as if nothing had been."""
        whole = self.folder / "whole"
        for stop in (20, 24, 30):
            name = f"stopped_at_{stop}"
            # A run of the same settings that is killed: here, one whose later checkpoints are lost.
            self.train(name, "checkpoint.keep_last=0")
            checkpoints = self.folder / name / "checkpoints"
            for path in checkpoints.glob("step_*"):
                if int(path.name.removeprefix("step_")) > (stop if stop % 3 == 0 else stop - stop % 3):
                    subprocess.run(["rm", "-r", path], check=True)
            self.train(name, "checkpoint.keep_last=0", resume=True)
            assert corpus.sums_of(self.folder / name) == corpus.sums_of(whole), name

    def copies_leave_the_loss(self):
        self.train("copies", "evolve.diversify=copy", "moe.dense_to_sparse.noise=none",
                   "moe.dense_to_sparse.threshold=0.0")
        before, after = [line["loss"] for line in corpus.lines_of(self.folder / "copies", "valid") if line["step"] == 24]
        assert abs(after - before) < 1e-5, (before, after)

    def grows_by_slope(self):
        self.train("slope", "evolve.spawn_slope=1000.0", "evolve.slope_window=5", "evolve.spawn_steps=[50]")
        spawn, = corpus.lines_of(self.folder / "slope", "spawn")
        assert spawn["step"] == 15, spawn  # two windows after the warm-up

    def grows_twice(self):
        self.train("twice", "evolve.num_experts=[1,2]", "evolve.spawn_steps=[12,36]")
        run = self.folder / "twice"
        assert [(line["step"], line["num_experts"]) for line in corpus.lines_of(run, "spawn")] == [(12, 2), (36, 4)]
        checkpoints = run / "checkpoints"
        self.train("twice_again", "evolve.num_experts=[1,2]", "evolve.spawn_steps=[12,36]", "checkpoint.keep_last=0")
        again = self.folder / "twice_again"
        for path in (again / "checkpoints").glob("step_*"):
            if int(path.name.removeprefix("step_")) > 36:
                subprocess.run(["rm", "-r", path], check=True)
        self.train("twice_again", "evolve.num_experts=[1,2]", "evolve.spawn_steps=[12,36]", resume=True)
        assert corpus.sums_of(again) == corpus.sums_of(run), checkpoints

    def starts_from_a_dense_model(self):
        dense = ["moe.num_experts=0", "evolve.num_experts=[]", "evolve.spawn_steps=[]", "model.intermediate_size=48"]
        self.train("dense", *dense)
        loss = corpus.lines_of(self.folder / "dense", "valid")[-1]["loss"]
        self.train("upcycled", "checkpoint.initial_load_path=dense", "evolve.spawn_steps=[0]", "moe.num_experts=4",
                   "lr_schedule.lr=1e-5", "lr_schedule.min_lr=1e-6", "moe.dense_to_sparse.noise=none",
                   "evolve.diversify=copy")
        run = self.folder / "upcycled"
        assert corpus.lines_of(run, "spawn")[0]["step"] == 0
        assert abs(corpus.lines_of(run, "valid")[0]["loss"] - loss) < 0.1
        corpus.locus(self.program, "eval", "--checkpoint", "upcycled", cwd=self.folder)
        _, errors = self.train("narrow", "checkpoint.initial_load_path=dense", "evolve.spawn_steps=[0]",
                               "moe.intermediate_size=40", code=2)
        assert "model.intermediate_size = 40 contradicts dense (48)" in errors, errors

    def refuses(self):
        for sets, wanted in (
                (["evolve.spawn_steps=[3]"], "before the warm-up ends"),
                (["evolve.spawn_steps=[60]"], "is not before train.max_steps = 60"),
                (["moe.dense_to_sparse.min_temperature=0.0"], "must be above 0, logits are divided by it"),
                (["moe.dense_to_sparse.threshold=0.5"], "an even gate would leave no expert")):
            _, errors = self.train("refused", *sets, code=2)
            assert wanted in errors, errors
        _, errors = self.train("whole", "evolve.num_experts=[2]", resume=True, code=2)
        assert "evolve.num_experts cannot change on --resume" in errors, errors

    def is_the_same_on_two_ranks(self):
        """The experts appear on the ranks that share them."""
        losses = {}
        for name, ranks in (("one", 1), ("two", 2)):
            sets = [f"train.output_dir={name}", f"train.micro_batch_size={4 // ranks}",
                    f"parallel.expert_model_parallel_size={ranks}"]
            arguments = ["train", "--config", "grow.toml", *(word for one in sets for word in ("--set", one))]
            processes = []
            port = free_port()
            for rank in range(ranks):
                place = {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank),
                         "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                         "GROUP_RANK": "0"}
                processes.append(subprocess.Popen([self.program, *arguments], cwd=self.folder, text=True,
                                                  env=os.environ | (place if ranks > 1 else {}),
                                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE))
            for process in processes:
                _, errors = process.communicate(timeout=300)
                assert process.returncode == 0, errors
            losses[name] = [line["loss"] for line in corpus.lines_of(self.folder / name, "train")]
        apart = max(abs(one - two) for one, two in zip(losses["one"], losses["two"], strict=True))
        assert apart < 2e-3, losses

    def is_proven_on_layouts(self):
        """Also with the optimiser's state spread over ranks; and StableMoE across its stages."""
        verify = ["verify", "--config", str(ROOT / "configs" / "verify.toml"), "--steps", "4"]
        growing = ["lr_schedule.warmup_steps=0", "evolve.num_experts=[1]", "evolve.spawn_steps=[2]", "evolve.ratio=0.3",
                   "evolve.optimizer_state=masked_copy", "moe.shared_expert_intermediate_size=0",
                   "moe.router.capacity_factor=0", "moe.router.type=dense_to_sparse"]
        stages = ["moe.router.type=stablemoe", "moe.stablemoe.first_stage=0.5"]
        for layouts, sets in (("dp2 ep2 ep2dp2 ep4:dedup:chunks2 ep2dp2:zero1", growing), ("ep2 ep2dp2 ep4:placed", stages)):
            out, _ = corpus.locus(self.program, *verify, "--layouts", layouts,
                                  *(word for one in sets for word in ("--set", one)), cwd=self.folder)
            assert out.count("same") == len(layouts.split()), out


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program", type=lambda p: str(pathlib.Path(p).resolve()))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        growing = Growing(args.program, folder)
        for case in (growing.grows, growing.resumes_exactly, growing.copies_leave_the_loss, growing.grows_by_slope,
                     growing.grows_twice, growing.starts_from_a_dense_model, growing.refuses,
                     growing.is_the_same_on_two_ranks, growing.is_proven_on_layouts):
            case()
            print(f"{case.__name__}: ok", flush=True)


if __name__ == "__main__":
    main()

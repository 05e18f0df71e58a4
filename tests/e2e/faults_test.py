"""What happens when a rank is stopped, killed, told to end, or not like the others: nobody hangs, one message
says why, and training goes on where it can.

    faults_test.py build/locus build/fault_probe [--kills 2] [--seed 1] [--only NAME]
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import uuid

import corpus
import launchers

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS = ("locus-compute", "fault_probe")
RANKS = 4
SEQUENCES = 8
DEADLINE_S = 10
# Tests wait for deadlines most of their time.
SIDE_BY_SIDE = 4
# Beyond the deadline: to find out who is to blame and to end, on cores that are shared.
AFTER_S = 20
# Between two reports of a rank about itself (comm/watchdog.cpp).
REPORT_S = 1
BASE = {"train.global_batch_size": SEQUENCES, "train.micro_batch_size": SEQUENCES // RANKS, "train.num_threads": 1,
        "parallel.expert_model_parallel_size": 2, "checkpoint.interval": 5, "log.interval": 1, "eval.interval": 0,
        "lr_schedule.type": "constant", "comm.timeout_s": DEADLINE_S}
ENDLESS = {"train.max_steps": 1000000}


def words(settings):
    return [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]


class Run:
    """A training that has been started; all of it is gone at the end of `with`."""

    def __init__(self, command, folder, output, settings):
        self.mark = f"LOCUS_FAULTS_TEST={uuid.uuid4()}"
        name, value = self.mark.split("=")
        self.folder, self.run = folder, folder / output
        self.errors = open(folder / f"{output}.stderr", "w+", encoding="utf-8")
        if settings is not None:
            command = [*command, *words(BASE | {"train.output_dir": output} | settings)]
        self.launcher = subprocess.Popen(
            command, cwd=folder, env=os.environ | {name: value, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, stderr=self.errors, text=True, start_new_session=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for pid in self.ranks().values():
            kill(pid, signal.SIGKILL)
        if self.launcher.poll() is None:
            os.killpg(self.launcher.pid, signal.SIGKILL)
        self.launcher.communicate()
        self.errors.close()

    def ranks(self):
        """The processes of the ranks that are alive, by rank."""
        found = {}
        for path in pathlib.Path("/proc").iterdir():
            try:
                if not path.name.isdigit() or (path / "comm").read_text().strip() not in PROGRAMS:
                    continue
                environment = dict(entry.partition("=")[::2] for entry in (path / "environ").read_text().split("\0"))
            except OSError:
                continue
            name, value = self.mark.split("=")
            if environment.get(name) == value:
                rank = next(environment[key] for key in ("RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")
                            if key in environment)
                found[int(rank)] = int(path.name)
        return found

    def steps(self):
        return num_steps(self.run)

    def wait_for(self, condition, what, patience_s=120):
        end = time.monotonic() + patience_s
        while not condition():
            assert time.monotonic() < end, f"no {what} after {patience_s} s\n{self.stderr()}"
            assert self.launcher.poll() is None, f"the launcher ended before {what}\n{self.stderr()}"
            time.sleep(0.05)

    def wait_for_steps(self, num):
        self.wait_for(lambda: self.steps() >= num, f"step {num}")

    def end(self, patience_s=120):
        """(exit code, standard output)"""
        try:
            out, _ = self.launcher.communicate(timeout=patience_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {patience_s} s\n{self.stderr()}") from None
        return self.launcher.returncode, out

    def stderr(self):
        self.errors.flush()
        return pathlib.Path(self.errors.name).read_text(encoding="utf-8")

    def message(self):
        """The one error that the program tells."""
        text = self.stderr()
        assert text.count("locus: error") == 1, f"{text.count('locus: error')} messages\n{text}"
        return re.search(r"locus: error:.*(?:\n  .*)*", text)[0]


def kill(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def num_steps(run):
    path = run / "metrics.jsonl"
    steps = re.findall(r'"kind":"train","step":(\d+)', path.read_text()) if path.exists() else []
    return int(steps[-1]) if steps else 0


def final_loss(run):
    losses = [line for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
              if line["kind"] == "train"]
    return losses[-1]["step"], losses[-1]["loss"]


def check_exit_code(name, run, code, stderr_code):
    """mpirun passes the code on; torchrun reports it and has its own."""
    if name == "mpirun":
        assert code == stderr_code, f"exit code {code}, not {stderr_code}\n{run.stderr()}"
    else:
        assert re.search(rf"exitcode\s*: {stderr_code} ", run.stderr()), f"no exit code {stderr_code}\n{run.stderr()}"


def test_stopped_rank(test):
    """Also rank 0, which serves the store that the others meet in."""
    for stopped in (1, 0) if test.is_first else (0,):
        with test.start(f"stopped{stopped}", ENDLESS) as run:
            run.wait_for_steps(10)
            time.sleep(2 * REPORT_S)  # the steps may have gone by between two reports
            begin = time.monotonic()
            os.kill(run.ranks()[stopped], signal.SIGSTOP)
            run.wait_for(lambda: set(run.ranks()) <= {stopped} or run.launcher.poll() is not None,
                         "end of the other ranks", DEADLINE_S + AFTER_S)
            taken_s = time.monotonic() - begin
            for pid in run.ranks().values():  # a launcher waits long for one that is stopped
                kill(pid, signal.SIGKILL)
            code, _ = run.end()
            message = run.message()
            assert re.search(rf"\n  rank {stopped} on \S+ (has not entered|was lost in) .* at step \d+; "
                             r"last seen in .* step \d+, not heard of for \d+ s: stopped, dead or cut off",
                             message), message
            check_exit_code(test.name, run, code, 4)
            test.say(f"rank {stopped} stopped: the others ended after {taken_s:.1f} s (deadline {DEADLINE_S} s)\n"
                     f"{message}")


def test_ranks_that_do_not_do_the_same(test):
    others = r"ranks 0, 2, 3 on \S+"
    for mode, message in (
            ("size", rf"rank 1 on \S+ calls all_gather of 25 float32 where {others} call all_gather of 12 float32"),
            ("operation",
             rf"rank 1 on \S+ calls all_reduce of 12 float32 \(sum\) where {others} call all_gather of 12 float32"),
            ("type", rf"rank 1 on \S+ calls all_gather of 6 int32 where {others} call all_gather of 6 float32"),
            ("absent", r"rank 1 on \S+ has not entered all_reduce of group world \(optimizer step\) at step 7; "
                       r"last seen in optimizer step at step 7\n"),
            ("error", "locus: error: a file of rank 1 is missing")):
        begin = time.monotonic()
        with Run([*test.launch, test.probe, mode, str(DEADLINE_S)], test.folder, mode, None) as run:
            code, _ = run.end(DEADLINE_S + AFTER_S)
            assert re.search(message, run.message()), f"{mode}: {run.message()}"
            check_exit_code(test.name, run, code, 3 if mode == "error" else 4)
            test.say(f"{mode}: {time.monotonic() - begin:.1f} s")


def test_rank_that_never_starts(test):
    """The last one serves a store to the others."""
    for absent in (1, RANKS - 1) if test.is_first else (1,):
        with test.start(f"absent{absent}", ENDLESS, program=test.wrapper(absent, "exec sleep 1000")) as run:
            begin = time.monotonic()
            code, _ = run.end(DEADLINE_S + AFTER_S)
            message = run.message()
            assert f"rank {absent} has not" in message or "the 4 ranks have not met within" in message, message
            check_exit_code(test.name, run, code, 4)
            test.say(f"rank {absent} never started: {time.monotonic() - begin:.1f} s\n{message}")


def test_different_settings(test):
    for settings, message, code in (
            ({"lr_schedule.lr": 0.5}, r"rank 2 on \S+ and rank 0 have different settings: lr_schedule.lr = 0.5 there", 2),
            ({"data.train": ["other"]}, r"rank 2 on \S+ and rank 0 have different training data: dataset 1", 3),
            ({"parallel.expert_model_parallel_size": 1},
             r"rank 2 on \S+ and rank 0 have different settings: parallel.expert_model_parallel_size = 1 there", 2),
            ({"parallel.expert_model_parallel_size": 3}, r"parallel.expert_model_parallel_size = 3 does not divide", 2)):
        own = 'set -- "$@" ' + " ".join(f"'{word}'" for word in words(settings))
        with test.start("different", {"train.max_steps": 3}, program=test.wrapper(2, own)) as run:
            ended, _ = run.end(60)
            assert re.search(message, run.message()), run.message()
            check_exit_code(test.name, run, ended, code)


def test_terminated_rank(test):
    whole = test.whole(40)
    for terminated in ([3], list(range(RANKS))):
        output = f"terminated{len(terminated)}"
        with test.start(output, ENDLESS) as run:
            run.wait_for_steps(4)
            ranks = run.ranks()
            for rank in terminated:
                kill(ranks[rank], signal.SIGTERM)
            code, _ = run.end()
            assert run.stderr().count("locus: interrupted by signal 15") == 1, run.stderr()
            assert "locus: error" not in run.stderr(), run.stderr()
            check_exit_code(test.name, run, code, 143)
        lines = [json.loads(line) for line in (run.run / "metrics.jsonl").read_text().splitlines()]
        assert lines[-1]["kind"] == "end" and lines[-1]["reason"] == "interrupted", lines[-1]
        latest = (run.run / "checkpoints" / "latest").read_text().strip()
        assert latest == f"step_{lines[-1]['step']:08}", (latest, lines[-1])
        left = [path.name for path in (run.run / "checkpoints").iterdir() if path.name.startswith(".")]
        assert not left, left
        if lines[-1]["step"] < 40:
            with test.start(output, {"train.max_steps": 40}) as run:
                assert run.end()[0] == 0, run.stderr()
            assert close(final_loss(run.run), whole), (final_loss(run.run), whole)


def close(found, wanted):
    return found[0] == wanted[0] and abs(found[1] - wanted[1]) <= 1e-5 * abs(wanted[1])


def test_killed_ranks_under_torchrun(test):
    """torchrun starts all anew, from the last checkpoint: by itself, and to the same end."""
    if test.name != "torchrun":
        return
    steps = 60 * (test.kills + 1)
    whole = test.whole(steps)
    launch = [*test.launch, f"--max-restarts={max(3, test.kills)}"]
    with test.start("killed", {"train.max_steps": steps}, launch=launch) as run:
        last = 0
        for done in range(test.kills):
            # Somewhere after a new checkpoint, so that each life brings the run on.
            goal = last + 6 + test.draw.randint(0, 30)
            run.wait_for(lambda: run.steps() >= goal and len(run.ranks()) == RANKS, f"step {goal}")
            time.sleep(test.draw.random() * 0.2)
            ranks = run.ranks()
            rank = test.draw.choice(sorted(ranks))
            last = run.steps()
            assert last < steps, f"only {done} kills fell into the run"
            kill(ranks[rank], signal.SIGKILL)
            gone = set(ranks.values())
            run.wait_for(lambda: not gone & set(run.ranks().values()), f"end of the ranks after kill {done + 1}", 60)
            if test.kills > 5:
                test.say(f"kill {done + 1}: rank {rank} at step {last}")
        code, _ = run.end(300)
        assert code == 0, run.stderr()
    assert close(final_loss(run.run), whole), (final_loss(run.run), whole)
    test.say(f"{test.kills} kills in {steps} steps; loss {final_loss(run.run)[1]!r}, undisturbed {whole[1]!r}")


def test_requeued_slurm_job(test):
    if test.name != "torchrun":  # once: it has a launcher of its own
        return
    if not all(shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
               for name in ("munged", "slurmctld", "slurmd", "srun")):
        test.say("skipped: Slurm is not installed")
        return
    whole = test.whole(40)
    # Sizes of this machine in place of those in the script.
    sbatch = [str(ROOT / "tools" / "local_slurm.sh"), "sbatch", "--wait", "--nodes=1", f"--ntasks-per-node={RANKS}",
              "--cpus-per-task=1", "--gpus-per-node=0", "--output=job.txt",
              str(ROOT / "examples" / "cluster" / "slurm.sbatch")]
    with test.start_batch("requeued", {"train.max_steps": 40}, sbatch) as run:
        run.wait_for_steps(8)
        kill(run.ranks()[2], signal.SIGKILL)
        code, _ = run.end(240)
        job = (test.folder / "job.txt").read_text()
        assert code == 0, f"exit code {code}\n{run.stderr()}\n{job}"
    assert "a rank was lost: the job is queued again" in job, job
    restarts = re.findall(r"continuing from \S+ \(step (\d+)\)", job)
    assert len(restarts) == 1 and int(restarts[0]) >= 5, job
    assert job.count("locus: error") == 1 and "rank 2 on" in job, job
    assert close(final_loss(run.run), whole), (final_loss(run.run), whole)
    test.say(f"Slurm queued the job again: it went on from step {restarts[0]} to the same loss")


class Test:
    def __init__(self, args, folder, name, launch, is_first):
        self.is_first = is_first  # the slow variants are tried under one launcher
        self.program, self.probe, self.kills = args.program, args.probe, args.kills
        self.folder, self.name, self.launch = folder, name, launch
        self.draw = random.Random(args.seed)
        self.wholes, self.lock = {}, threading.Lock()

    def say(self, text):
        print(f"{self.name}: {text}", flush=True)

    def start(self, output, settings, launch=None, program=None):
        command = [*(launch or self.launch), program or self.program, "train", "--config", "run.toml", "--resume"]
        return Run(command, self.folder, output, settings)

    def wrapper(self, rank, command):
        """In place of the program: one that runs a command first on this rank."""
        path = self.folder / f"wrapper-{uuid.uuid4()}.sh"
        path.write_text(f'#!/bin/sh\nif [ "${{RANK:-$OMPI_COMM_WORLD_RANK}}" = {rank} ]; then {command}; fi\n'
                        f'exec {self.program} "$@"\n')
        path.chmod(0o755)
        return str(path)

    def start_batch(self, output, settings, sbatch):
        os.environ["LOCUS"] = self.program
        return Run([*sbatch, "run.toml"], self.folder, output, settings)

    def whole(self, steps):
        """The last step and loss of the undisturbed run."""
        with self.lock:
            if steps not in self.wholes:
                with self.start(f"whole{steps}", {"train.max_steps": steps}) as run:
                    assert run.end(300)[0] == 0, run.stderr()
                self.wholes[steps] = final_loss(run.run)
            return self.wholes[steps]


# The longest first.
TESTS = (test_ranks_that_do_not_do_the_same, test_terminated_rank, test_killed_ranks_under_torchrun,
         test_requeued_slurm_job, test_different_settings, test_stopped_rank, test_rank_that_never_starts)


def main():
    parser = argparse.ArgumentParser()
    for name in ("program", "probe"):
        parser.add_argument(name, type=lambda p: str(pathlib.Path(p).resolve()))
    parser.add_argument("--kills", type=int, default=2, help="of random ranks under torchrun")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="tests with this in their names")
    args = parser.parse_args()
    found = [(name, launch(RANKS)) for name, launch in launchers.found()]
    if not found:
        print("skipped: there is neither torchrun nor Open MPI's mpirun")
        return 77
    with tempfile.TemporaryDirectory() as scratch, concurrent.futures.ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        folder = pathlib.Path(scratch) / "corpus"
        folder.mkdir()
        corpus.make(args.program, folder)
        corpus.locus(args.program, "prepare", "--output", "other", "--tokenizer", "data/tokenizer.model",
                     "--split-seed", "2", "--valid-share", "0.1", "--test-share", "0.1", "text.jsonl", cwd=folder)
        launched = []
        for number, (name, launch) in enumerate(found):
            own = folder.with_name(name)
            shutil.copytree(folder, own)
            launched.append(Test(args, own, name, launch, is_first=number == 0))
        running = [pool.submit(run_test, one, test) for one in TESTS if args.only in one.__name__ for test in launched]
    failed = [one for one in running if one.exception() is not None]
    return 1 if failed else 0


def run_test(one, test):
    begin = time.monotonic()
    try:
        one(test)
    except BaseException:
        test.say(f"{one.__name__}: FAILED\n{traceback.format_exc()}")
        raise
    test.say(f"{one.__name__}: ok, {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    sys.exit(main())

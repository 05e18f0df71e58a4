"""Training on several ranks, under the launchers that this machine has: the same losses as one rank,
checkpoints that every layout reads, and one message where something is wrong.

    ranks_test.py build/locus
"""
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import corpus
import launchers

PROGRAM = str(pathlib.Path(sys.argv[1]).resolve())
ROOT = pathlib.Path(__file__).resolve().parents[2]
SEQUENCES = 8
BASE = {"train.global_batch_size": SEQUENCES, "train.num_threads": 1, "log.interval": 2, "eval.interval": 100,
        "lr_schedule.type": "constant", "moe.router.capacity_factor": 1.0, "model.hidden_dropout": 0.1,
        "checkpoint.keep_last": 0, "comm.timeout_s": 60}


class Training:
    def __init__(self, scratch):
        self.folder = corpus.make(PROGRAM, scratch)

    def __call__(self, output, max_steps, ranks=1, launch=lambda _: [], **more):
        settings = BASE | {"train.output_dir": str(output), "train.max_steps": max_steps,
                           "train.micro_batch_size": SEQUENCES // ranks} | {
                               key.replace("__", "."): value for key, value in more.items()}
        options = [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]
        return subprocess.run([*launch(ranks), PROGRAM, "train", "--config", "run.toml", "--resume", *options],
                              cwd=self.folder, capture_output=True, text=True, timeout=300)


def loss(done):
    assert done.returncode == 0, done.stderr[-3000:]
    found = re.findall(r"(?m)^finished step=(\d+) .*loss=(\S+) ", done.stdout)
    assert len(found) == 1, f"not one line of result: {done.stdout}"
    return float(found[0][1])


def test_losses(train, scratch, name, launch):
    alone = loss(train(scratch / "alone", 6))
    for ranks, ep, placement in ((2, 2, "within_node"), (4, 2, "across_nodes"), (4, 1, "within_node")):
        run = scratch / f"{name}-{ranks}-{ep}"
        several = loss(train(run, 6, ranks, launch, parallel__expert_model_parallel_size=ep,
                             parallel__ep_placement=placement,
                             comm__emulate__nodes=2 if placement == "across_nodes" else 0,
                             comm__emulate__latency_us=100, comm__emulate__gbit_per_s=1))
        assert abs(several - alone) < 1e-5 * alone, (name, ranks, ep, several, alone)
        assert (run / "logs" / f"rank_{ranks - 1:04}.log").exists()
        assert len((run / "metrics.csv").read_text().splitlines()) == 4, "a head and three lines"


def test_any_layout_resumes_any_other(train, scratch, name, launch):
    undisturbed = loss(train(scratch / "undisturbed", 10))
    run = scratch / f"{name}-chain"
    chain = ((2, 1, 1, False), (4, 4, 4, False), (6, 4, 2, True), (8, 8, 4, True), (10, 1, 1, False))
    for max_steps, ranks, ep, distributed in chain:
        # Started without a launcher where there is one rank.
        last = loss(train(run, max_steps, ranks, launch if ranks > 1 else (lambda _: []),
                          parallel__expert_model_parallel_size=ep,
                          parallel__use_distributed_optimizer=distributed))
    assert abs(last - undisturbed) < 1e-5 * undisturbed, (last, undisturbed)
    shards = sorted(path.name for path in (run / "checkpoints").glob("step_00000008/optimizer-*"))
    assert len(shards) == 8, shards
    shown = subprocess.run([PROGRAM, "eval", "--checkpoint", run / "checkpoints" / "step_00000008"],
                           cwd=train.folder, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr


def test_one_message_of_what_is_wrong(train, scratch, name, launch):
    cases = [
        (2, {"parallel__expert_model_parallel_size": 3}, "parallel.expert_model_parallel_size = 3", 2),
        (2, {"train__micro_batch_size": 8}, "times the 2 ranks", 2),
        (2, {"comm__emulate__nodes": 3}, "comm.emulate.nodes = 3 does not divide the 2 ranks", 2),
        (2, {"data__train": [str(scratch / "nothing")]}, str(scratch / "nothing"), 3)]
    for ranks, settings, message, code in cases:
        done = train(scratch / f"{name}-wrong", 2, ranks, launch, **settings)
        assert done.returncode != 0 and message in done.stderr, (settings, done.stderr[-2000:])
        told = done.stderr.count("locus: error")
        assert told == 1, f"{told} messages:\n{done.stderr[-3000:]}"
        if name == "mpirun":
            assert done.returncode == code, (settings, done.returncode)
    taken = train(scratch / f"{name}-2-2", 6, 2, launch, train__output_dir=str(ROOT / "docs"))
    assert taken.returncode != 0 and taken.stderr.count("locus: error") == 1, taken.stderr[-2000:]


def main():
    found = list(launchers.found())
    if not found:
        print("skipped: there is neither torchrun nor Open MPI's mpirun")
        return 77
    for name, launch in found:
        with tempfile.TemporaryDirectory() as folder:
            scratch = pathlib.Path(folder)
            train = Training(scratch)
            for test in (test_losses, test_any_layout_resumes_any_other, test_one_message_of_what_is_wrong):
                test(train, scratch, name, launch)
                print(f"{test.__name__} under {name}: ok", flush=True)
    print("passed under " + " and ".join(name for name, _ in found))
    return 0


if __name__ == "__main__":
    sys.exit(main())

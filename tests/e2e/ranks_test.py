"""Training on several ranks, under the launchers that this machine has: the same losses as one rank,
checkpoints that every layout reads, and one message where something is wrong.

    ranks_test.py build/locus
"""
import concurrent.futures
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback

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


def test_placed_sequences(train, scratch, name, launch):
    """On the nodes of their domains' experts: fewer bytes, the same losses; a run that goes on is the same to the bit."""
    common = {"parallel__expert_model_parallel_size": 4, "comm__emulate__nodes": 2, "moe__router__type": "locmoe",
              "moe__router__top_k": 1, "moe__num_domain_groups": 2, "log__interval": 2, "log__router_interval": 1,
              "log__domain_interval": 2, "checkpoint__interval": 5}
    unplaced = loss(train(scratch / f"{name}-unplaced", 14, 4, launch, **common))
    placed, parted = scratch / f"{name}-placed", scratch / f"{name}-parted"
    whole = loss(train(placed, 14, 4, launch, parallel__place_sequences=True, **common))
    assert abs(whole - unplaced) < 1e-5 * unplaced, (whole, unplaced)
    for steps in (7, 14):
        loss(train(parted, steps, 4, launch, parallel__place_sequences=True, **common))
    for one in sorted((placed / "checkpoints" / "step_00000014").glob("model*.safetensors")):
        assert one.read_bytes() == (parted / "checkpoints" / "step_00000014" / one.name).read_bytes(), one.name

    def lines(folder, kind):
        found = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        return [line for line in found if line["kind"] == kind and line["step"] > 10]

    def inter_bytes(folder):
        return sum(line["inter_bytes"] for line in lines(folder, "exchange"))

    assert inter_bytes(placed) < 0.7 * inter_bytes(scratch / f"{name}-unplaced"), "nothing came nearer"
    for line in lines(placed, "placement"):
        assert line["expected_on_node"] > line["unplaced_on_node"], line


def test_moving_experts(train, scratch, name, launch):
    """To the nodes of their tokens: the same losses, also where a run goes on, and on other layouts."""
    # Of eight experts, four on each node, one of each domain is on the other's node.
    common = {"comm__emulate__nodes": 2, "moe__router__type": "locmoe", "moe__router__top_k": 1,
              "moe__num_experts": 8, "moe__domain_groups": ["left = 0, 4-6", "right = 1-3, 7"],
              "log__interval": 2, "log__router_interval": 1, "log__domain_interval": 2, "checkpoint__interval": 5}
    ep4 = {"parallel__expert_model_parallel_size": 4, "parallel__place_sequences": True}
    still = loss(train(scratch / f"{name}-still", 40, 4, launch, **common, **ep4))
    moving = {"parallel__place_experts_interval": 16}
    run, parted = scratch / f"{name}-moving", scratch / f"{name}-moving-parted"
    whole = loss(train(run, 40, 4, launch, **common, **ep4, **moving))
    assert abs(whole - still) < 1e-5 * still, (whole, still)
    for steps in (23, 40):
        loss(train(parted, steps, 4, launch, **common, **ep4, **moving))
    for one in sorted((run / "checkpoints" / "step_00000040").glob("*.safetensors")):
        assert one.read_bytes() == (parted / "checkpoints" / "step_00000040" / one.name).read_bytes(), one.name
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    moves = [line for line in lines if line["kind"] == "migration"]
    assert any(line["moved"] > 0 for line in moves), moves
    assert moves[-1]["expert_of_slot"] != list(range(8)), moves[-1]
    for line in moves:
        assert sorted(line["expert_of_slot"]) == list(range(8)), line
        assert line["saves_bytes"] >= line["costs_bytes"], line  # equal where experts move within a node
    further = loss(train(scratch / f"{name}-still", 42, 4, launch, **common, **ep4))
    for ranks, ep in ((2, 2), (1, 1)):  # from the same checkpoint
        shutil.rmtree(scratch / "other", ignore_errors=True)
        shutil.copytree(run, scratch / "other")
        other = loss(train(scratch / "other", 42, ranks, launch if ranks > 1 else (lambda _: []),
                           **(common if ranks > 1 else common | {"comm__emulate__nodes": 0}), **moving,
                           parallel__expert_model_parallel_size=ep))
        assert abs(other - further) < 1e-5 * further, (ranks, other, further)


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


def run_tests(name, launch):
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        train = Training(scratch)
        for test in (test_losses, test_any_layout_resumes_any_other, test_placed_sequences, test_moving_experts,
                     test_one_message_of_what_is_wrong):
            begin = time.monotonic()
            try:
                test(train, scratch, name, launch)
            except BaseException:
                print(f"{test.__name__} under {name}: FAILED\n{traceback.format_exc()}", flush=True)
                raise
            print(f"{test.__name__} under {name}: ok, {time.monotonic() - begin:.0f} s", flush=True)


def main():
    found = list(launchers.found())
    if not found:
        print("skipped: there is neither torchrun nor Open MPI's mpirun")
        return 77
    # Side by side: launchers and ranks start for as long as they train.
    with concurrent.futures.ThreadPoolExecutor(len(found)) as pool:
        running = [pool.submit(run_tests, *launcher) for launcher in found]
    if any(one.exception() is not None for one in running):
        return 1
    print("passed under " + " and ".join(name for name, _ in found))
    return 0


if __name__ == "__main__":
    sys.exit(main())

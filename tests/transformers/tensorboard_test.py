"""TensorBoard's own reader finds every number of metrics.jsonl in the events, in groups that fold well.

    tensorboard_test.py build/locus
"""
import json
import math
import pathlib
import sys
import tempfile

import peers

peers.needs("tensorboard.backend.event_processing.event_accumulator")
import corpus  # noqa: E402


def read_events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0})
    events.Reload()
    return events


def test_every_number_arrives(run):
    events = read_events(run / "tensorboard")
    values = {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]

    def expect(tag, step, value):
        assert math.isclose(values[tag][step], value, rel_tol=1e-6, abs_tol=1e-30), (tag, step, value)

    for line in lines:
        step = line["step"]
        if line["kind"] == "train":
            for key in ("loss", "perplexity", "aux_loss", "lr", "grad_norm", "tokens"):
                expect(f"train/{key}", step, line[key])
            for key in ("tokens_per_s", "step_time_s", "time_forward_s", "rss_bytes"):
                expect(f"speed/{key}", step, line[key])
        elif line["kind"] == "moe":
            for key in ("load_cv", "entropy", "balance_loss"):
                expect(f"moe_{key}/layer_{line['layer']:02}", step, line[key])
            tag = f"moe_tokens_per_expert/layer_{line['layer']:02}"
            histogram = next(event for event in events.Histograms(tag) if event.step == step).histogram_value
            assert list(histogram.bucket) == line["tokens_per_expert"], (tag, step)
        elif line["kind"] == "valid":
            expect("valid/loss", step, line["loss"])
            for domain, scores in line["by_domain"].items():
                expect(f"valid_loss_by_domain/{domain}", step, scores["loss"])


def test_groups_hold_what_is_looked_at_together(run):
    tags = read_events(run / "tensorboard").Tags()
    groups = {}
    for tag in tags["scalars"] + tags["histograms"]:
        groups.setdefault(tag.split("/")[0], []).append(tag)
    assert all(len(members) <= 12 for members in groups.values()), groups
    assert {"train", "speed", "valid", "moe_load_cv", "moe_tokens_per_expert", "valid_loss_by_domain"} <= set(groups)
    assert all(tag.count("/") == 1 for members in groups.values() for tag in members), groups


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = corpus.make(str(pathlib.Path(sys.argv[1]).resolve()), name)
        corpus.locus(str(pathlib.Path(sys.argv[1]).resolve()), "train", "--config", "run.toml", "--set",
                     "log.tensorboard=true", cwd=folder)
        peers.run_tests([test_every_number_arrives, test_groups_hold_what_is_looked_at_together], folder / "run")


if __name__ == "__main__":
    main()

"""Tests of benchmarks/cluster: what is read, what is kept, and the search for the rates of links."""
import contextlib
import io
import json
import pathlib
import sys
import tempfile
import time
import types
import unittest
import unittest.mock

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from benchmarks.cluster import measured, reduction, step_time  # noqa: E402: the tree first
from benchmarks.themes import cluster  # noqa: E402


def quietly(work):
    """The result of `work`, and what it said."""
    with contextlib.redirect_stderr(io.StringIO()) as said:
        return work(), said.getvalue()


def ends(pid):
    """Whether a process is gone, or will be within seconds: its pipes close a moment before."""
    for _ in range(1000):
        try:
            if ") Z " in pathlib.Path("/proc", str(pid), "stat").read_text():
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


def steps_of(seconds, waited_s):
    exchange = {key: [0.0] for key in measured.EXCHANGE_KEYS}
    return measured.Steps([seconds], [0.0], exchange | {
        "inter_bytes": [4e6], "plan_s": [waited_s / 4], "exposed_s": [waited_s * 3 / 4]})


class Metrics(unittest.TestCase):
    def setUp(self):
        self.path = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()), "metrics.jsonl")

    def write(self, steps):
        lines = [{"kind": "run", "parameters": 7}]
        for step in steps:
            for layer in (0, 1):
                lines.append({"kind": "exchange", "step": step, "layer": layer, "type": "dedup", "chunks": 2,
                              "inter_bytes": 10.0 * step, "least_inter_bytes": 10.0 * step, "inter_messages": 3,
                              "flight_s": 0.2, "exposed_s": 0.1 * (layer + 1), "plan_s": 0.05})
            lines.append({"kind": "train", "step": step, "step_time_s": float(step), "time_reduce_s": 0.5})
        lines.append({"kind": "end", "peak_rss_bytes": 5})
        self.path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def test_layers_are_summed_and_the_warm_up_is_left_out(self):
        self.write([1, 2, 3, 4])
        steps = measured.read_steps(self.path)
        self.assertEqual((steps.seconds, steps.peak_rss_bytes), ([3.0, 4.0], 5))
        self.assertEqual(steps.exchange["inter_bytes"], [60.0, 80.0])
        self.assertAlmostEqual(steps.waited_s, 0.4)
        self.assertAlmostEqual(steps.waited_share, (0.4 / 3 + 0.4 / 4) / 2)
        self.assertEqual(steps.chosen, "dedup, 2 parts")
        self.assertEqual(steps.parameters, 7)

    def test_a_run_without_steps_is_an_error(self):
        self.write([1, 2])
        with self.assertRaisesRegex(RuntimeError, "no step after the first 2"):
            measured.read_steps(self.path)


class Kept(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        (self.folder / "locus").write_text("a program")
        self.calls = 0

    def once(self, key, fresh=False, part="part"):
        bench = types.SimpleNamespace(build=self.folder, fresh=fresh)

        def measure():
            self.calls += 1
            return {"number": self.calls}

        found = measured.Measurements(bench, part, self.folder / "kept").once("name", key, measure)
        return found["number"]

    def test_is_not_measured_again_while_nothing_changes(self):
        self.assertEqual([quietly(lambda: self.once({"rate": 5}))[0] for _ in range(3)], [1, 1, 1])

    def test_is_measured_again_for_another_key_and_another_program(self):
        quietly(lambda: self.once({"rate": 5}))
        self.assertEqual(self.once({"rate": 6}), 2)
        (self.folder / "locus").write_text("another program")
        self.assertEqual(self.once({"rate": 6}), 3)

    def test_fresh_forgets_its_own_part(self):
        quietly(lambda: self.once({}))
        quietly(lambda: self.once({}, part="other"))
        self.assertEqual(self.once({}, fresh=True), 3)
        self.assertEqual(quietly(lambda: self.once({}, part="other"))[0], 2)

    def test_a_search_that_fails_leaves_no_tries(self):
        bench = types.SimpleNamespace(build=self.folder, fresh=False)
        kept = measured.Measurements(bench, "part", self.folder / "kept")
        kept.once("other", {}, dict)
        with self.assertRaisesRegex(RuntimeError, "busy"), kept.searching("search"):
            kept.once("search-0", {}, dict)
            raise RuntimeError("busy")
        self.assertEqual([path.name for path in kept.folder.iterdir()], ["part.other.json"])

    def test_a_skipped_part_keeps_its_stored_rows(self):
        stored = {"cluster": [{"part": "gone", "machine": "here", "what": 1},
                              {"part": "gone", "machine": "there", "what": 2},
                              {"part": "run", "machine": "here", "what": 3}]}

        def skip(*_):
            raise measured.Skipped("no root")

        parts = {"gone": types.SimpleNamespace(rows=skip), "run": types.SimpleNamespace(rows=lambda *_: ["new"])}
        with unittest.mock.patch.multiple(cluster, PARTS=parts, Measurements=lambda *_: None, machine=lambda: "here",
                                          read_rows=lambda: stored):
            rows, said = quietly(lambda: cluster.run(types.SimpleNamespace(parts=None)))
        self.assertEqual(rows, [stored["cluster"][0], "new"])
        self.assertIn("skipped: cluster, gone (no root)", said)


class Search(unittest.TestCase):
    def test_finds_the_rate_at_which_flat_waits_for_three_tenths_of_a_step(self):
        # 40 ms of a step wait for slower ranks whatever the rate; the links move less than is counted.
        def measure(mbit):
            links_s = 0.0 if mbit is None else 5.0 / mbit
            return steps_of(0.5 + links_s, 0.04 + links_s)

        mbit, tries = step_time.find_rate(measure, tell=lambda _: None)
        self.assertAlmostEqual(measure(mbit).waited_share, 0.3, delta=step_time.TOLERANCE)
        self.assertLessEqual(len(tries), 4)

    def test_gives_up_where_ranks_wait_for_each_other_without_any_limit(self):
        with self.assertRaisesRegex(RuntimeError, "is the machine busy"):
            step_time.find_rate(lambda _: steps_of(0.5, 0.2), tell=lambda _: None)

    def test_gives_up_where_no_rate_helps(self):
        with self.assertRaisesRegex(RuntimeError, "no rate found"):
            step_time.find_rate(lambda mbit: steps_of(0.5, 0.04 if mbit is None else 0.06), tell=lambda _: None)

    def test_finds_the_rate_at_which_sums_alone_take_three_tenths_of_a_step(self):
        def alone(mbit):
            return 0.2 if mbit is None else 0.2 + 900.0 / mbit

        def step(mbit):
            return 4.0 + 0.2 * alone(mbit)

        mbit, _ = reduction.find_rate(alone, step, 150_000_000, tell=lambda _: None)
        self.assertAlmostEqual(alone(mbit) / step(mbit), 0.3, delta=reduction.TOLERANCE)

    def test_what_is_hidden_is_of_the_same_round(self):
        flat = [steps_of(1.0, 0.4), steps_of(1.0, 0.2)]
        self.assertEqual(step_time.hidden([steps_of(1.0, 0.1), steps_of(1.0, 0.1)], flat), [0.75, 0.5])


class Launchers(unittest.TestCase):
    def test_a_cluster_that_cannot_be_made_is_skipped_with_its_reason(self):
        script = "import sys; print('emulated_cluster: root is missing', file=sys.stderr); sys.exit(77)"
        with self.assertRaisesRegex(measured.Skipped, "root is missing"):
            measured.run([sys.executable, "-c", script])

    def test_a_command_that_fails_says_so(self):
        with self.assertRaisesRegex(RuntimeError, "(?s)ended with 3:.*why"):
            measured.run([sys.executable, "-c", "import sys; print('why', file=sys.stderr); sys.exit(3)"])

    def test_a_command_that_does_not_end_is_ended_with_what_it_has_started(self):
        with tempfile.TemporaryDirectory() as folder:
            child = pathlib.Path(folder, "child")
            script = f"sleep 1000 & echo $! > {child}; wait"
            with unittest.mock.patch.object(measured, "DEADLINE_S", 1.0), self.assertRaisesRegex(
                    RuntimeError, "has not ended within 1.0 s"):
                measured.run(["sh", "-c", script])
            self.assertTrue(ends(int(child.read_text())))

    def test_the_rate_is_that_of_the_nodes_links(self):
        self.assertIn("640500kbit", measured.cluster(640.5))
        self.assertNotIn("--rate", measured.cluster(None))


if __name__ == "__main__":
    unittest.main()

"""Tests of benchmarks/: statistics, goals, rows, files, and the loop with scripts as workers."""
import array
import contextlib
import io
import json
import pathlib
import struct
import sys
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from benchmarks import batches, bench  # noqa: E402: the tree first
from benchmarks.learning import chart  # noqa: E402
from benchmarks.themes import exchange  # noqa: E402

# Prints its turn into a shared file; its n-th repetition takes `base` * n seconds.
FAKE_WORKER = """
import json, sys
name, log, base = sys.argv[1], sys.argv[2], float(sys.argv[3])
print(json.dumps({"ready": 1, "version": name}), flush=True)
turn = 0
for line in sys.stdin:
    turn += 1
    open(log, "a").write(name)
    print(json.dumps({"seconds": base * turn}), flush=True)
"""


def quietly(work):
    """The result of `work`, and what it said."""
    with contextlib.redirect_stderr(io.StringIO()) as said:
        return work(), said.getvalue()


class Statistics(unittest.TestCase):
    def test_quartiles_are_those_of_the_values_themselves(self):
        self.assertEqual(bench.quartiles([5.0, 1.0, 2.0, 4.0, 3.0]), [2.0, 4.0])
        self.assertEqual(bench.quartiles([7.0]), [7.0, 7.0])

    def test_a_goal_is_met_at_its_bound(self):
        self.assertTrue(bench.meets(1.05, {"at_most": 1.05}))
        self.assertFalse(bench.meets(1.06, {"at_most": 1.05}))
        self.assertTrue(bench.meets(1.3, {"at_least": 1.3}))
        self.assertFalse(bench.meets(1.29, {"at_least": 1.3}))
        self.assertIsNone(bench.meets(2.0, None))
        with self.assertRaises(ValueError):
            bench.meets(1.0, {"about": 1.0})


class Rows(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.bench = bench.Bench.__new__(bench.Bench)
        self.bench.theme = "theme"

    def row(self, *arguments, **more):
        return quietly(lambda: self.bench.row(*arguments, **more))[0]

    def test_a_ratio_is_the_median_of_the_rounds_not_the_ratio_of_the_medians(self):
        row = self.row("it", [1.0, 4.0, 9.0], "s", "peer", [1.0, 8.0, 3.0], {"at_most": 1.0})
        self.assertEqual(row["ratio"], 1.0)  # of 1, 1/2 and 3
        self.assertEqual(row["value"], 4.0)
        self.assertTrue(row["met"])
        self.assertEqual(row["quartiles"], [0.75, 2.0])

    def test_a_bound_is_a_base_as_well(self):
        row = self.row("wait", [0.2, 0.3, 0.25], "s", "0.1 s", 0.1, {"at_most": 1.0})
        self.assertAlmostEqual(row["ratio"], 2.5)
        self.assertFalse(row["met"])

    def test_series_of_different_rounds_are_no_pair(self):
        with self.assertRaises(ValueError):
            self.row("it", [1.0, 2.0], "s", "peer", [1.0])

    def test_a_row_has_every_key_that_readers_count_on(self):
        row = self.row("alone", [2.0], "s")
        for key in ("what", "value", "unit", "against", "ratio", "goal", "met", "command", "date",
                    "machine"):
            self.assertIn(key, row)
        self.assertIsNone(row["ratio"])
        self.assertEqual(row["command"], "make bench THEME=theme")

    def test_stored_rows_come_back_and_no_part_of_a_file_stays(self):
        rows = [self.row("it", [1.0], "s", "peer", [2.0], {"at_least": 1.0})]
        bench.write_rows("theme", rows, self.folder)
        self.assertEqual(bench.read_rows(self.folder), {"theme": rows})
        self.assertEqual([path.name for path in self.folder.iterdir()], ["theme.json"])

    def test_rows_of_other_machines_stay(self):
        here = self.row("it", [1.0], "s")
        there = here | {"machine": "another one"}
        bench.write_rows("theme", [there], self.folder)
        bench.write_rows("theme", [here | {"value": 5.0}], self.folder)
        bench.write_rows("theme", [here], self.folder)
        self.assertEqual(bench.read_rows(self.folder), {"theme": [here, there]})
        text = bench.table(bench.read_rows(self.folder))
        self.assertIn(f"-- theme, {here['machine']}\n", text)
        self.assertIn("-- theme, another one\n", text)

    def test_the_table_shows_met_and_missed_and_counts_them(self):
        rows = [self.row("good", [1.0], "s", "peer", [2.0], {"at_most": 1.0}),
                self.row("bad", [3.0], "s", "peer", [2.0], {"at_most": 1.0}),
                self.row("told", [3.0], "s")]
        text = bench.table({"theme": rows})
        self.assertRegex(text, r"(?m)^met +good +1 s +0\.500 .*<= 1 +peer$")
        self.assertRegex(text, r"(?m)^MISSED +bad +3 s +1\.500 ")
        self.assertTrue(text.endswith("1 goals met, 1 missed"))

    def test_without_results_the_table_is_its_head(self):
        self.assertTrue(bench.table({}).endswith("0 goals met, 0 missed"))

    def test_stored_results_are_whole(self):
        for theme, rows in bench.read_rows().items():
            for row in rows:
                with self.subTest(theme=theme, what=row["what"]):
                    wanted = bench.meets(row["ratio"], row["goal"]) if row["ratio"] is not None else None
                    if "half_interval" in row:  # a difference that has to be outside its interval
                        sign = 1 if row["unit"] == "BLEU" else -1
                        wanted = sign * row["difference"] - row["half_interval"] > 0
                    self.assertEqual(row["met"], wanted)


class Loop(unittest.TestCase):
    def setUp(self):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.log = folder / "log"
        self.script = folder / "worker.py"
        self.script.write_text(FAKE_WORKER, encoding="utf-8")

    def worker(self, name, base=1.0):
        command = [sys.executable, str(self.script), name, str(self.log), str(base)]
        return bench.Worker(name, command)

    def test_workers_take_turns_in_an_order_that_rotates(self):
        measured, _ = quietly(lambda: bench.interleave(
            [self.worker("a"), self.worker("b", 2.0)], repetitions=3, warmup=1))
        self.assertEqual(self.log.read_text(), "ab" "ba" "ab" "ba")
        self.assertEqual(measured["a"].series(), [2.0, 3.0, 4.0])  # the warm-up is left out
        self.assertEqual(measured["b"].rate(12.0), [3.0, 2.0, 1.5])
        self.assertEqual(measured["a"].facts["version"], "a")

    def test_a_missing_peer_is_skipped_by_name(self):
        absent = bench.Worker("absent", [sys.executable, "-c",
                                         "print('{\"missing\": \"somepackage\"}')"])
        measured, said = quietly(lambda: bench.interleave([absent, self.worker("a")], 1, 0))
        self.assertEqual(list(measured), ["a"])
        self.assertIn("skipped: absent (package somepackage is not installed)", said)

    def test_a_worker_that_fails_ends_the_theme_with_its_message(self):
        broken = bench.Worker("broken", [sys.executable, "-c", "raise SystemExit('no such file')"])
        with self.assertRaisesRegex(RuntimeError, "(?s)broken ended with 1: .*no such file"):
            bench.interleave([self.worker("a"), broken], 1, 0)

    def test_only_a_tuned_worker_has_the_malloc_settings(self):
        self.assertNotIn("MALLOC_TOP_PAD_", bench.Worker("a", []).environment())
        tuned = bench.Worker("a", [], "tuned").environment()
        self.assertEqual({key: tuned[key] for key in bench.TUNED_MALLOC}, bench.TUNED_MALLOC)
        self.assertEqual(tuned["OMP_WAIT_POLICY"], "passive")


class Exchange(unittest.TestCase):
    def test_small_messages_count_by_time_and_large_ones_by_bandwidth(self):
        class Fake(bench.Bench):
            def __init__(self):
                self.theme, self.build = "exchange", pathlib.Path("none")

            def ranks(self, name, launcher, worker, **settings):
                return bench.Worker(name, ["none"])

            def measure(self, workers):
                reply = {f"{who}_{size}": seconds for size in exchange.SIZES
                         for who, seconds in (("ours", 2.0), ("bare", 1.0))}
                return {one.name: bench.Measured(one, {"bare": "call"}, [reply]) for one in workers}

        rows, said = quietly(lambda: exchange.run(Fake()))
        self.assertIn("skipped: mpi", said)
        self.assertEqual([row["unit"] for row in rows], ["us"] * 2 + ["MB/s"] * 5)
        self.assertEqual((rows[0]["value"], rows[0]["ratio"], rows[0]["goal"]), (2e6, 2.0, {"at_most": 1.05}))
        # 1 MiB to each of three others in 2 s.
        self.assertEqual((rows[4]["value"], rows[4]["ratio"], rows[4]["goal"]),
                         (1.5729, 0.5, {"at_least": 0.95}))
        self.assertFalse(any(row["met"] for row in rows))


class Batches(unittest.TestCase):
    def test_labels_are_the_tokens_one_further_on(self):
        with tempfile.TemporaryDirectory() as folder:
            path = batches.write_batches(pathlib.Path(folder, "b"), list(range(13)), 2, 2, 3,
                                         [0.5, 0.25])
            data = path.read_bytes()
        size = struct.unpack("<Q", data[:8])[0]
        header, body = json.loads(data[8:8 + size]), data[8 + size:]
        self.assertEqual(size % 8, 0)
        self.assertEqual(header["input_ids"]["shape"], [2, 2, 3])

        def values(name, code):
            begin, end = header[name]["data_offsets"]
            return array.array(code, body[begin:end]).tolist()

        self.assertEqual(values("input_ids", "q"), list(range(12)))
        self.assertEqual(values("labels", "q"), list(range(1, 13)))
        self.assertEqual(values("lr", "d"), [0.5, 0.25])

    def test_too_few_tokens_are_refused(self):
        with tempfile.TemporaryDirectory() as folder, self.assertRaises(ValueError):
            batches.write_batches(pathlib.Path(folder, "b"), list(range(12)), 2, 2, 3, [1.0, 1.0])

    def test_the_rate_warms_up_and_falls_to_its_floor(self):
        rates = batches.cosine(steps=10, warmup=2, peak=1.0, floor=0.1)
        self.assertEqual(rates[:3], [0.5, 1.0, 1.0])
        self.assertEqual(rates, sorted(rates[:2]) + sorted(rates[2:], reverse=True))
        self.assertGreater(rates[-1], 0.1)


class Charts(unittest.TestCase):
    def test_ticks_are_round_and_inside(self):
        self.assertEqual(chart.ticks(0, 10), [0, 2, 4, 6, 8, 10])
        for tick, wanted in zip(chart.ticks(8.03, 8.31), (8.1, 8.2, 8.3), strict=True):
            self.assertAlmostEqual(tick, wanted)

    def test_pictures_are_xml_with_their_names_in_them(self):
        curves = {"a < b": [(1, 2.0), (2, 1.0)], "~dashed": [(1, 1.0), (2, 0.0)],
                  "none": [(1, 0.0)]}
        for picture in (chart.lines("title", "x", "y", curves, log=True),
                        chart.shades("title", ["a < b"], {"dashed": [-0.5], "none": [0.0]})):
            text = "".join(ElementTree.fromstring(picture).itertext())
            for name in ("title", "a < b", "dashed", "none"):
                self.assertIn(name, text)


if __name__ == "__main__":
    unittest.main()

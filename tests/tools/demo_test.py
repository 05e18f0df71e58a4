"""Tests of tools/demo.sh with a program that only leaves the files which the real one leaves."""
import pathlib
import shutil
import stat
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).parents[2]
FAKE_LOCUS = r"""#!/usr/bin/env bash
echo "$*" >> calls.txt
while [ $# -gt 0 ]; do
  case $1 in
    prepare) mkdir -p runs/demo-data ;;
    train)
      mkdir -p runs/demo/checkpoints
      touch runs/demo/checkpoints/latest
      [ ! -e fail ] || exit "$(cat fail)"
      echo '{"kind": "end", "reason": "finished"}' >> runs/demo/metrics.jsonl ;;
    --output) [ -d "$2" ] || touch "$2" ;;
  esac
  shift
done
"""


class Demo(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        (self.folder / "tools").mkdir()
        (self.folder / "build").mkdir()
        shutil.copy(ROOT / "tools" / "demo.sh", self.folder / "tools")
        (self.folder / "Makefile").write_text("setup build:\n\t@true\n")
        fake = self.folder / "build" / "locus"
        fake.write_text(FAKE_LOCUS)
        fake.chmod(fake.stat().st_mode | stat.S_IXUSR)

    def demo(self):
        result = subprocess.run([self.folder / "tools" / "demo.sh"], capture_output=True, text=True)
        calls = self.folder / "calls.txt"
        lines = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        return result, [line.split()[0] for line in lines], lines

    def test_first_demo_runs_every_step_in_order(self):
        result, commands, _ = self.demo()
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(commands, ["prepare", "train", "eval", "generate", "report"])
        for name in ("eval.json", "samples.txt", "report.html"):
            self.assertTrue((self.folder / "runs/demo" / name).exists(), name)

    def test_second_demo_keeps_the_corpus_and_the_finished_run(self):
        self.demo()
        _, commands, lines = self.demo()
        self.assertEqual(commands, ["train", "eval", "generate", "report"])
        self.assertNotIn("--resume", lines[0])
        self.assertTrue((self.folder / "runs/demo.previous/report.html").exists())

    def test_interrupted_training_is_resumed(self):
        (self.folder / "fail").write_text("130")
        result, commands, _ = self.demo()
        self.assertEqual((result.returncode, commands[-1]), (130, "train"))
        self.assertIn("interrupted; make demo goes on from here", result.stdout + result.stderr)
        (self.folder / "fail").unlink()
        result, _, lines = self.demo()
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("--resume", lines[0])

    def test_failure_says_how_to_begin_anew(self):
        (self.folder / "fail").write_text("3")
        result, _, _ = self.demo()
        self.assertEqual(result.returncode, 3)
        self.assertIn("To begin anew: rm -r runs/demo runs/demo-data", result.stderr)


if __name__ == "__main__":
    unittest.main()

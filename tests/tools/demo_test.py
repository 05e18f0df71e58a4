"""Tests of tools/demo.sh with a program that only leaves the files which the real one leaves."""
import fcntl
import fnmatch
import pathlib
import re
import shlex
import shutil
import stat
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).parents[2]
FAKE_LOCUS = r"""#!/usr/bin/env bash
[ "${RANK:-0}" = 0 ] || exit 0  # of two ranks, the first is enough
command=$1
echo "$*" >> calls.txt
while [ $# -gt 0 ]; do
  case $1 in
    prepare) mkdir -p runs/demo-data ;;
    train) mkdir -p runs/demo/checkpoints; touch runs/demo/checkpoints/latest ;;
    --output) [ -d "$2" ] || echo "$command" >> "$2" ;;
  esac
  shift
done
[ ! -e "fail-$command" ] || exit "$(cat "fail-$command")"
[ "$command" != train ] || echo '{"kind": "end", "reason": "finished"}' >> runs/demo/metrics.jsonl
"""


RANKS = "python3 tools/ranks.py 2 "


def shown_commands(page):
    """The commands of the program in a page's code blocks, as lists of arguments."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    return [shlex.split(line) for line in text.splitlines() if line.startswith(("build/locus ", RANKS))]


def without_domains(command):
    return [argument for argument in command if "prepare" not in command or "=" not in argument]


class Demo(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.run_folder = self.folder / "runs" / "demo"
        (self.folder / "tools").mkdir()
        (self.folder / "build").mkdir()
        for name in ("demo.sh", "ranks.py"):
            shutil.copy(ROOT / "tools" / name, self.folder / "tools")
        (self.folder / "Makefile").write_text("setup program:\n\t@echo $@ >> made.txt\n")
        fake = self.folder / "build" / "locus"
        fake.write_text(FAKE_LOCUS)
        fake.chmod(fake.stat().st_mode | stat.S_IXUSR)

    def demo(self, **failing):
        """One demo in which the named commands fail with these exit codes."""
        for command, code in failing.items():
            (self.folder / f"fail-{command}").write_text(str(code))
        result = subprocess.run([self.folder / "tools" / "demo.sh"], capture_output=True, text=True)
        for command in failing:
            (self.folder / f"fail-{command}").unlink()
        calls = self.folder / "calls.txt"
        lines = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        return result, [line.split()[0] for line in lines], lines

    def test_first_demo_runs_every_step_in_order(self):
        result, commands, _ = self.demo()
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual((self.folder / "made.txt").read_text().split(), ["setup", "program"])
        self.assertEqual(commands, ["prepare", "train", "eval", "generate", "report"])
        for name in ("eval.json", "samples.txt", "report.html"):
            self.assertTrue((self.run_folder / name).exists(), name)

    def test_second_demo_keeps_the_corpus_and_the_finished_run(self):
        self.demo()
        _, commands, lines = self.demo()
        self.assertEqual(commands, ["train", "eval", "generate", "report"])
        self.assertNotIn("--resume", lines[0])
        self.assertTrue((self.folder / "runs/demo.previous/report.html").exists())

    def test_interrupted_training_is_resumed(self):
        result, commands, _ = self.demo(train=130)
        self.assertEqual((result.returncode, commands[-1]), (130, "train"))
        self.assertIn("interrupted; make demo goes on from here", result.stdout + result.stderr)
        result, _, lines = self.demo()
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("--resume", lines[0])

    def test_finished_training_without_a_report_is_not_repeated(self):
        for command in ("eval", "generate"):
            self.demo(**{command: 143})
        result, commands, _ = self.demo()
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(commands, ["eval", "generate", "report"])
        self.assertTrue((self.run_folder / "report.html").exists())
        self.assertFalse((self.folder / "runs/demo.previous").exists())
        self.assertEqual((self.run_folder / "samples.txt").read_text(), "generate\n", "appended twice")

    def test_failure_says_how_to_begin_anew(self):
        result, _, _ = self.demo(train=3)
        self.assertEqual(result.returncode, 3)
        self.assertIn("To begin anew: rm -r runs/demo runs/demo-data", result.stderr)

    def test_second_demo_at_the_same_time_does_nothing(self):
        (self.folder / "runs").mkdir()
        with open(self.folder / "runs" / ".demo.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            result, commands, _ = self.demo()
        self.assertEqual((result.returncode, commands), (1, []))
        self.assertIn("another make demo is at work", result.stderr)
        self.assertFalse((self.folder / "made.txt").exists(), "set-up and build need the lock too")

    def test_readme_and_tutorial_show_the_same_commands(self):
        result, _, _ = self.demo()
        done = [without_domains(shlex.split(line[2:])) for line in result.stdout.splitlines()
                if line.startswith("$ ")]
        self.assertEqual([without_domains(command) for command in shown_commands("README.md")], done)
        tutorial = [without_domains(command) for command in shown_commands("docs/tutorial.md")]
        self.assertEqual([command for command in tutorial if command in done], done)

    def test_readme_and_tutorial_show_the_same_domains(self):
        script = (ROOT / "tools" / "demo.sh").read_text(encoding="utf-8")
        wanted = [f"{name}={folder}" for name, folders in re.findall(r"^  add_domain (\S+) (.*)$", script, re.M)
                  for folder in folders.split()]
        self.assertGreater(len(wanted), 4)
        for page in ("README.md", "docs/tutorial.md"):
            prepare = next(command for command in shown_commands(page) if command[1] == "prepare")
            shown = [argument for argument in prepare if "=" in argument]
            self.assertEqual(len(shown), len(wanted), page)
            for domain, pattern in zip(shown, wanted):
                self.assertTrue(fnmatch.fnmatchcase(domain, pattern), f"{page}: {domain}, {pattern}")


if __name__ == "__main__":
    unittest.main()

"""Tests of tools/ranks.py: ranks of one machine, their input, output, signals and exit codes."""
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).parents[2]


class Ranks(unittest.TestCase):
    LAUNCHER = [sys.executable, str(ROOT / "tools" / "ranks.py"), "3"]

    def run_ranks(self, script):
        return subprocess.run([*self.LAUNCHER, sys.executable, "-c", script], input="run\n", text=True,
                              capture_output=True, timeout=60)

    def test_the_first_rank_alone_has_input_and_output(self):
        with tempfile.TemporaryDirectory() as folder:
            done = self.run_ranks(
                "import os, sys\n"
                f"name = os.path.join({folder!r}, os.environ['RANK'] + ' ' + os.environ['LOCAL_RANK'])\n"
                "open(name, 'w').write(os.environ['WORLD_SIZE'] + os.environ['MASTER_PORT'])\n"
                "print(os.environ['RANK'], sys.stdin.read())")
            files = sorted(pathlib.Path(folder).iterdir())
            self.assertEqual([path.name for path in files], ["0 0", "1 1", "2 2"])
            self.assertEqual(len({path.read_text() for path in files}), 1)
        self.assertEqual((done.returncode, done.stdout), (0, "0 run\n\n"))

    def test_one_that_fails_stops_the_others(self):
        done = self.run_ranks("import os, sys, time\n"
                              "sys.exit(3) if os.environ['RANK'] == '1' else time.sleep(1000)")
        self.assertEqual(done.returncode, 3)

    def test_a_signal_reaches_every_rank_once(self):
        script = ("import os, signal, sys, time\n"
                  "told = []\n"
                  "signal.signal(signal.SIGTERM, lambda *_: told.append(1))\n"
                  "print('ready', flush=True)\n"
                  "while not told: time.sleep(0.01)\n"
                  "time.sleep(0.3)\n"
                  "sys.exit(100 + len(told))")
        process = subprocess.Popen([*self.LAUNCHER, sys.executable, "-c", script], text=True,
                                   stdout=subprocess.PIPE, start_new_session=True)
        with process:
            self.assertEqual(process.stdout.readline(), "ready\n")
            time.sleep(0.5)  # the others, too
            os.killpg(process.pid, signal.SIGTERM)  # as `timeout` does
            self.assertEqual(process.wait(30), 101)

    def test_wrong_starts_are_told(self):
        for command, code in ((["0", "true"], 2), (["2"], 2), (["2", "no-such-program"], 127)):
            done = subprocess.run([*self.LAUNCHER[:2], *command], capture_output=True, text=True)
            self.assertEqual((done.returncode, "Traceback" in done.stderr), (code, False), command)


if __name__ == "__main__":
    unittest.main()

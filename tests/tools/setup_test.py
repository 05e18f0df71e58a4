"""Tests of tools/setup.sh: when it takes a wanted PyTorch for installed. All packages count as there."""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).parents[2]
SPEC = "torch==2.99.0"
FAILING_PIP = """#!/bin/sh
echo "$*" >> pip.txt
case "$*" in *" install "*) exit 1 ;; esac
"""


class Setup(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        (self.folder / "tools").mkdir()
        self.script = shutil.copy(ROOT / "tools" / "setup.sh", self.folder / "tools")
        self.fake_packages()
        self.site = self.folder / ".venv/lib/python3.11/site-packages"
        for record in ("torch-2.99.0.dist-info/RECORD", "pip-99.dist-info/RECORD"):
            self.write(self.site / record, "")
        self.write(self.folder / ".venv/locus-torch.txt", SPEC + "\n")
        self.write(self.folder / ".venv/bin/python3", FAILING_PIP).chmod(0o755)

    def write(self, path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def fake_packages(self):
        """What proves that a package is there; and an apt-get that does nothing, should one be missing."""
        text = pathlib.Path(self.script).read_text(encoding="utf-8")
        for header in re.findall(r"has_header (\S+)", text):
            self.write(self.folder / "include" / header, "")
        for program in [*re.findall(r"need \S+ command -v (\S+)", text), "apt-get", "sudo"]:
            if program in ("apt-get", "sudo") or not shutil.which(program):
                self.write(self.folder / "bin" / program, "#!/bin/sh\n").chmod(0o755)

    def setup(self):
        environment = {**os.environ, "LOCUS_TORCH": SPEC, "CPATH": str(self.folder / "include"),
                       "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}
        result = subprocess.run([self.script], env=environment, capture_output=True, text=True)
        if "after apt-get" in result.stderr:
            self.skipTest(result.stderr)
        return result

    def test_wanted_torch_that_is_there_is_left_alone(self):
        library = self.write(self.site / "torch/lib/libtorch_cpu.so", "")
        shutil.copy(os.path.realpath(sys.executable), library)
        result = self.setup()
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertFalse((self.folder / "pip.txt").exists())

    def test_record_without_the_library_does_not_count(self):
        result = self.setup()
        self.assertIn(f"install --disable-pip-version-check --no-input --no-deps --force-reinstall {SPEC}",
                      (self.folder / "pip.txt").read_text())
        self.assertNotEqual(result.returncode, 0)
        self.assertFalse((self.folder / ".venv/locus-torch.txt").exists(), "pip has failed")


if __name__ == "__main__":
    unittest.main()

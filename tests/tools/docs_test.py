"""The documents are true: the generated reference is fresh and no link is dead.

    docs_test.py build/locus
"""
import filecmp
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).parents[2]
LINK = re.compile(r"\]\(([^)\s]+)\)")
PROGRAM = ""


def pages():
    yield from ROOT.glob("*.md")
    for folder in ("docs", "examples", "configs", "tests"):
        yield from (ROOT / folder).rglob("*.md")


class Docs(unittest.TestCase):
    def test_reference_is_what_the_program_says(self):
        reference = ROOT / "docs" / "reference"
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([ROOT / "tools" / "make_docs.sh", PROGRAM, folder], check=True)
            names = sorted(path.name for path in pathlib.Path(folder).iterdir())
            self.assertEqual(names, sorted(path.name for path in reference.iterdir()))
            _, differ, errors = filecmp.cmpfiles(reference, folder, names, shallow=False)
        self.assertEqual(differ + errors, [], "not fresh: `make docs` writes docs/reference anew")

    def test_no_link_is_dead(self):
        dead = []
        for page in pages():
            for link in LINK.findall(page.read_text(encoding="utf-8")):
                path = link.split("#")[0]
                if path and "://" not in link and not (page.parent / path).exists():
                    dead.append(f"{page.relative_to(ROOT)}: {link}")
        self.assertEqual(dead, [])


if __name__ == "__main__":
    PROGRAM = pathlib.Path(sys.argv.pop(1)).resolve()
    unittest.main()

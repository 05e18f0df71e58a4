"""Locus reads tokenizer.json as the `tokenizers` package does: equal ids, equal decoded text.

usage: hf_test.py TOKENIZER_PROBE
"""

import os
import sys
import tempfile
import unittest
from pathlib import Path

try:
    import tokenizers  # noqa: F401
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

import hf_styles
import texts
from probing import Probe

PROBE = Probe(sys.argv.pop(1))
COUNT = int(os.environ.get("LOCUS_TOKENIZER_TEXTS", "10000"))


class EqualToTokenizers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.lines = texts.texts(COUNT, seed=11)
        cls.corpus = texts.corpus()
        cls.folder = tempfile.TemporaryDirectory()

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def check(self, style: str):
        folder = Path(self.folder.name) / style
        reference = hf_styles.save(style, self.corpus, folder)
        few = style.startswith("split_")
        lines = self.lines[: COUNT // 10] if few else self.lines
        about, answers = PROBE.encode(folder, lines)
        self.assertEqual(about["vocab_size"], reference.get_vocab_size())
        encoded = reference.encode_batch(lines, add_special_tokens=False)
        for line, encoding, answer in zip(lines, encoded, answers):
            self.assertEqual(encoding.ids, answer["ids"], f"{style}: ids of {line!r}")
            text = reference.decode(encoding.ids, skip_special_tokens=True)
            self.assertEqual(text, answer["text"], f"{style}: text of {encoding.ids} from {line!r}")


for name in hf_styles.STYLES:
    setattr(EqualToTokenizers, f"test_{name}", lambda self, style=name: self.check(style))

if __name__ == "__main__":
    unittest.main(verbosity=1)

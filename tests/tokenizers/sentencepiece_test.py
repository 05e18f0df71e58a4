"""SentencePiece models as `locus prepare` trains them: Locus, the `sentencepiece` package and what
`transformers` opens from the files that Locus writes give equal ids.

usage: sentencepiece_test.py TOKENIZER_PROBE
"""

import gzip
import json
import os
import sys
import tempfile
import unittest
from pathlib import Path

try:
    import sentencepiece
    from transformers import AutoTokenizer  # loads PyTorch, which may lack the GPU's libraries
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

import texts
from probing import Probe

PROBE = Probe(sys.argv.pop(1))
COUNT = int(os.environ.get("LOCUS_TOKENIZER_TEXTS", "10000"))
DOMAINS = Path(__file__).resolve().parents[2].parent / "shared/data/domains.jsonl.gz"
FAMILIES = ["gpt2", "llama", "mixtral", "olmoe", "qwen3_moe"]


def real_text(most_bytes: int) -> list[str]:
    """Documents where the checkout has them, else the random corpus."""
    if not DOMAINS.exists():
        return texts.corpus()[-4000:]
    documents, size = [], 0
    with gzip.open(DOMAINS, "rt") as file:
        for number, line in enumerate(file):
            if number % 17 == 0 and size < most_bytes:
                documents.append(json.loads(line)["text"][:200_000])
                size += len(documents[-1])
    return documents


class EqualToSentencePiece(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.lines = texts.texts(COUNT, seed=3)
        cls.documents = real_text(1_500_000)
        cls.corpus = [
            line for text in cls.documents + texts.corpus()[-500:] for line in text.splitlines(True)
        ]
        cls.corpus = [line for line in cls.corpus if line.isascii() or len(line) % 5 == 0]

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def model(self, kind: str, size: int, lines: list[str], name: str) -> Path:
        path = Path(self.folder.name) / name / "tokenizer.model"
        path.parent.mkdir(exist_ok=True)
        PROBE.run(path, "--train", kind, size, lines=lines)
        return path

    def check(self, path: Path, lines: list[str]):
        library = sentencepiece.SentencePieceProcessor(model_file=str(path))
        about, ours = PROBE.encode(path, lines)
        PROBE.run(path, "--files", path.parent)
        theirs = AutoTokenizer.from_pretrained(path.parent)
        self.assertEqual(about["vocab_size"], library.get_piece_size())
        self.assertEqual(about["vocab_size"], len(theirs))
        self.assertEqual(about["eod_id"], theirs.eos_token_id)
        for line, answer in zip(lines, ours):
            ids = answer["ids"]
            self.assertEqual(library.encode(line), ids, f"sentencepiece, {line!r:.300}")
            self.assertEqual(
                theirs.encode(line, add_special_tokens=False), ids, f"transformers, {line!r:.300}"
            )
            self.assertEqual(theirs(line).input_ids, ids)
            self.assertEqual(library.decode(ids), answer["text"])
            self.assertEqual(
                theirs.decode(ids), answer["text"], f"transformers decodes {line!r:.300}"
            )

    def test_bpe_on_random_text(self):
        self.check(self.model("bpe", 3000, self.corpus, "bpe"), self.lines)

    def test_unigram_on_random_text(self):
        self.check(self.model("unigram", 3000, self.corpus, "unigram"), self.lines)

    def test_bpe_on_documents(self):
        self.check(self.model("bpe", 8000, self.corpus, "bpe_documents"), self.documents)

    def test_unigram_on_documents(self):
        self.check(self.model("unigram", 8000, self.corpus, "unigram_documents"), self.documents)

    def test_small_vocabularies_that_lack_most_characters(self):
        few = ["aaaa bb ab  ba\n" * 20, "abababab aaa    aaaa\tb\n" * 20]
        for kind in ("bpe", "unigram"):
            self.check(self.model(kind, 400, few, "few_" + kind), self.lines[: COUNT // 10])

    def test_config_of_each_family_does_not_change_the_ids(self):
        path = self.model("bpe", 3000, self.corpus, "families")
        _, ours = PROBE.encode(path, self.lines[:300])
        PROBE.run(path, "--files", path.parent)
        for family in FAMILIES:
            (path.parent / "config.json").write_text(json.dumps({"model_type": family}))
            theirs = AutoTokenizer.from_pretrained(path.parent)
            for line, answer in zip(self.lines, ours):
                self.assertEqual(theirs(line).input_ids, answer["ids"], f"{family}: {line!r:.300}")

    def test_a_folder_written_by_locus_is_the_same_tokenizer_again(self):
        for kind in ("bpe", "unigram"):
            path = self.model(kind, 2000, self.corpus, "again_" + kind)
            PROBE.run(path, "--files", path.parent)
            self.assertEqual(
                PROBE.encode(path.parent, self.lines[:100]), PROBE.encode(path, self.lines[:100])
            )


if __name__ == "__main__":
    unittest.main(verbosity=1)

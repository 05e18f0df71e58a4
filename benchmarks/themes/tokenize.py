"""From JSONL to token ids on the disk, on all cores: `locus prepare` against sentencepiece."""
import json
import pathlib
import shutil

from benchmarks.bench import Bench, Worker
from benchmarks.themes.start import command

CORPUS_BYTES = 16 << 20
# Text that nearly every machine has, in this order until there is enough.
SOURCES = [("/usr/include", "*.h"), ("/usr/lib/python3", "*.py"), ("/usr/share/doc", "copyright"),
           ("/usr/share/common-licenses", "*")]
MODEL_TYPES = ("bpe", "unigram")


def documents():
    """Alternately out of the sources, so that a prefix is mixed, too."""
    walks = [sorted(path for path in pathlib.Path(folder).rglob(pattern) if path.is_file())
             for folder, pattern in SOURCES]
    for at in range(max(map(len, walks))):
        for walk in walks:
            if at < len(walk):
                yield walk[at].read_text(encoding="utf-8", errors="ignore")


def write_corpus(path: pathlib.Path) -> int:
    """A JSONL file of whole documents; the bytes of their text."""
    size, seen = 0, set()
    with open(path, "w", encoding="utf-8") as file:
        for text in documents():
            if size >= CORPUS_BYTES:
                break
            if text.strip() and text not in seen:
                seen.add(text)
                file.write(json.dumps({"text": text}) + "\n")
                size += len(text.encode())
    return size


def compare(bench: Bench, corpus: pathlib.Path, size: int, kind: str) -> list[dict]:
    folder = bench.scratch / kind
    shutil.rmtree(folder, ignore_errors=True)
    prepare = [bench.program, "prepare", "--output"]
    bench.measure([command(f"training a {kind} tokenizer",
                           [*prepare, str(folder), "--model-type", kind, "--vocab-size", "8192",
                            str(corpus)])], repetitions=1, warmup=0)
    model, output = folder / "tokenizer.model", folder / "again"
    ours = command("Locus", [*prepare, str(output), "--tokenizer", str(model), str(corpus)],
                   remove=output)
    peer: Worker = bench.peer("sentencepiece", "tokenize", model=model, input=corpus,
                              output=folder / "peer.bin")
    measured = bench.measure([ours, peer], warmup=1)
    rates = {name: one.rate(size / 2**20) for name, one in measured.items()}
    locus, theirs = measured["Locus"], measured.get("sentencepiece")
    if theirs is None:
        return [bench.row(f"tokenise, {kind}: Locus", rates["Locus"], "MiB/s")]
    return [
        bench.row(f"tokenise, {kind}: sentencepiece", rates["sentencepiece"], "MiB/s", by=[theirs]),
        bench.row(f"tokenise, {kind}: Locus", rates["Locus"], "MiB/s",
                  "sentencepiece, its own threads", rates["sentencepiece"], {"at_least": 1.0},
                  [locus, theirs])]


def run(bench: Bench) -> list[dict]:
    corpus = bench.scratch / "corpus.jsonl"
    size = write_corpus(corpus)
    return [row for kind in MODEL_TYPES for row in compare(bench, corpus, size, kind)]

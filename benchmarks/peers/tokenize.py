"""The `sentencepiece` package's own multi-threaded encode, from JSONL to token ids on the disk: the
peer of `locus prepare --tokenizer`. Run it as a module (python -m): its name is a standard one.
"""
import json
import os
import time

from benchmarks.peers.serve import serve

BATCH_DOCUMENTS = 1024  # enough to keep all threads busy; more is no faster
BATCH_BYTES = 8 << 20


def batches(path):
    texts, size = [], 0
    with open(path, encoding="utf-8") as file:
        for line in file:
            texts.append(json.loads(line)["text"])
            size += len(texts[-1])
            if len(texts) == BATCH_DOCUMENTS or size >= BATCH_BYTES:
                yield texts
                texts, size = [], 0
    if texts:
        yield texts


def encode_file(model: str, jsonl: str, out_bin: str, threads: int = 0) -> float:
    """Seconds to write all documents' ids, each with the end-of-sentence id behind it, as 16 bits
    where they fit, else 32. `threads` 0: all cores."""
    import numpy
    import sentencepiece

    begin = time.perf_counter()
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    dtype = numpy.uint16 if processor.get_piece_size() <= 1 << 16 else numpy.int32
    threads = threads or len(os.sched_getaffinity(0))
    with open(out_bin, "wb") as out:
        for texts in batches(jsonl):
            for ids in processor.encode(texts, num_threads=threads, add_eos=True):
                out.write(numpy.asarray(ids, dtype=dtype).data)
    return time.perf_counter() - begin


def make(model, input, output, threads="0"):  # pylint: disable=redefined-builtin
    import numpy
    import sentencepiece

    facts = {"sentencepiece": sentencepiece.__version__, "numpy": numpy.__version__}
    return facts, lambda: {"seconds": encode_file(model, input, output, int(threads))}


if __name__ == "__main__":
    serve(make)

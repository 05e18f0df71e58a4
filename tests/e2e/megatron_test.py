"""Megatron-LM's .bin and .idx by an independent writer and reader: numpy, and the layout of its
megatron/core/datasets/indexed_dataset.py. Both ways, byte for byte.

    megatron_test.py build/locus
"""
import os
import pathlib
import struct
import sys
import tempfile

import corpus

try:
    import numpy
except ImportError:
    other = pathlib.Path(__file__).resolve().parents[2] / ".venv" / "bin" / "python3"
    if other.exists() and not os.environ.get("LOCUS_PYTHON_TRIED"):
        os.environ["LOCUS_PYTHON_TRIED"] = "1"
        os.execv(other, [str(other), "-B", *sys.argv])
    print("skipped: there is no numpy; `make test-packages` installs it")
    sys.exit(77)

PROGRAM = str(pathlib.Path(sys.argv[1]).resolve())
CODES = {1: numpy.uint8, 2: numpy.int8, 3: numpy.int16, 4: numpy.int32, 5: numpy.int64, 8: numpy.uint16}


def write(prefix, documents, dtype):
    """`documents`: lists of sequences of token ids."""
    sequences = [numpy.asarray(sequence, dtype) for document in documents for sequence in document]
    code = next(code for code, kind in CODES.items() if kind is dtype)
    with open(f"{prefix}.bin", "wb") as file:
        for sequence in sequences:
            file.write(sequence.tobytes(order="C"))
    lengths = numpy.array([len(sequence) for sequence in sequences], numpy.int32)
    starts = numpy.concatenate([[0], numpy.cumsum(lengths, dtype=numpy.int64)[:-1]]) * numpy.dtype(dtype).itemsize
    firsts = numpy.cumsum([0, *(len(document) for document in documents)], dtype=numpy.int64)
    with open(f"{prefix}.idx", "wb") as file:
        file.write(b"MMIDIDX\x00\x00" + struct.pack("<Q", 1) + struct.pack("<B", code))
        file.write(struct.pack("<Q", len(lengths)) + struct.pack("<Q", len(firsts)))
        for array in (lengths, starts.astype(numpy.int64), firsts):
            file.write(array.tobytes(order="C"))


def read(prefix):
    """Documents as write() takes them, and the type."""
    with open(f"{prefix}.idx", "rb") as file:
        assert file.read(9) == b"MMIDIDX\x00\x00" and struct.unpack("<Q", file.read(8)) == (1,)
        dtype = CODES[struct.unpack("<B", file.read(1))[0]]
        num_sequences, num_firsts = struct.unpack("<QQ", file.read(16))
        lengths = numpy.frombuffer(file.read(4 * num_sequences), numpy.int32)
        starts = numpy.frombuffer(file.read(8 * num_sequences), numpy.int64)
        firsts = numpy.frombuffer(file.read(8 * num_firsts), numpy.int64)
        assert not file.read()
    tokens = numpy.fromfile(f"{prefix}.bin", dtype)
    size = numpy.dtype(dtype).itemsize
    sequences = [tokens[start // size:start // size + length] for start, length in zip(starts, lengths)]
    assert sum(map(len, sequences)) == len(tokens)
    return [[s.tolist() for s in sequences[a:b]] for a, b in zip(firsts, firsts[1:])], dtype


def test_ours_are_written_alike_by_the_other(folder):
    for split in ("train", "valid", "test"):
        documents, dtype = read(folder / "data" / split)
        assert documents and dtype is numpy.uint16
        assert all(document[-1][-1] == documents[0][-1][-1] for document in documents)  # end of document
        write(folder / "again", documents, dtype)
        for end in ("bin", "idx"):
            assert (folder / f"again.{end}").read_bytes() == (folder / "data" / f"{split}.{end}").read_bytes()


def test_theirs_give_the_same_run(folder):
    """The same documents in the prefix of another tool, as every integer type that holds them."""
    documents, _ = read(folder / "data" / "train")
    losses = set()
    for dtype in (numpy.uint16, numpy.int16, numpy.int32, numpy.int64):
        write(folder / "theirs", documents, dtype)
        out, _ = corpus.locus(PROGRAM, "train", "--config", "run.toml", "--set", "data.train=['theirs']", "--set",
                              "data.tokenizer=data/tokenizer.model", "--set", "train.max_steps=4", "--set",
                              f"train.output_dir=run-{numpy.dtype(dtype).name}", cwd=folder)
        losses.add(out.split("loss=")[1].split()[0])
    assert len(losses) == 1, losses


def test_documents_of_several_sequences(folder):
    documents, _ = read(folder / "data" / "train")
    write(folder / "parts", [[d[0][:5], d[0][5:]] for d in documents], numpy.int32)
    out, _ = corpus.locus(PROGRAM, "inspect", "parts", "--verify", cwd=folder)
    tokens = sum(len(d[0]) for d in documents)
    assert f"{tokens:,}" in out and f"{len(documents):,}" in out, out


def main():
    tests = [(name, test) for name, test in globals().items() if name.startswith("test_")]
    with tempfile.TemporaryDirectory() as name:
        folder = corpus.make(PROGRAM, name)
        for title, test in tests:
            test(folder)
            print("passed", title)
    print(f"{len(tests)} passed, 0 failed")


if __name__ == "__main__":
    main()

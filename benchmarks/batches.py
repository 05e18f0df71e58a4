"""Batches as a safetensors file for all workers: input_ids, labels [steps, B, S] and lr [steps].

Written with the standard library alone; labels[i] is the token after input_ids[i].
"""
from __future__ import annotations

import array
import json
import math
import pathlib
import random
import struct


def write_safetensors(path: pathlib.Path, tensors: dict[str, tuple[str, list[int], bytes]]) -> None:
    """name -> (dtype, shape, little-endian bytes)."""
    header, offset = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        end = offset + len(data)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, data in tensors.values():
            file.write(data)


def write_batches(path: pathlib.Path, tokens: list[int] | array.array, steps: int, sequences: int,
                  length: int, lr: list[float]) -> pathlib.Path:
    """Cuts the stream of tokens into windows, one after the other."""
    inputs, labels = array.array("q"), array.array("q")
    for begin in range(0, steps * sequences * length, length):
        window = list(tokens[begin:begin + length + 1])
        inputs.extend(window[:-1])
        labels.extend(window[1:])
    shape = [steps, sequences, length]
    if len(labels) != math.prod(shape):
        raise ValueError(f"{len(tokens)} tokens are too few for batches of shape {shape}")
    write_safetensors(path, {"input_ids": ("I64", shape, inputs.tobytes()),
                             "labels": ("I64", shape, labels.tobytes()),
                             "lr": ("F64", [steps], array.array("d", lr).tobytes())})
    return path


def zipf_tokens(count: int, vocab_size: int, seed: int = 1) -> list[int]:
    """Draws as uneven as words are: the n-th token has weight 1 / n."""
    total, cumulative = 0.0, []
    for rank in range(1, vocab_size + 1):
        total += 1 / rank
        cumulative.append(total)
    return random.Random(seed).choices(range(vocab_size), cum_weights=cumulative, k=count)


def cosine(steps: int, warmup: int, peak: float, floor: float) -> list[float]:
    """Linear warm-up, then a half cosine: the default of transformers and of Locus."""
    rates = []
    for step in range(steps):
        if step < warmup:
            rates.append(peak * (step + 1) / warmup)
        else:
            share = (step - warmup) / max(steps - warmup, 1)
            rates.append(floor + (peak - floor) * (1 + math.cos(math.pi * share)) / 2)
    return rates

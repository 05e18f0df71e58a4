"""Writes a small safetensors file, a lying one, or a checkpoint folder around one, without any package.

The checksums in the checkpoint's manifest are those of no file: its sizes alone are right.
"""
import json
import os
import pathlib
import struct
import sys


def write(path, lying=False):
    header = {"__metadata__": {"format": "pt"},
              "layers.0.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
              "norm.weight": {"dtype": "F32", "shape": [1 << 40 if lying else 4],
                              "data_offsets": [24, 40]}}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + struct.pack("<10f", *range(10)))


def write_checkpoint(path):
    folder = pathlib.Path(path)
    folder.mkdir()
    write(folder / "model.safetensors")
    write(folder / "optimizer.safetensors")
    (folder / "config.toml").write_text("[model]\nhidden_size = 3\n")
    state = {"step": 7, "tokens": 700, "skipped_steps": 0, "skipped_in_row": 0, "loss_mean": 0.0,
             "loss_mean_steps": 0}
    (folder / "trainer.json").write_text(json.dumps(state))
    files = {name: {"bytes": os.path.getsize(folder / name), "xxh128": "0" * 32}
             for name in sorted(os.listdir(folder))}
    (folder / "manifest.json").write_text(json.dumps({"version": 2, "step": 7, "files": files}))


if __name__ == "__main__":
    if sys.argv[1] == "--checkpoint":
        write_checkpoint(sys.argv[2])
    else:
        write(sys.argv[-1], lying=sys.argv[1] == "--lying")

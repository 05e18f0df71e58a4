"""safetensors' save_file and load_file: the peer of workers/checkpoint.cpp.

What Locus promises is done here, too: saved means on the disk (fsync), loaded means in the tensors
of a model (load_file alone only maps the file).
"""
import os
import pathlib

from benchmarks.peers.serve import serve, timed


def make(folder, total_bytes, tensor_bytes=4 << 20):
    import safetensors
    import torch
    from safetensors.torch import load_file, save_file

    count = int(total_bytes) // int(tensor_bytes)
    state = {f"tensor_{i}": torch.randn(int(tensor_bytes) // 4) for i in range(count)}
    path = pathlib.Path(folder, "peer.safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)

    def save():
        save_file(state, path)
        with open(path, "rb") as file:
            os.fsync(file.fileno())

    def load():
        for name, value in load_file(path).items():
            state[name].copy_(value)

    def run():
        save_s, _ = timed(save)
        load_s, _ = timed(load)
        path.unlink()
        return {"seconds": save_s + load_s, "save_s": save_s, "load_s": load_s}

    return {"torch": torch.__version__, "safetensors": safetensors.__version__,
            "bytes": count * int(tensor_bytes)}, run


if __name__ == "__main__":
    serve(make)

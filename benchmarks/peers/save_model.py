"""Writes a fresh transformers model to a folder, for all workers to start from."""
from benchmarks.peers.models import build
from benchmarks.peers.serve import serve


def make(config, output):
    model, _, versions = build(config)

    def run():
        model.save_pretrained(output)
        return {}

    return versions, run


if __name__ == "__main__":
    serve(make)

"""transformers' generate(), one prompt, greedy, with cache: the peer of workers/generate.cpp."""
from benchmarks.peers.models import build
from benchmarks.peers.serve import serve, timed


def make(config, weights="", prompt_tokens=32, new_tokens=128):
    import torch

    model, settings, versions = build(config, weights)
    model.eval()
    vocabulary = settings["model"]["vocab_size"]
    prompt = torch.tensor([[(i * 37 + 11) % vocabulary for i in range(int(prompt_tokens))]])

    def generate():
        with torch.inference_mode():
            return model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False,
                                  max_new_tokens=int(new_tokens), eos_token_id=None,
                                  pad_token_id=0)

    def run():
        seconds, ids = timed(generate)
        new = ids[0, prompt.shape[1]:].tolist()
        return {"seconds": seconds, "tokens": len(new), "text": "".join(f"{id} " for id in new)}

    return versions, run


if __name__ == "__main__":
    serve(make)

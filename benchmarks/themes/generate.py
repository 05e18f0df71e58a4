"""Generation, batch of one, key/value cache, greedy, against transformers' generate()."""
from benchmarks.bench import ROOT, Bench

PEERS = {"transformers": "default", "transformers, tuned malloc": "tuned"}


def run(bench: Bench) -> list[dict]:
    config = ROOT / "benchmarks" / "configs" / "olmoe.toml"
    weights = bench.scratch / "olmoe"
    saved = bench.measure([bench.peer("saving the weights", "save_model", config=config,
                                      output=weights)], repetitions=1, warmup=0)
    same = {"weights": weights} if saved else {}
    workers = [bench.ours("Locus", "generate", config=config, **same)]
    workers += [bench.peer(name, "generate", malloc, config=config, **same)
                for name, malloc in PEERS.items()]
    measured = bench.measure(workers)
    rates = {name: one.rate(one.replies[0]["tokens"]) for name, one in measured.items()}
    locus = measured["Locus"]
    if len(measured) == 1:
        return [bench.row("generate: Locus", rates["Locus"], "tokens/s", by=[locus])]
    rows = []
    for name in PEERS:
        theirs = measured[name]
        equal = locus.replies[0]["text"] == theirs.replies[0]["text"]
        rows.append(bench.row(f"generate: {name}", rates[name], "tokens/s", by=[theirs]))
        rows.append(bench.row("generate: Locus", rates["Locus"], "tokens/s", name, rates[name],
                              {"at_least": 3.0}, [locus, theirs], same_tokens=equal))
    return rows

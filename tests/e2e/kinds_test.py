"""Encoders and encoder-decoders from text to result: masked tokens, translations and their BLEU, resume, model
folders, and what is refused.

    kinds_test.py build/locus
"""
import argparse
import json
import pathlib
import random
import subprocess
import tempfile

import corpus

PAIRS = 900
ENCODER_DECODER = ["model.num_hidden_layers=4", "model.num_encoder_layers=2", "model.hidden_size=64",
                   "model.max_position_embeddings=48", "data.sequence_length=48", "moe.layer_freq=2"]
TRANSLATION = [*ENCODER_DECODER, "data.train=[\"pairs\"]", "train.max_steps=400", "train.micro_batch_size=8",
               "train.global_batch_size=8", "model.hidden_dropout=0", "train.label_smoothing=0.1",
               "checkpoint.interval=200", "checkpoint.keep_last=0", "eval.interval=200"]


class Kinds:
    def __init__(self, program, folder):
        self.program, self.folder = program, corpus.make(program, folder)
        draw = random.Random(3)
        words = {"".join(draw.choices("abcdef", k=3)): "".join(draw.choices("uvwxyz", k=3)) for _ in range(24)}
        texts = [draw.choices(list(words), k=draw.randint(2, 6)) for _ in range(PAIRS)]
        for name, lines in (("train", texts[:-60]), ("test", texts[-60:])):
            (self.folder / f"{name}.src").write_text("".join(" ".join(line) + "\n" for line in lines))
            (self.folder / f"{name}.tgt").write_text(
                "".join(" ".join(words[word] for word in line) + "\n" for line in lines))

    def locus(self, *arguments, code=0, **options):
        return corpus.locus(self.program, *arguments, cwd=self.folder, code=code, **options)

    def train(self, run, *sets, resume=False, code=0):
        words = [word for one in (f"train.output_dir={run}", *sets) for word in ("--set", one)]
        return self.locus("train", "--config", "run.toml", *words, *(["--resume"] if resume else []), code=code)

    def prepares_pairs(self):
        self.locus("prepare", "--output", "pairs", "--vocab-size", "330", "--pairs", "train.src", "train.tgt",
                   "--test-pairs", "test.src,test.tgt", "--valid-share", "0.1", "--test-share", "0.3")
        info = json.loads((self.folder / "pairs" / "dataset.json").read_text())
        assert info["pairs"] and info["domains"] == []
        sizes = {name: split["documents"] for name, split in info["splits"].items()}
        assert sum(sizes.values()) <= 2 * PAIRS and all(size % 2 == 0 and size > 0 for size in sizes.values()), sizes
        assert sizes["test"] <= 120, sizes  # the share of the inputs has given way to the files

    def translates(self):
        self.train("translation", *TRANSLATION)
        losses = [line["loss"] for line in corpus.lines_of(self.folder / "translation", "valid")]
        assert losses[-1] < losses[0] < 6, losses
        out, _ = self.locus("translate", "--checkpoint", "translation", "--input", "test.src", "--output", "test.out",
                            "--reference", "test.tgt")
        assert out.startswith("BLEU "), out
        bleu = float(out.split()[1])
        assert bleu > 60, out  # word for word: to be had in full
        found = (self.folder / "test.out").read_text().splitlines()
        assert len(found) == 60
        # By standard input and output, in other batches: the same.
        text = (self.folder / "test.src").read_text()
        again, told = self.locus("translate", "--checkpoint", "translation", "--batch-size", "7", "--reference",
                                 "test.tgt", stdin=text)
        assert again.splitlines() == found
        assert out.strip() in told, told
        greedy, _ = self.locus("translate", "--checkpoint", "translation", "--num-beams", "1", stdin=text)
        assert len(greedy.splitlines()) == 60
        self.agrees_with_sacrebleu(found, bleu)
        out, _ = self.locus("eval", "--checkpoint", "translation", "--split", "test")
        assert "perplexity" in out

    def agrees_with_sacrebleu(self, found, bleu):
        try:
            import sacrebleu
        except ImportError:
            return  # tests/golden/bleu.json holds its scores
        wanted = (self.folder / "test.tgt").read_text().splitlines()
        assert abs(sacrebleu.corpus_bleu(found, [wanted]).score - bleu) < 0.006

    def resumes_a_translation(self):
        self.train("stopped", *TRANSLATION)
        for path in (self.folder / "stopped" / "checkpoints").glob("step_*400"):
            subprocess.run(["rm", "-r", path], check=True)
        self.train("stopped", *TRANSLATION, resume=True)
        assert corpus.sums_of(self.folder / "stopped") == corpus.sums_of(self.folder / "translation")

    def is_a_model_folder(self):
        self.locus("export", "translation", "folder")
        config = json.loads((self.folder / "folder" / "config.json").read_text())
        assert "model.num_encoder_layers = 2" in config["locus"]["settings"], config
        one, _ = self.locus("translate", "--checkpoint", "folder", stdin="abc\n")
        two, _ = self.locus("translate", "--checkpoint", "translation", stdin="abc\n")
        assert one == two

    def tells_masked_tokens(self):
        encoder = ["model.num_encoder_layers=2", "train.max_steps=60", "data.mask_whole_words=true"]
        self.train("encoder", *encoder)
        losses = [line["loss"] for line in corpus.lines_of(self.folder / "encoder", "valid")]
        assert losses[-1] < losses[0], losses
        out, _ = self.locus("eval", "--checkpoint", "encoder", "--output", "score.json")
        again, _ = self.locus("eval", "--checkpoint", "encoder")
        assert out == again, "the same tokens are masked each time"
        score = json.loads((self.folder / "score.json").read_text())
        info = json.loads((self.folder / "data" / "dataset.json").read_text())
        share = score["tokens"] / info["splits"]["valid"]["tokens"]
        assert 0.08 < share < 0.25, share
        _, errors = self.locus("generate", "--checkpoint", "encoder", "--prompt", "x", code=2)
        assert "an encoder, and only a decoder continues texts" in errors, errors
        _, errors = self.locus("translate", "--checkpoint", "encoder", stdin="x\n", code=2)
        assert "is an encoder; an encoder-decoder translates" in errors, errors
        _, errors = self.locus("eval", "--checkpoint", "encoder", "--text", "run.toml", code=2)
        assert "--text: only decoders" in errors, errors

    def refuses_what_does_not_fit(self):
        for sets, code, wanted in [
                (["data.train=[\"pairs\"]"], 3, "holds pairs to translate, which an encoder-decoder reads"),
                (ENCODER_DECODER, 3, "holds no pairs to translate, but the model is an encoder-decoder"),
                (["model.num_encoder_layers=5"], 2, "model.num_encoder_layers = 5 must be 0 (a decoder) to"),
                ([*ENCODER_DECODER, "moe.num_domain_groups=2", "moe.router.type=locmoe"], 2, "not in an encoder-decoder"),
                (["train.label_smoothing=1.0"], 2, "train.label_smoothing = 1 must be"),
                (["data.mask_share=0.0"], 2, "data.mask_share = 0 must be"),
                ([*TRANSLATION, "data.sequence_length=2"], 2, "holds no pair that fits in data.sequence_length = 2")]:
            _, errors = self.train("refused", *sets, code=code)
            assert wanted in errors, (sets, errors)
        (self.folder / "short.tgt").write_text("x\n")
        for arguments, code, wanted in [
                (["--pairs", "train.src"], 2, "inputs: 1 files; with --pairs each is followed by its translation"),
                (["--pairs", "train.src", "short.tgt"], 3, "short.tgt ends after 1 lines, but train.src goes on"),
                (["--valid-pairs", "test.src,test.tgt", "train.src"], 2, "valid_pairs: only with --pairs"),
                (["--pairs", "--num-clusters", "3", "train.src", "train.tgt"], 2, "pairs have no domains")]:
            _, errors = self.locus("prepare", "--output", "never", *arguments, code=code)
            assert wanted in errors, (arguments, errors)
            assert not (self.folder / "never").exists()
        _, errors = self.locus("translate", "--checkpoint", "translation", "--input", "test.src", "--reference",
                               "short.tgt", code=3)
        assert "short.tgt: has 1 lines for 60 texts" in errors, errors
        _, errors = self.locus("generate", "--checkpoint", "translation", "--prompt", "x", code=2)
        assert "see `locus translate`" in errors, errors


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    program = str(pathlib.Path(parser.parse_args().program).resolve())
    with tempfile.TemporaryDirectory() as folder:
        kinds = Kinds(program, folder)
        for part in (kinds.prepares_pairs, kinds.translates, kinds.resumes_a_translation, kinds.is_a_model_folder,
                     kinds.tells_masked_tokens, kinds.refuses_what_does_not_fit):
            part()
            print(f"ok: {part.__name__}")


if __name__ == "__main__":
    main()

"""Trains a tokenizer.json in the style of each family with the `tokenizers` package."""

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers import processors, trainers

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTIONS}"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTIONS}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = [
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
]


def byte_level(lines, pre, normalizer=None, specials=("<|endoftext|>",), size=3000) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(specials),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer


def split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def then_bytes(*steps) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


def gpt2(lines) -> Tokenizer:
    return byte_level(lines, pre_tokenizers.ByteLevel(add_prefix_space=False))


def gpt2_prefix_space(lines) -> Tokenizer:
    return byte_level(lines, pre_tokenizers.ByteLevel(add_prefix_space=True))


def neox(lines) -> Tokenizer:
    tokenizer = byte_level(
        lines, pre_tokenizers.ByteLevel(add_prefix_space=False), normalizers.NFC()
    )
    tokenizer.add_tokens(
        [AddedToken(" " * n, normalized=True, special=False) for n in range(24, 1, -1)]
    )
    tokenizer.add_special_tokens([AddedToken("<|padding|>", special=True)])
    return tokenizer


def llama3(lines) -> Tokenizer:
    tokenizer = byte_level(lines, then_bytes(split(LLAMA3)), specials=())
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|endoftext|>"])
    data = json.loads(tokenizer.to_str())
    data["model"]["ignore_merges"] = True
    return Tokenizer.from_str(json.dumps(data))


def qwen2(lines) -> Tokenizer:
    tokenizer = byte_level(lines, then_bytes(split(QWEN2)), normalizers.NFC(), specials=())
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return tokenizer


def gpt4o(lines) -> Tokenizer:
    return byte_level(lines, then_bytes(split(GPT4O)))


def deepseek(lines) -> Tokenizer:
    return byte_level(
        lines, then_bytes(*map(split, DEEPSEEK), pre_tokenizers.Digits(individual_digits=True))
    )


def falcon(lines) -> Tokenizer:
    return byte_level(
        lines,
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Punctuation("contiguous"),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
                pre_tokenizers.Digits(individual_digits=False),
                pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated"),
            ]
        ),
    )


def added_tokens(lines) -> Tokenizer:
    """Every flag of added tokens, behind a normaliser that changes their text."""
    tokenizer = byte_level(
        lines,
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        normalizers.Sequence(
            [
                normalizers.NFKC(),
                normalizers.Replace("foo", "bar"),
                normalizers.Replace(Regex(r"\d\d"), "#"),
            ]
        ),
    )
    tokenizer.add_tokens(
        [
            AddedToken("word", single_word=True, normalized=False),
            AddedToken("<mask>", lstrip=True, rstrip=True, special=True, normalized=False),
            AddedToken("<unk>", lstrip=True, normalized=False),
            AddedToken("<s>", rstrip=True, normalized=True),
            AddedToken("\ufb01ne", normalized=True),
            AddedToken("\u2167", normalized=False),
            AddedToken("foo_bar", normalized=True),
            AddedToken("aaaa", normalized=True),
            AddedToken("aaaaaa", normalized=False),
        ]
    )
    return tokenizer


def llama2(lines, prepend: bool = True) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    steps = [normalizers.Prepend("\u2581")] if prepend else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "\u2581")])
    tail = [decoders.Strip(" ", 1, 0)] if prepend else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), *tail]
    )
    # Trained on words: without a pre-tokenizer whole lines would become tokens.
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=2500, special_tokens=specials, show_progress=False, limit_alphabet=120
    )
    tokenizer.train_from_iterator(lines, trainer)
    data = json.loads(tokenizer.to_str())
    data["pre_tokenizer"] = None
    data["added_tokens"] = [token for token in data["added_tokens"] if token["id"] < 3]
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.add_tokens(
        [
            AddedToken("foo_bar", normalized=True),
            AddedToken("<mask>", special=True),
            AddedToken("word", normalized=True, special=True),
            AddedToken("Hello", normalized=False),
        ]
    )
    return tokenizer


def mixtral_plain(lines) -> Tokenizer:
    return llama2(lines, prepend=False)


def metaspace(scheme: str):
    def train(lines) -> Tokenizer:
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=scheme == "first"))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", scheme, split=scheme != "neve")
        tokenizer.decoder = decoders.Metaspace("\u2581", scheme)
        trainer = trainers.BpeTrainer(
            vocab_size=1500,
            special_tokens=["<unk>", "</s>"],
            limit_alphabet=150,
            show_progress=False,
        )
        tokenizer.train_from_iterator(lines, trainer)
        return tokenizer

    return train


def split_behavior(behavior: str, invert: bool):
    def train(lines) -> Tokenizer:
        return byte_level(
            lines,
            then_bytes(pre_tokenizers.Split(Regex(r"\s|[aeiou]+|\w"), behavior, invert)),
            size=800,
        )

    return train


STYLES = {
    "gpt2": gpt2,
    "gpt2_prefix_space": gpt2_prefix_space,
    "neox": neox,
    "llama3": llama3,
    "qwen2": qwen2,
    "gpt4o": gpt4o,
    "deepseek": deepseek,
    "falcon": falcon,
    "added_tokens": added_tokens,
    "llama2": llama2,
    "mixtral_plain": mixtral_plain,
    "metaspace_always": metaspace("always"),
    "metaspace_first": metaspace("first"),
    "metaspace_never": metaspace("never"),
    **{
        f"split_{behavior}_{invert}": split_behavior(behavior, invert)
        for behavior in (
            "removed",
            "isolated",
            "merged_with_previous",
            "merged_with_next",
            "contiguous",
        )
        for invert in (False, True)
    },
}


def save(style: str, lines: list[str], folder: Path) -> Tokenizer:
    tokenizer = STYLES[style](lines)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    specials = [t.content for t in tokenizer.get_added_tokens_decoder().values() if t.special]
    config = {"eos_token": "</s>" if "</s>" in specials else specials[0]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return tokenizer

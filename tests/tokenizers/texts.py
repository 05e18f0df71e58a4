"""Random texts of every script, and the tokenizers that are tried on them."""

import random
import sys
import unicodedata

# Blocks from all of Unicode. What Python's tables (Unicode 14) do not know is left out: characters
# newer than PCRE2's tables belong to other classes there.
RANGES = [
    (0x20, 0x7E),
    (0xA0, 0x24F),
    (0x250, 0x2AF),
    (0x300, 0x36F),
    (0x370, 0x3FF),
    (0x400, 0x52F),
    (0x531, 0x58F),
    (0x591, 0x5F4),
    (0x600, 0x6FF),
    (0x700, 0x74F),
    (0x780, 0x7B1),
    (0x7C0, 0x7FF),
    (0x900, 0x97F),
    (0x980, 0x9FE),
    (0xA01, 0xA76),
    (0xA81, 0xAFF),
    (0xB01, 0xB77),
    (0xB82, 0xBFA),
    (0xC00, 0xC7F),
    (0xC80, 0xCF2),
    (0xD00, 0xD7F),
    (0xD82, 0xDF4),
    (0xE01, 0xE5B),
    (0xE81, 0xEDF),
    (0xF00, 0xFDA),
    (0x1000, 0x109F),
    (0x10A0, 0x10FF),
    (0x1100, 0x11FF),
    (0x1200, 0x137C),
    (0x13A0, 0x13FD),
    (0x1400, 0x167F),
    (0x1680, 0x169C),
    (0x16A0, 0x16F8),
    (0x1780, 0x17F9),
    (0x1800, 0x18AA),
    (0x1E00, 0x1FFE),
    (0x2000, 0x206F),
    (0x2070, 0x20BF),
    (0x2100, 0x218B),
    (0x2190, 0x23FF),
    (0x2460, 0x27BF),
    (0x2C00, 0x2DFF),
    (0x2E80, 0x2FD5),
    (0x3000, 0x30FF),
    (0x3105, 0x31BF),
    (0x3200, 0x33FF),
    (0x4E00, 0x9FEF),
    (0xA000, 0xA4C6),
    (0xA640, 0xA69F),
    (0xAC00, 0xD7A3),
    (0xF900, 0xFAD9),
    (0xFB00, 0xFBFF),
    (0xFE00, 0xFE6B),
    (0xFF01, 0xFFEE),
    (0x10000, 0x100FA),
    (0x10330, 0x1034A),
    (0x10900, 0x1091F),
    (0x12000, 0x12399),
    (0x13000, 0x1342E),
    (0x1D100, 0x1D1E8),
    (0x1D400, 0x1D7FF),
    (0x1F000, 0x1F02B),
    (0x1F300, 0x1F6D5),
    (0x1F900, 0x1F9FF),
    (0x20000, 0x2A6D6),
    (0xE0100, 0xE01EF),
]
SPACES = [
    " ",
    "  ",
    "   ",
    "      ",
    "\n",
    "\n\n",
    "\r\n",
    "\t",
    "\t\t",
    "\u00a0",
    "\u2003",
    "\u3000",
    "\u2028",
    "\u0085",
    "\x0b",
    "\x0c",
    "\u180e",
    "\u200b",
    "\u2009 ",
    " \n ",
    "\n  ",
]
WORDS = [
    "the",
    "Hello",
    "world",
    "I'm",
    "you're",
    "we'LL",
    "it'S",
    "they'VE",
    "don't",
    "12345",
    "3.14159",
    "2026",
    "1,000,000",
    "x",
    "aaaa",
    "aaaaaaaaa",
    "====",
    "-----",
    "foo_bar",
    "CamelCase",
    "http://a.b/c?d=e&f",
    "na\u00efve",
    "Stra\u00dfe",
    "\ufb01ne",
    "\u2167",
    "\u00bd",
    "\u2460",
    "e\u0301",
    "\u1e9b\u0323",
    "\u017f'\u017f",
    "'\u017f",
    "\u212a",
    "\u65e5\u672c\u8a9e",
    "\ud55c\uad6d\uc5b4",
    "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22",
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629",
    "\u05e2\u05d1\u05e8\u05d9\u05ea",
    "\u0939\u093f\u0928\u094d\u0926\u0940",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",
    "\U0001f1e9\U0001f1ea",
    "\u263a\ufe0f",
    "(",
    ")",
    "...",
    "!?",
    "@#$%",
    "\u2581",
    "\u2581\u2581",
    "\u0120",
    "\u010a",
    "<0x0A>",
    "<0x41>",
    "<",
    ">",
    "/",
    "\\",
    '"',
    "'",
    "\x00",
    "\x01",
    "\x7f",
    "\ufeff",
    "\ufffd",
    "\U0010fffd",
    "\ue000",
]
SPECIALS = [
    "<|endoftext|>",
    "<s>",
    "</s>",
    "<unk>",
    "<|im_start|>",
    "<|begin_of_text|>",
    "<mask>",
    "word",
    "<|extra|>",
]


def character(rng: random.Random) -> str:
    while True:
        code = chr(rng.randint(*rng.choice(RANGES)))
        if unicodedata.category(code) not in ("Cn", "Cs"):
            return code


def text(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.02:
        return rng.choice(WORDS) * rng.randint(1, 400)
    if kind < 0.04:
        return rng.choice(SPACES) * rng.randint(1, 60)
    parts = []
    script = rng.choice(RANGES)
    for _ in range(rng.randint(0, 40)):
        choice = rng.random()
        if choice < 0.35:
            parts.append(rng.choice(WORDS))
        elif choice < 0.6:
            parts.append(rng.choice(SPACES))
        elif choice < 0.75:
            parts.append("".join(chr(rng.randint(*script)) for _ in range(rng.randint(1, 6))))
        elif choice < 0.9:
            parts.append("".join(character(rng) for _ in range(rng.randint(1, 4))))
        elif choice < 0.95:
            parts.append(rng.choice(SPECIALS))
        else:
            parts.append("".join(rng.choice("abcdeist012 .\n'") for _ in range(rng.randint(1, 30))))
    result = "".join(parts)
    return "".join(
        c for c in result if unicodedata.category(c) not in ("Cn", "Cs") or c == "\U0010fffd"
    )


def texts(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return ["", " ", "\n"] + [text(rng) for _ in range(count - 3)]


def corpus() -> list[str]:
    """Text to train on: many words, many scripts."""
    rng = random.Random(7)
    lines = [text(rng) for _ in range(4000)]
    words = [
        "model",
        "expert",
        "router",
        "token",
        "train",
        "gradient",
        "mixture",
        "language",
        "data",
        "loss",
        "layer",
        "attention",
        "balance",
        "capacity",
        "the",
        "a",
        "of",
        "and",
        "is",
        "to",
    ]
    for _ in range(4000):
        lines.append(
            " ".join(rng.choice(words) for _ in range(rng.randint(3, 20))) + rng.choice(".,;!?")
        )
    return lines


if __name__ == "__main__":
    sys.exit("texts.py only holds functions")

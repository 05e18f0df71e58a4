#!/usr/bin/env python3
"""Writes bleu.json, beside this file: what sacrebleu says of sentences that are spoilt at random.

pip install sacrebleu==2.6.0; python3 tests/golden/make_bleu.py
"""
import json
import pathlib
import random

import sacrebleu
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

SENTENCES = [
    "Der Bürgermeister von Köln sagte am 3. Mai: „Wir müssen jetzt 1.250,75 Euro sparen – oder mehr.“",
    "Die Straße über den Fluss wurde 2014/15 für 12,5 Mio. € erneuert; sie ist 3.400 m lang.",
    "Äpfel, Öl und Übermut: das passt nicht zusammen, oder?",
    "\"So nicht\", meinte Frau Müller-Lüdenscheidt, 'und zwar nie!'",
    "A 10-year-old's dog (named \"Rex\") cost $1,299.99 in the U.S. last year.",
    "The rate fell from 3.5% to 2.75%, i.e. by 0.75 points - its lowest since 1998-99.",
    "AT&amp;T's letter said &quot;x &lt; y &gt; z&quot; and nothing else...",
    "Das Haus ist klein, aber das Haus ist schön, und das Haus ist unser Haus.",
    "E-Mail an max.mustermann@beispiel.de oder www.beispiel.de/über-uns_#1",
    "Il a dit : « L’été, c’est déjà fini ? »",
    "Er kam, sah und siegte.",
    "Москва — столица России; 北京是中国的首都。",
    "Ja.",
    "",
]
# What a tokenizer can stumble over: also entities in entities, and every whitespace of Python's.
PIECES = ["a", "Z", "ß", "Ü", "€", "’", "„", "北", "0", "3", "9", "42", ".", ",", "..", "-", "--", "'", " ", "  ",
          "<skipped>", "-\n", "\n", "\r\n", "\t", "&quot;", "&amp;", "&lt;", "&gt;", "&amp;lt;", "&amp;quot;", "&",
          ";", *"!\"#$%()*+/:<=>?@[\\]^_`{|}~", "\u00a0", "\u0085", "\u1680", "\u2003", "\u200a", "\u200b", "\u2028",
          "\u202f", "\u205f", "\u3000", "\v", "\f", "\x1c", "\x1f", "\x00", "\x7f", "\ufeff", "😀"]


def spoil(draw, sentence, strength):
    """About `strength` of all words gone, doubled, replaced or joined to a piece."""
    words = sentence.split()
    vocabulary = " ".join(SENTENCES).split()
    i = 0
    while i < len(words):
        if draw.random() < strength:
            words[i:i + 1] = draw.choice([[], [words[i], words[i]], [draw.choice(words)], [draw.choice(vocabulary)],
                                          [words[i] + draw.choice(PIECES)], [draw.choice(PIECES) + words[i]]])
        i += 1
    return " ".join(words)


def score(name, hypotheses, references):
    bleu = sacrebleu.corpus_bleu(hypotheses, [references])
    return {"name": name, "hypotheses": hypotheses, "references": references, "score": bleu.score,
            "precisions": bleu.precisions, "brevity_penalty": bleu.bp,
            "hypothesis_length": bleu.sys_len, "reference_length": bleu.ref_len}


def corpora(draw):
    yield score("unspoilt", SENTENCES, SENTENCES)
    yield score("shifted", SENTENCES[1:] + SENTENCES[:1], SENTENCES)
    yield score("whitespace at the ends", ["ein Satz mit Rest-\n", "\u3000noch ein Satz.\u2028\u00a0", "3.\x1f"],
                ["ein Satz mit Rest", "noch ein Satz.", "3."])
    for strength in (0.05, 0.2, 0.5, 0.9):
        for i in range(2):
            yield score(f"spoilt by {strength}, {i}", [spoil(draw, s, strength) for s in SENTENCES], SENTENCES)
    for i, sentence in enumerate(SENTENCES):  # a single sentence: orders without a match, or without n-grams
        for strength in (0.3, 0.8):
            yield score(f"sentence {i} spoilt by {strength}", [spoil(draw, sentence, strength)], [sentence])


def tokens(draw):
    tokenize = Tokenizer13a()
    for text in SENTENCES + ["".join(draw.choices(PIECES, k=draw.randint(1, 12))) for _ in range(150)]:
        yield {"text": text, "tokens": tokenize(text).split()}


def lines(cases):
    return "[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]"


def main():
    draw = random.Random(1)
    text = (f'{{"sacrebleu": "{sacrebleu.__version__}",\n"corpora": {lines(corpora(draw))},\n'
            f'"tokens": {lines(tokens(draw))}}}\n')
    pathlib.Path(__file__).with_name("bleu.json").write_text(text)


if __name__ == "__main__":
    main()

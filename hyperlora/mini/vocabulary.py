"""A small vocabulary of its own for the mini pack's text encoders, in CLIP's file format.

Byte level, so that any prompt can be tokenised: 256 bytes, 256 bytes that end a word, some hundred merges learned from
the captions' words, and the two marks for start and end. At most 1,000 tokens.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from hyperlora.mini.attributes import VOCABULARY, caption, draw_attributes
from hyperlora.mini.people import person

START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = 480
LENGTH = 77
TRIGGER_WORDS = "fcsks fxhks fhyks"

# what people write in portrait prompts beyond the captions' own words
_COMMON = (
    "a the of in on at with and wearing as by portrait photo photograph face person man woman young old older "
    "astronaut knight wizard queen king chef doctor scientist pirate space helmet armour crown cape uniform oil "
    "painting drawing anime film noir cinematic studio light lighting soft warm cold golden hour morning evening night "
    "winter summer autumn spring rain snow street cafe park mountain river sea ship castle train blurry ugly deformed "
    "low high quality detailed hair eyes smile glasses hat"
)


def byte_symbols() -> list[str]:
    """One printable character for each of the 256 bytes, as byte-level BPE writes them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(value) if value in printable else chr(next(spare)) for value in range(256)]


def corpus() -> list[str]:
    """The texts that merges are learned from: captions of the first training people, and common words."""
    texts = [caption(person(seed), draw_attributes(seed)) for seed in range(400)]
    texts += [" ".join(words) for words in VOCABULARY.values()] * 5
    return [*texts, *[_COMMON] * 12, *[TRIGGER_WORDS] * 40]


def learn_merges(texts: Iterable[str], count: int) -> list[tuple[str, str]]:
    """Byte pair encoding: the most frequent neighbours become one, `count` times; ties go by the alphabet."""
    symbols = byte_symbols()
    words: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        for word in text.lower().replace(",", " ").replace("-", " - ").split():
            letters = [symbols[byte] for byte in word.encode()]
            words[(*letters[:-1], letters[-1] + "</w>")] += 1
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for parts, times in words.items():
            for pair in pairwise(parts):
                pairs[pair] += times
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = Counter({_merged(parts, best): times for parts, times in words.items()})
    return merges


def _merged(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    k = 0
    while k < len(parts):
        if parts[k : k + 2] == pair:
            out.append(pair[0] + pair[1])
            k += 2
        else:
            out.append(parts[k])
            k += 1
    return tuple(out)


def write_tokenizer(folder: Path) -> dict[str, int]:
    """Write vocab.json, merges.txt and the configs of a `CLIPTokenizer`; answers with the vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    symbols = byte_symbols()
    merges = learn_merges(corpus(), MERGES)
    tokens = [*symbols, *(s + "</w>" for s in symbols), *dict.fromkeys(a + b for a, b in merges), START, END]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    config = {
        **special,
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": LENGTH,
        "tokenizer_class": "CLIPTokenizer",
    }
    _write(folder / "vocab.json", json.dumps(vocabulary, ensure_ascii=False))
    _write(folder / "merges.txt", "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    _write(folder / "tokenizer_config.json", json.dumps(config, indent=2) + "\n")
    _write(folder / "special_tokens_map.json", json.dumps(special, indent=2) + "\n")
    return vocabulary


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")

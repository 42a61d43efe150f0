"""What is said about a portrait in training: captions with the parts that a prompt may leave out, as token ids.

A caption is "portrait photo of WHO, wearing WHAT, FACE, PLACE". WHO is often said in general ("a woman", "a person"),
since a hypernetwork is to say it; each other part is left out now and then; trigger words stand in front now and then
and mean nothing to the foundation.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from hyperlora.mini.people import person
from hyperlora.mini.vocabulary import TRIGGER_WORDS, write_tokenizer

GENERAL = 0.5
LEFT_OUT = 0.12
TRIGGERED = 0.2
DROPPED = 0.1


def new_tokenizer(folder: Path) -> Any:
    """The mini pack's CLIPTokenizer, written into the folder."""
    from transformers import CLIPTokenizer

    write_tokenizer(folder)
    return CLIPTokenizer.from_pretrained(folder)


def general_subject(seed: int, chance: float) -> str:
    """A person without looks: "a woman", "a man" or, half the time and where neither is said, "a person"."""
    return f"a {person(seed).presentation}" if chance < 0.5 else "a person"


def spoken(caption: str, seed: int, chance: torch.Generator) -> str:
    """A caption as it is said this time; the empty text one time in ten."""
    dropped, general, kind, triggered, *parts_left = torch.rand(8, generator=chance).tolist()
    if dropped < DROPPED:
        return ""
    first, *parts = caption.split(", ")
    if general < GENERAL:
        subject = person(seed).subject
        first = first.replace(subject, general_subject(seed, kind))
    said = [first, *(part for part, left in zip(parts, parts_left, strict=False) if left >= LEFT_OUT)]
    words = ", ".join(said)
    return f"{TRIGGER_WORDS}, {words}" if triggered < TRIGGERED else words


class TokenIds:
    """Texts to (77,) token ids, each text tokenised once."""

    def __init__(self, tokenizer: Any) -> None:
        self._of = lru_cache(maxsize=200_000)(self._tokenise)
        self._tokenizer = tokenizer

    def of(self, texts: list[str]) -> torch.Tensor:
        """(B, 77) ids."""
        return torch.tensor([self._of(text) for text in texts])

    def _tokenise(self, text: str) -> tuple[int, ...]:
        length = self._tokenizer.model_max_length
        return tuple(self._tokenizer(text, padding="max_length", truncation=True, max_length=length).input_ids)

"""Prompts into embeddings, each text once.

Shapes: T tokens (77 for each chunk), C width of both text encoders together (2048), P pooled width (1280).

As in SDXL, the penultimate hidden states of both encoders are joined, and the pooled vector is the second encoder's.
Each text is encoded on its own, so that an embedding does not depend on what else is in the batch.

The encoders see 77 tokens at a time. A longer text is split into chunks of 75 between the marks for beginning and end,
each chunk is encoded on its own, and their tokens are joined; the pooled vector is the first chunk's. Nothing is lost.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from hyperlora.errors import InvalidRequest
from hyperlora.host_memory import present
from hyperlora.weighted import WeightedText, parse, with_words

CHUNK = 77
"""Tokens that a text encoder sees at a time, with the marks for beginning and end."""

ROOM = CHUNK - 2
"""Tokens of the text in a chunk."""


def with_trigger_words(prompt: str, trigger_words: str, *, weighted: bool = False) -> str:
    """Put the trigger words in front, unless the prompt has them already or there are none.

    In a weighted prompt that is a list of parts, as for `.blend()`, they go in front of each part.
    """
    words = trigger_words.strip(" ,")
    if not words:
        return prompt
    pattern = r"\s+".join(re.escape(word) for word in words.split())
    present = re.compile(rf"(?<!\w){pattern}(?!\w)", re.IGNORECASE)
    if weighted:
        return with_words(prompt, words, present)
    if present.search(prompt):
        return prompt
    return f"{words}, {prompt}" if prompt.strip() else words


@dataclass(frozen=True)
class PromptEmbedding:
    """One text as the UNet reads it."""

    tokens_TC: torch.Tensor
    pooled_P: torch.Tensor

    @property
    def chunks(self) -> int:
        """How often the encoders had to look: T / 77."""
        return self.tokens_TC.shape[0] // CHUNK

    def zeros(self) -> PromptEmbedding:
        """The empty negative prompt of base models that were trained so."""
        return PromptEmbedding(torch.zeros_like(self.tokens_TC), torch.zeros_like(self.pooled_P))

    def padded(self, chunks: int, empty: PromptEmbedding) -> PromptEmbedding:
        """The same text in `chunks` chunks: those that are missing are the empty text's; pooled stays as it is.

        Raises `InvalidRequest` where the text needs more chunks, or the empty text is not one chunk.
        """
        if chunks < self.chunks or empty.chunks != 1:
            raise InvalidRequest(
                f"a text of {self.chunks} chunks cannot be padded to {chunks} with one of {empty.chunks} chunks"
            )
        if chunks == self.chunks:
            return self
        padding = [empty.tokens_TC] * (chunks - self.chunks)
        return PromptEmbedding(torch.cat([self.tokens_TC, *padding]), self.pooled_P)


class PromptEncoder:
    """Both tokenizers and text encoders of an SDXL model, with the latest `capacity` texts remembered."""

    def __init__(self, tokenizers: tuple[Any, Any], text_encoders: tuple[Any, Any], *, capacity: int = 512) -> None:
        self._tokenizers = tokenizers
        self._text_encoders = text_encoders
        self._capacity = capacity
        self._cache: OrderedDict[tuple[str, bool], PromptEmbedding] = OrderedDict()
        self._together: ExitStack | None = None
        self.encoded = 0

    @contextmanager
    def together(self) -> Iterator[None]:
        """Encoders that only visit the device come at most once for all texts that are encoded inside."""
        with ExitStack() as visits:
            self._together = visits
            try:
                yield
            finally:
                self._together = None

    @torch.inference_mode()
    def encode(self, text: str, *, weighted: bool = False) -> PromptEmbedding:
        """Embed one text, or recall it; a weighted text is in compel's syntax, `PromptSyntax` where it cannot be read.

        A weighted text in which nothing is weighted gives exactly what the plain text gives.
        """
        key, cache = (text, weighted), self._cache
        if key in cache:
            cache.move_to_end(key)
            return cache[key]
        embedding = self._weighted(parse(text)) if weighted else self._plain(text)
        cache[key] = embedding
        if len(cache) > self._capacity:
            cache.popitem(last=False)
        return embedding

    def forget(self) -> None:
        """Let go of every remembered text; another thread may be encoding one, which is then not remembered."""
        self._cache = OrderedDict()

    def chunks(self, text: str, *, weighted: bool = False) -> int:
        """How many chunks `encode` would return, without encoding; `PromptSyntax` as there."""
        if (known := self._cache.get((text, weighted))) is not None:
            return known.chunks
        if not weighted:
            return max(len(self._rows(which, text)) for which in (0, 1))
        parsed = parse(text)
        if parsed.plain is not None:
            return self.chunks(parsed.plain)
        return max(
            parsed.chunks(lambda fragment, which=which: len(self._ids(which, fragment)), ROOM)  # type: ignore[misc]
            for which in (0, 1)
        )

    def _plain(self, text: str) -> PromptEmbedding:
        first, second = ([self._run(which, row) for row in self._rows(which, text)] for which in (0, 1))
        self.encoded += 1
        tokens_TC = self._joined(
            torch.cat([output.hidden_states[-2][0] for output in first]),
            torch.cat([output.hidden_states[-2][0] for output in second]),
        )
        return PromptEmbedding(tokens_TC, second[0].text_embeds[0])

    def _weighted(self, parsed: WeightedText) -> PromptEmbedding:
        if parsed.plain is not None:
            return self.encode(parsed.plain)
        sides = []
        for tokenizer, encoder in zip(self._tokenizers, self._text_encoders, strict=True):
            with self._present(encoder):
                sides.append(parsed.embed(tokenizer, encoder))
        first, second = sides
        self.encoded += 1
        # compel would pool over the text with its brackets and numbers; the words alone are what is meant.
        pooled = [(self.encode(text).pooled_P, share) for text, share in parsed.pooled]
        if len(pooled) == 1:
            return PromptEmbedding(self._joined(first, second), pooled[0][0])
        mixed_P = torch.stack([pooled_P.float() * share for pooled_P, share in pooled]).sum(dim=0)
        return PromptEmbedding(self._joined(first, second), mixed_P.to(pooled[0][0].dtype))

    def _joined(self, first_TC: torch.Tensor, second_TC: torch.Tensor) -> torch.Tensor:
        """Both encoders side by side; should their tokenizers cut differently, the shorter one ends in empty text."""
        longest = max(len(first_TC), len(second_TC))
        sides = [first_TC, second_TC]
        for which, missing in enumerate((longest - len(side_TC)) // CHUNK for side_TC in (first_TC, second_TC)):
            if missing:
                empty_TC = self._run(which, self._rows(which, "")[0]).hidden_states[-2][0]
                sides[which] = torch.cat([sides[which], *[empty_TC] * missing])
        return torch.cat(sides, dim=-1)

    def _ids(self, which: int, text: str) -> list[int]:
        ids: list[int] = self._tokenizers[which](text, add_special_tokens=False, verbose=False).input_ids
        return ids

    def _rows(self, which: int, text: str) -> list[list[int]]:
        """The text in chunks of 77 token ids: beginning, up to 75 of the text, end, padding."""
        tokenizer = self._tokenizers[which]
        ids = self._ids(which, text)
        pieces = [ids[start : start + ROOM] for start in range(0, max(1, len(ids)), ROOM)]
        return [
            [tokenizer.bos_token_id, *piece, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * (ROOM - len(piece))]
            for piece in pieces
        ]

    def _run(self, which: int, row: list[int]) -> Any:
        encoder = self._text_encoders[which]
        with self._present(encoder):
            return encoder(torch.tensor([row], device=encoder.device), output_hidden_states=True)

    @contextmanager
    def _present(self, encoder: Any) -> Iterator[None]:
        if self._together is not None:  # one visit more, which ends when all texts are encoded
            self._together.enter_context(present(encoder))
        with present(encoder):
            yield

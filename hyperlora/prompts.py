"""Prompts into embeddings, each text once.

Shapes: T tokens (77), C width of both text encoders together (2048), P pooled width (1280).

As in SDXL, the penultimate hidden states of both encoders are joined, and the pooled vector is the second encoder's.
Each text is encoded on its own, so that an embedding does not depend on what else is in the batch.
"""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch

logger = logging.getLogger(__name__)


def with_trigger_words(prompt: str, trigger_words: str) -> str:
    """Put the trigger words in front, unless the prompt has them already or there are none."""
    words = trigger_words.strip(" ,")
    if not words:
        return prompt
    pattern = r"\s+".join(re.escape(word) for word in words.split())
    if re.search(rf"(?<!\w){pattern}(?!\w)", prompt, re.IGNORECASE):
        return prompt
    return f"{words}, {prompt}" if prompt.strip() else words


@dataclass(frozen=True)
class PromptEmbedding:
    """One text as the UNet reads it."""

    tokens_TC: torch.Tensor
    pooled_P: torch.Tensor

    def zeros(self) -> PromptEmbedding:
        """The empty negative prompt of base models that were trained so."""
        return PromptEmbedding(torch.zeros_like(self.tokens_TC), torch.zeros_like(self.pooled_P))


class PromptEncoder:
    """Both tokenizers and text encoders of an SDXL model, with the latest `capacity` texts remembered."""

    def __init__(self, tokenizers: tuple[Any, Any], text_encoders: tuple[Any, Any], *, capacity: int = 512) -> None:
        self._tokenizers = tokenizers
        self._text_encoders = text_encoders
        self._capacity = capacity
        self._cache: OrderedDict[str, PromptEmbedding] = OrderedDict()
        self.encoded = 0

    @torch.inference_mode()
    def encode(self, text: str) -> PromptEmbedding:
        """Embed one text, or recall it; text beyond 77 tokens is cut off with a warning in the log."""
        if text in self._cache:
            self._cache.move_to_end(text)
            return self._cache[text]
        first = self._run(0, text)
        second = self._run(1, text)
        tokens_TC = torch.cat([first.hidden_states[-2][0], second.hidden_states[-2][0]], dim=-1)
        embedding = PromptEmbedding(tokens_TC, second.text_embeds[0])
        self.encoded += 1
        self._cache[text] = embedding
        if len(self._cache) > self._capacity:
            self._cache.popitem(last=False)
        return embedding

    def _run(self, which: int, text: str) -> Any:
        tokenizer, encoder = self._tokenizers[which], self._text_encoders[which]
        limit = tokenizer.model_max_length
        ids = tokenizer(text, padding="max_length", max_length=limit, truncation=True, return_tensors="pt").input_ids
        count = len(tokenizer(text).input_ids)
        if count > limit:
            logger.warning("a prompt of %d tokens is cut off after %d: %.60s...", count, limit, text)
        return encoder(ids.to(encoder.device), output_hidden_states=True)

"""Captions as the UNet reads them, a batch of texts in one pass of the encoders.

Shapes: B samples, T = 77 text tokens, C width of both encoders together, P pooled width.

A text is cut after 77 tokens, as SDXL was trained. By default every text is encoded again in every step: an embedding's
last bit depends on what else is in the pass, and a run that goes on after an interruption must not depend on what was
remembered before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch

from hyperlora.components import SDXLComponents
from hyperlora.prompts import CHUNK


class Captions:
    """Both text encoders of an SDXL model, with the latest `capacity` texts remembered (0: none)."""

    def __init__(self, components: SDXLComponents, capacity: int = 0) -> None:
        self._tokenizers, self._encoders = components.tokenizers, components.text_encoders
        self._zeros_for_empty = components.force_zeros_for_empty_prompt
        self._capacity = capacity
        self._remembered: OrderedDict[str, tuple[torch.Tensor, torch.Tensor]] = OrderedDict()

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (B, T, C) and pooled vectors (B, P); an empty text is zeros where the model was trained so."""
        unique = list(dict.fromkeys(texts))
        known = {text: self._remembered[text] for text in unique if text in self._remembered}
        missing = [text for text in unique if text not in known]
        if missing:
            known.update(zip(missing, self._run(missing), strict=True))
        for text in unique:
            self._remember(text, known[text])
        rows = [known[text] for text in texts]
        return torch.stack([tokens_TC for tokens_TC, _ in rows]), torch.stack([pooled_P for _, pooled_P in rows])

    def _remember(self, text: str, row: tuple[torch.Tensor, torch.Tensor]) -> None:
        if self._capacity:
            self._remembered[text] = row
            self._remembered.move_to_end(text)
            if len(self._remembered) > self._capacity:
                self._remembered.popitem(last=False)

    def _run(self, texts: list[str]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        first, second = (self._outputs(which, texts) for which in (0, 1))
        tokens_BTC = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        pooled_BP: torch.Tensor = second.text_embeds
        if self._zeros_for_empty:
            spoken_B = torch.tensor([bool(text) for text in texts], device=tokens_BTC.device)
            tokens_BTC, pooled_BP = tokens_BTC * spoken_B[:, None, None], pooled_BP * spoken_B[:, None]
        return list(zip(tokens_BTC, pooled_BP, strict=True))

    def _outputs(self, which: int, texts: list[str]) -> Any:
        ids = self._tokenizers[which](
            texts, padding="max_length", max_length=CHUNK, truncation=True, return_tensors="pt"
        ).input_ids
        encoder = self._encoders[which]
        return encoder(ids.to(encoder.device), output_hidden_states=True)

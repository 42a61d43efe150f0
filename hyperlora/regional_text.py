"""The words of a region for a whole batch.

Shapes: B rows of the batch (with guidance doubled, negative prompts first), T text tokens, C their width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hyperlora.texts import TextPair


@dataclass(frozen=True, eq=False)
class RegionText:
    """Tokens of a region's prompts, and which of them count: a mask (True counts), None where all do."""

    tokens_BTC: torch.Tensor
    mask_B11T: torch.Tensor | None


def region_text(pairs: Sequence[TextPair], *, device: torch.device, dtype: torch.dtype) -> RegionText:
    """Stack a region's texts.

    With a region's words some samples may need more chunks than others. The shorter are filled up with zeros that
    attention leaves out, so that a picture does not depend on its neighbours.
    """
    rows = [*(pair.negative for pair in pairs if pair.negative is not None), *(pair.prompt for pair in pairs)]
    tokens = [row.tokens_TC.to(device, dtype) for row in rows]
    lengths = [len(tokens_TC) for tokens_TC in tokens]
    tokens_BTC = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
    if min(lengths) == max(lengths):
        return RegionText(tokens_BTC, None)
    counts_B1 = torch.tensor(lengths, device=device)[:, None]
    mask_BT = torch.arange(max(lengths), device=device)[None] < counts_B1
    return RegionText(tokens_BTC, mask_BT[:, None, None])

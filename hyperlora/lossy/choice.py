"""Which linear layers are worth fewer bits.

In SDXL's UNet, of all linear work at 1024 pixels: the projections of the picture's own tokens (self-attention, queries
and results of cross-attention) 32 %, feed-forward layers 65 %, all others 3 %. Those others stay exact:

- keys and values of cross-attention (1.2 %) read 77 tokens of text, once a batch where they are cached;
- `proj_in` and `proj_out` (1.7 %) carry the whole of a transformer's input and output;
- embeddings of time and size have one row a picture, and everything hangs on them.

What each group costs in pictures: docs/lossy.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import nn

from hyperlora.errors import LossyMismatch

LARGE = r"attn1\.(?:to_q|to_k|to_v|to_out\.0)|attn2\.(?:to_q|to_out\.0)|ff\.net\.(?:0\.proj|2)"
"""What is quantised, as a pattern of the names within a transformer block."""


def large_linears(unet: nn.Module, multiple: int, within: str = LARGE) -> dict[str, nn.Linear]:
    """Layer -> linear layer, named as LoRA files name them, whose sides are multiples of what the product wants.

    Raises `LossyMismatch` where there is none, or where one of them is not a plain linear layer.
    """
    pattern = re.compile(rf"(?:.*\.)?transformer_blocks\.\d+\.(?:{within})")
    found = {path: module for path, module in unet.named_modules() if pattern.fullmatch(path)}
    _require_plain(found.items())
    fitting = {
        f"lora_unet_{path.replace('.', '_')}": module
        for path, module in found.items()
        if isinstance(module, nn.Linear) and _fits(module, multiple)
    }
    if not fitting:
        raise LossyMismatch(
            f"the UNet has no attention or feed-forward layers, named as in diffusers, whose sides are multiples of "
            f"{multiple}; found {len(found)} of other sides"
        )
    return fitting


def _fits(module: nn.Linear, multiple: int) -> bool:
    return module.in_features % multiple == 0 and module.out_features % multiple == 0


def _require_plain(found: Iterable[tuple[str, nn.Module]]) -> None:
    for path, module in found:
        if type(module) is not nn.Linear:
            raise LossyMismatch(
                f"{path} is a {type(module).__name__}, wanted a plain linear layer; take out adapters and other "
                "quantisation first"
            )

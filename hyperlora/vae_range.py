"""SDXL's autoencoder in half precision: the same function with smaller numbers inside.

The trained autoencoder's activations exceed 65504, the largest number of float16, and come out as NaN. All that reads
them normalises first, so they may be smaller by any factor: every convolution that writes them is divided by 32, and
the norms' epsilon by 32 squared. As 32 is a power of two, nothing is rounded anew but what becomes very small.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

SMALLER = 32.0
"""The activations' range grows from 65504 to 2 million; weights stay above what float16 holds with full precision."""


@torch.no_grad()
def fit_half(vae: Any, *, smaller: float = SMALLER) -> None:
    """Make the numbers inside encoder and decoder smaller, once; what goes in and comes out is unchanged."""
    for part in (vae.encoder, vae.decoder):
        part.conv_in.weight /= smaller
        for module in part.modules():
            if type(module).__name__ == "ResnetBlock2D":
                module.conv1.weight /= smaller  # read by the block's second norm
                module.conv2.weight /= smaller
            if type(module).__name__ == "Attention":
                module.to_out[0].weight /= smaller
                module.to_out[0].bias /= smaller
        # What is added must be as small as what it is added to.
        for bias in _biases(part):
            bias.div_(smaller)
        for norm in part.modules():
            if isinstance(norm, nn.GroupNorm):
                norm.eps /= smaller * smaller


def _biases(part: Any) -> Iterator[torch.Tensor]:
    """Of every convolution whose output is read by a norm: all but the last."""
    for module in part.modules():
        if isinstance(module, nn.Conv2d) and module is not part.conv_out and module.bias is not None:
            yield module.bias

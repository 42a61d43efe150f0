"""One batch's calls of the UNet: rows filled up to a compiled shape, and every call of the same form.

Compiled code is found by shapes, dtypes and memory layout, so nothing of these may change from step to step.

Shapes: B rows of the batch (doubled with guidance), latents (B, 4, H, W).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from copy import copy
from typing import Any

import torch

KEPT = ("encoder_hidden_states", "added_cond_kwargs")


class UNetCall:
    """What `denoise` takes for the UNet: the same arguments and results, for the rows that were asked for."""

    def __init__(self, unet: Any, more: int, mode: Callable[[], AbstractContextManager[Any]]) -> None:
        """`more` rows are added, copies of the last one; `mode` is the context of every call."""
        self._unet, self._more, self._mode = unet, more, mode
        self.dtype: torch.dtype = unet.dtype
        self._layout = torch.channels_last if _is_channels_last(unet) else torch.contiguous_format
        self._kept: dict[str, tuple[Any, Any]] = {}

    def __call__(self, sample: torch.Tensor, timestep: torch.Tensor, **others: Any) -> tuple[torch.Tensor]:
        """(B, 4, H, W) of noise, in a tuple."""
        filled = {name: self._filled(name, value) for name, value in others.items()}
        with self._mode():
            (noise_BCHW,) = self._unet(
                fill(sample, self._more).contiguous(memory_format=self._layout),
                timestep,
                **filled,
            )
        return (noise_BCHW[: len(sample)],)

    def through(self, unet: Any) -> UNetCall:
        """The same rows and context for what stands in the UNet's place."""
        call = copy(self)
        call._unet = unet
        return call

    def _filled(self, name: str, value: Any) -> Any:
        """An argument with the rows added; texts, which are the same in every step, are not made again."""
        if name not in KEPT:
            return filled(value, self._more)
        if name not in self._kept or self._kept[name][0] is not value:
            self._kept[name] = (value, filled(value, self._more))
        return self._kept[name][1]


def fill(rows: torch.Tensor, more: int) -> torch.Tensor:
    """The rows with so many copies of the last one after them."""
    return torch.cat([rows, rows[-1:].expand(more, *rows.shape[1:])]) if more else rows


def filled(value: Any, more: int) -> Any:
    """The same for all tensors of an argument, each in one piece."""
    if isinstance(value, torch.Tensor):
        return fill(value, more).contiguous()
    if isinstance(value, tuple | list):
        return type(value)(filled(each, more) for each in value)
    if isinstance(value, dict):
        return {name: filled(each, more) for name, each in value.items()}
    return value


def _is_channels_last(unet: Any) -> bool:
    weight: torch.Tensor = unet.conv_in.weight
    return weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()

"""The number types of quantised linear layers: how weights get there, and how they are multiplied with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import nn

from hyperlora.errors import InvalidRequest
from hyperlora.lossy import fp8, int8

Quantise = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]


class QuantisedLinear(nn.Linear):
    """A linear layer that multiplies by a quantised copy of its weight, which is written from outside.

    An existing layer becomes one by its class, so names, weight, state dict and hooks stay: a LoRA that is added to its
    output, for each sample its own, stays in the UNet's dtype.
    """

    quantised_OI: torch.Tensor
    scale_O: torch.Tensor

    def _require_no_gradient(self, x: torch.Tensor) -> None:
        if torch.is_grad_enabled() and x.requires_grad:
            raise InvalidRequest("rounding has no gradient: training needs exact layers, call pipeline.use(None)")


class Int8Linear(QuantisedLinear):
    """8-bit integers."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(..., I) to (..., O)."""
        self._require_no_gradient(input)
        return int8.linear(input, self.quantised_OI, self.scale_O, self.bias)


class Fp8Linear(QuantisedLinear):
    """8-bit floats, on GPUs that have them."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(..., I) to (..., O)."""
        self._require_no_gradient(input)
        return fp8.linear(input, self.quantised_OI, self.scale_O, self.bias)


class EmulatedFp8Linear(QuantisedLinear):
    """The same rounding anywhere."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(..., I) to (..., O)."""
        self._require_no_gradient(input)
        return fp8.emulated(input, self.quantised_OI, self.scale_O, self.bias)


def _anywhere(device: torch.device) -> None:
    """Every device can."""


@dataclass(frozen=True)
class Kind:
    """One number type.

    Parameters
    ----------
    layer
        What a linear layer becomes.
    dtype, multiple
        Of the quantised weights, and what both of their sides must be multiples of.
    quantise
        Writes weights (N, O, I) into a buffer of the dtype and scales (N, O) in float32.
    require_device
        Raises `LossyMismatch` for a device that cannot.
    """

    layer: type[QuantisedLinear]
    dtype: torch.dtype
    multiple: int
    quantise: Quantise
    require_device: Callable[[torch.device], None]


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "int8": Kind(Int8Linear, int8.DTYPE, int8.MULTIPLE, int8.quantise, int8.require_device),
        "fp8": Kind(Fp8Linear, fp8.DTYPE, fp8.MULTIPLE, fp8.quantise, fp8.require_device),
        "fp8-emulated": Kind(EmulatedFp8Linear, fp8.DTYPE, fp8.MULTIPLE, fp8.quantise, _anywhere),
    }
)
"""By the names of `LINEARS`."""

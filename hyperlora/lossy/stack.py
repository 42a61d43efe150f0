"""Quantised copies of linear layers of one shape, in one tensor that is made once.

Shapes: N layers of one shape, O output features, I input features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from hyperlora.errors import InvalidRequest
from hyperlora.lossy.kinds import Kind, QuantisedLinear

SCRATCH_BYTES = {"cpu": 8 << 20, "cuda": 256 << 20}
"""What weights in float32 may take on their way into 8 bits."""


class QuantisedStack:
    """Linear layers of one shape: their weights as they are, and buffers that are written from them.

    Layers lie in the order in which their weights lie in memory: where these are a stack already (those that LoRAs are
    merged into are), they are read in a few pieces and not one by one.
    """

    def __init__(self, layers: Mapping[str, nn.Linear], kind: Kind) -> None:
        ordered = sorted(layers.items(), key=lambda item: item[1].weight.data_ptr())
        self.names = tuple(name for name, _ in ordered)
        self._modules = tuple(module for _, module in ordered)
        self._kind = kind
        like = self._modules[0].weight
        count = len(ordered)
        # Written to for as long as the layers are quantised, wherever that happens.
        with torch.inference_mode(False):
            self.quantised_NOI = torch.zeros((count, *like.shape), dtype=kind.dtype, device=like.device)
            self.scales_NO = torch.ones((count, like.shape[0]), dtype=torch.float32, device=like.device)
            for module, rows_OI, scale_O in zip(self._modules, self.quantised_NOI, self.scales_NO, strict=True):
                module.register_buffer("quantised_OI", rows_OI, persistent=False)
                module.register_buffer("scale_O", scale_O, persistent=False)
                module.__class__ = kind.layer

    @torch.no_grad()
    def refresh(self) -> None:
        """Write all copies anew from the weights as they are now. Raises `InvalidRequest` where a layer was moved."""
        for module, rows_OI in zip(self._modules, self.quantised_NOI, strict=True):
            if not isinstance(module, QuantisedLinear) or module.quantised_OI.data_ptr() != rows_OI.data_ptr():
                raise InvalidRequest(
                    "the UNet was moved or cast after its layers were quantised, so nothing that is merged would reach "
                    "them; move and cast it first, then call pipeline.use"
                )
        for start in range(0, len(self._modules), self._at_once):
            stop = start + self._at_once
            weights_NOI = _as_one([module.weight for module in self._modules[start:stop]])
            self._kind.quantise(weights_NOI, self.quantised_NOI[start:stop], self.scales_NO[start:stop])

    def release(self) -> None:
        """Make the layers plain again."""
        for module in self._modules:
            module.__class__ = nn.Linear
            del module.quantised_OI, module.scale_O

    @property
    def _at_once(self) -> int:
        room = SCRATCH_BYTES.get(self.quantised_NOI.device.type, SCRATCH_BYTES["cuda"])
        return max(1, room // (4 * self.quantised_NOI[0].numel()))


def stack_layers(layers: Mapping[str, nn.Linear], kind: Kind) -> tuple[QuantisedStack, ...]:
    """Stack layers by shape, dtype and device."""
    alike: dict[tuple[object, ...], dict[str, nn.Linear]] = {}
    for name, module in layers.items():
        weight = module.weight
        alike.setdefault((weight.shape, weight.dtype, weight.device), {})[name] = module
    return tuple(QuantisedStack(members, kind) for members in alike.values())


def _as_one(weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """(N, O, I) of N weights: a view where one lies behind the other in one storage, else a copy."""
    first, step = weights[0], weights[0].numel()
    storage, begin = first.untyped_storage().data_ptr(), first.storage_offset()
    in_line = all(
        weight.is_contiguous()
        and weight.untyped_storage().data_ptr() == storage
        and weight.storage_offset() == begin + row * step
        for row, weight in enumerate(weights)
    )
    if not in_line:
        return torch.stack(list(weights))
    return first.as_strided((len(weights), *first.shape), (step, first.shape[1], 1))

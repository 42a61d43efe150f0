"""The UNet's large linear layers in 8 bits: merged first, then quantised."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from hyperlora.lossy.choice import large_linears
from hyperlora.lossy.kinds import KINDS
from hyperlora.lossy.stack import stack_layers


class QuantisedLinears:
    """The quantised copies beside a UNet's weights; the UNet multiplies by them until `release`.

    The weights stay as they are, in the UNet's dtype: LoRAs are merged into those, and `refresh` makes the copies of
    what changed anew, in the same buffers, so that compiled and captured graphs see them. A copy takes a byte a weight.

    Raises `LossyMismatch` for a device that cannot and for a UNet without layers that fit.
    """

    def __init__(self, unet: Any, name: str) -> None:
        kind = KINDS[name]
        kind.require_device(unet.device)
        layers = large_linears(unet, kind.multiple)
        self.names = tuple(layers)
        self._stacks = stack_layers(layers, kind)
        for stack in self._stacks:
            stack.refresh()

    @property
    def buffer_bytes(self) -> int:
        """What the copies take."""
        tensors = [tensor for stack in self._stacks for tensor in (stack.quantised_NOI, stack.scales_NO)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def refresh(self, changed: Collection[str]) -> None:
        """Quantise anew the stacks in which one of these layers is."""
        layers = frozenset(changed)
        for stack in self._stacks:
            if not layers.isdisjoint(stack.names):
                stack.refresh()

    def release(self) -> None:
        """Let the UNet multiply by its own weights again, and free the copies."""
        for stack in self._stacks:
            stack.release()
        self._stacks = ()

"""The lossy options of one UNet, switched on and off."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from typing import Any

from hyperlora.errors import LossyMismatch
from hyperlora.lossy.cache import CachedUNet, require_blocks
from hyperlora.lossy.linears import QuantisedLinears
from hyperlora.lossy.options import EXACT, LossyOptions
from hyperlora.lossy.schedule import whole_steps


class Lossy:
    """What is on, for one UNet; nothing at first."""

    def __init__(self, unet: Any) -> None:
        self.options = EXACT
        self._unet = unet
        self._linears: QuantisedLinears | None = None

    def use(self, options: LossyOptions, *, whole: bool = False) -> None:
        """Switch to these options; `whole` tells that the UNet is compiled as one piece.

        Raises `LossyMismatch` for what this UNet or device cannot; then nothing is on.
        """
        self.options = EXACT
        if self._linears is not None:
            self._linears.release()
            self._linears = None
        if options.cache is not None:
            require_blocks(self._unet, options.cache.blocks)
            if whole:
                raise LossyMismatch(
                    "cache cuts steps short between the UNet's blocks, and the UNet is compiled whole; compile its "
                    'blocks (compile="blocks", PORTRAITS_COMPILE=blocks) or leave `cache` out'
                )
        if options.linears is not None:
            self._linears = QuantisedLinears(self._unet, options.linears)
        self.options = options

    def refresh(self, changed: Collection[str]) -> None:
        """The weights of these layers (named as LoRA files do) were merged over."""
        if self._linears is not None:
            self._linears.refresh(changed)

    def stepped(self, conditions: Sequence[Hashable]) -> Any:
        """What is called as the UNet in one batch, once for each of these conditions (see `whole_steps`)."""
        cache = self.options.cache
        if cache is None or cache.every == 1:
            return self._unet
        return CachedUNet(self._unet, cache.blocks, whole_steps(cache, conditions))

    @property
    def buffer_bytes(self) -> int:
        """What the options keep on the device beside the model."""
        return 0 if self._linears is None else self._linears.buffer_bytes

"""The autoencoder's decoder: a few pictures in one pass, by compiled code where their size is warm.

Shapes: B pictures, latents (B, 4, H, W), pixels (B, 3, 8 H, 8 W).
"""

from __future__ import annotations

from typing import Any

import torch

from hyperlora.compiler import Compiler
from hyperlora.host_memory import present
from hyperlora.unet_call import fill


class VaeDecoder:
    """Decodes the pictures of a pass; one that is a little smaller than a compiled pass is filled up."""

    def __init__(self, vae: Any, compiler: Compiler) -> None:
        self._vae, self._compiler = vae, compiler
        self._warm: set[tuple[int, int, int]] = set()
        """Height and width of latents, and how many are decoded in a compiled pass."""
        if compiler.on:
            compiler.take([vae.decoder])

    def __call__(self, latents_BCHW: torch.Tensor) -> torch.Tensor:
        """(B, 3, 8 H, 8 W), in the autoencoder's dtype."""
        height, width = latents_BCHW.shape[-2:]
        asked = len(latents_BCHW)
        most = self._compiler.options.room * asked
        able = [count for high, wide, count in self._warm if (high, wide) == (height, width) and asked <= count <= most]
        more = min(able, default=asked) - asked
        return self._decoded(fill(latents_BCHW, more))[: len(latents_BCHW)]

    def warm(self, height: int, width: int, at_once: int) -> None:
        """Compile for so many latents of this size in a pass. Raises `CompilationFailed`."""
        if not self._compiler.on or (height, width, at_once) in self._warm:
            return
        config = self._vae.config
        with present(self._vae):
            latents = torch.zeros(
                (at_once, config.latent_channels, height, width), device=self._vae.device, dtype=self._vae.dtype
            )
            with self._compiler.warming(f"decoding {at_once} pictures with latents of {width}x{height}") as prove:
                self._decoded(latents)
                prove()
                self._decoded(latents)
        self._warm.add((height, width, at_once))

    def _decoded(self, latents_BCHW: torch.Tensor) -> torch.Tensor:
        with self._compiler.running():
            pixels_B3HW: torch.Tensor = self._vae.decode(latents_BCHW.contiguous(), return_dict=False)[0]
        return pixels_B3HW

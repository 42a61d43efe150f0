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
    """Decodes at most `at_once` pictures in a pass; a smaller pass is filled up where that reaches compiled code."""

    def __init__(self, vae: Any, compiler: Compiler, *, at_once: int) -> None:
        self._vae, self._at_once, self._compiler = vae, at_once, compiler
        self._warm: set[tuple[int, int]] = set()
        if compiler.on:
            compiler.take([vae.decoder])

    def __call__(self, latents_BCHW: torch.Tensor) -> torch.Tensor:
        """(B, 3, 8 H, 8 W), in the autoencoder's dtype."""
        height, width = latents_BCHW.shape[-2:]
        more = max(0, self._at_once - len(latents_BCHW)) if (height, width) in self._warm else 0
        return self._decoded(fill(latents_BCHW, more))[: len(latents_BCHW)]

    def warm(self, height: int, width: int) -> None:
        """Compile for latents of this size. Raises `CompilationFailed`."""
        if not self._compiler.on or (height, width) in self._warm:
            return
        config = self._vae.config
        with present(self._vae):
            latents = torch.zeros(
                (self._at_once, config.latent_channels, height, width), device=self._vae.device, dtype=self._vae.dtype
            )
            with self._compiler.warming(f"decoding {self._at_once} pictures with latents of {width}x{height}"):
                self._decoded(latents)
        self._warm.add((height, width))

    def _decoded(self, latents_BCHW: torch.Tensor) -> torch.Tensor:
        with self._compiler.running():
            pixels_B3HW: torch.Tensor = self._vae.decode(latents_BCHW.contiguous(), return_dict=False)[0]
        return pixels_B3HW

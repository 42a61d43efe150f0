"""The branches of a network as modules of their own: conditions in, one LoRA per sample out.

Shapes: B samples, E face embedding, T CLIP tokens of width C, Q tokens, K bases, I inputs, O outputs, R rank.

They share their parameters with the network that they are made of. The trained one is what accelerate wraps; the frozen
ones stay outside.
"""

from __future__ import annotations

import torch
from torch import nn

from hyperlora.coefficients import normalise
from hyperlora.config import Branch
from hyperlora.network import HyperLoRA

FactorDict = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""Layer -> (down (B, I, R), up (B, R, O))."""


class IdBranch(nn.Module):
    """ID-LoRA: face embeddings and CLIP tokens of the masked face."""

    def __init__(self, network: HyperLoRA) -> None:
        super().__init__()
        self.streams = network.config.streams
        self.resampler = network.resampler
        self.id_projector = network.id_projector
        self.id_bases = network.id_bases

    def forward(self, face_embeddings_BE: torch.Tensor | None, clip_tokens_BTC: torch.Tensor | None) -> FactorDict:
        """Each sample's factors; a stream that is None is left out."""
        given: list[torch.Tensor | None] = []
        for stream in self.streams:
            if stream == "clip" or face_embeddings_BE is None:
                given.append(clip_tokens_BTC if stream == "clip" else None)
            else:
                assert self.id_projector is not None
                given.append(self.id_projector(face_embeddings_BE))
        coefficients_BQK = normalise(self.resampler(*given))
        return self.id_bases.mix_batch(coefficients_BQK)


class BaseBranch(nn.Module):
    """Base-LoRA: CLIP tokens of the photo with its face blurred away."""

    def __init__(self, network: HyperLoRA) -> None:
        super().__init__()
        assert network.base_resampler is not None
        assert network.base_bases is not None
        self.base_resampler = network.base_resampler
        self.base_bases = network.base_bases

    def forward(self, base_tokens_BTC: torch.Tensor) -> FactorDict:
        """Each sample's factors."""
        coefficients_BQK = normalise(self.base_resampler(base_tokens_BTC))
        return self.base_bases.mix_batch(coefficients_BQK)


def make_branch(network: HyperLoRA, branch: Branch) -> IdBranch | BaseBranch:
    """The branch of a network by its name."""
    return IdBranch(network) if branch == "id" else BaseBranch(network)

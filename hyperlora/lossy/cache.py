"""The deep part of the UNet is computed in some steps, and its last result is used in the others.

What the deep part of a UNet gives changes slowly from step to step, and what lies near the ends changes fast; the skip
connections go around the deep part. So a step may be cut short: the first down blocks, then the last up blocks on what
the deep part gave the last time. (The idea is DeepCache's, Ma et al. 2023, https://arxiv.org/abs/2312.00858.)

    whole   conv_in, down 0 .. n, mid, up 0 .. n, conv_out        what goes into up n - blocks + 1 is kept
    short   conv_in, down 0 .. blocks - 1, up n - blocks + 1 .. n, conv_out

Everything that is kept belongs to one batch: its rows, guidance's among them, its sizes, its regions.

Shapes: B rows of the batch (doubled with guidance), latents (B, C, H, W), E width of the time embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hyperlora.errors import LossyMismatch

Residuals = Sequence[torch.Tensor] | None


def require_blocks(unet: Any, blocks: int) -> None:
    """Raise `LossyMismatch` where so many up blocks are all of them: nothing deep would be left."""
    most = len(unet.up_blocks) - 1
    if not 1 <= blocks <= most:
        raise LossyMismatch(
            f"cache: `blocks` must be from 1 to {most} for this UNet, which has {most + 1} up blocks, found {blocks}"
        )


@dataclass(frozen=True)
class _Read:
    """What all blocks of one step read."""

    embedding_BE: torch.Tensor
    tokens_BTC: torch.Tensor

    def for_block(self, block: Any) -> dict[str, torch.Tensor]:
        """The arguments of one block."""
        given = {"temb": self.embedding_BE}
        return {**given, "encoder_hidden_states": self.tokens_BTC} if _reads_text(block) else given


def whole_step(
    unet: Any,
    blocks: int,
    sample_BCHW: torch.Tensor,
    timestep: torch.Tensor,
    tokens_BTC: torch.Tensor,
    added: dict[str, torch.Tensor],
    residuals: Residuals,
    middle: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, C, H, W) of noise, exactly as the UNet gives it, and what goes into the last `blocks` up blocks."""
    read = _begin(unet, sample_BCHW, timestep, tokens_BTC, added)
    hidden, skips = _down(unet, unet.conv_in(sample_BCHW), read, len(unet.down_blocks))
    skips = _with_residuals(skips, residuals)
    hidden = unet.mid_block(hidden, **read.for_block(unet.mid_block))
    if middle is not None:
        hidden = hidden + middle
    first = len(unet.up_blocks) - blocks
    deep = _up(unet, hidden, skips, read, range(first), _is_uneven(unet, sample_BCHW))
    return _end(unet, deep, skips, read, first, sample_BCHW), deep


def short_step(
    unet: Any,
    blocks: int,
    sample_BCHW: torch.Tensor,
    timestep: torch.Tensor,
    tokens_BTC: torch.Tensor,
    added: dict[str, torch.Tensor],
    residuals: Residuals,
    deep: torch.Tensor,
) -> torch.Tensor:
    """(B, C, H, W) of noise, from the first down blocks, what the deep part gave before, and the last up blocks."""
    read = _begin(unet, sample_BCHW, timestep, tokens_BTC, added)
    _, skips = _down(unet, unet.conv_in(sample_BCHW), read, blocks)
    first = len(unet.up_blocks) - blocks
    # The last block's own downsampled result belongs to a block that is left out.
    skips = _with_residuals(skips, residuals)[: sum(len(block.resnets) for block in unet.up_blocks[first:])]
    return _end(unet, deep, skips, read, first, sample_BCHW)


class CachedUNet:
    """Called as the UNet is, once a step, for one batch: the steps' plan is walked, and nothing outlives the object."""

    def __init__(self, unet: Any, blocks: int, whole: Sequence[bool]) -> None:
        """`whole` tells for every step whether all of it is computed; the first is."""
        self._unet, self._blocks, self._whole = unet, blocks, tuple(whole)
        self._step = 0
        self._deep: torch.Tensor | None = None

    def __call__(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        *,
        encoder_hidden_states: torch.Tensor,
        added_cond_kwargs: dict[str, torch.Tensor],
        down_block_additional_residuals: Residuals = None,
        mid_block_additional_residual: torch.Tensor | None = None,
        return_dict: bool = False,
    ) -> tuple[torch.Tensor]:
        """(B, C, H, W) of noise, in a tuple; named as the UNet's own arguments."""
        step, self._step = self._step, self._step + 1
        asked = (self._unet, self._blocks, sample, timestep, encoder_hidden_states, added_cond_kwargs)
        if not self._whole[step] and self._deep is not None:
            return (short_step(*asked, down_block_additional_residuals, self._deep),)
        noise_BCHW, self._deep = whole_step(*asked, down_block_additional_residuals, mid_block_additional_residual)
        return (noise_BCHW,)


def _begin(
    unet: Any,
    sample_BCHW: torch.Tensor,
    timestep: torch.Tensor,
    tokens_BTC: torch.Tensor,
    added: dict[str, torch.Tensor],
) -> _Read:
    """Time, size and pooled text as one embedding (B, E)."""
    embedding_BE = unet.time_embedding(unet.get_time_embed(sample=sample_BCHW, timestep=timestep))
    more_BE = unet.get_aug_embed(emb=embedding_BE, encoder_hidden_states=tokens_BTC, added_cond_kwargs=added)
    return _Read(embedding_BE if more_BE is None else embedding_BE + more_BE, tokens_BTC)


def _down(unet: Any, hidden: torch.Tensor, read: _Read, count: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The first `count` down blocks: what comes out, and everything that skips over the deeper ones."""
    skips = [hidden]
    for block in unet.down_blocks[:count]:
        hidden, own = block(hidden_states=hidden, **read.for_block(block))
        skips += own
    return hidden, skips


def _up(
    unet: Any, hidden: torch.Tensor, skips: list[torch.Tensor], read: _Read, which: range, uneven: bool
) -> torch.Tensor:
    """Some up blocks in order; each takes its skips from the end of the list."""
    for number in which:
        block = unet.up_blocks[number]
        own = tuple(skips[-len(block.resnets) :])
        del skips[-len(block.resnets) :]
        size = skips[-1].shape[2:] if uneven and skips else None
        hidden = block(hidden_states=hidden, res_hidden_states_tuple=own, upsample_size=size, **read.for_block(block))
    return hidden


def _end(
    unet: Any, deep: torch.Tensor, skips: list[torch.Tensor], read: _Read, first: int, sample_BCHW: torch.Tensor
) -> torch.Tensor:
    hidden = _up(unet, deep, skips, read, range(first, len(unet.up_blocks)), _is_uneven(unet, sample_BCHW))
    if unet.conv_norm_out is not None:
        hidden = unet.conv_act(unet.conv_norm_out(hidden))
    noise_BCHW: torch.Tensor = unet.conv_out(hidden)
    return noise_BCHW


def _is_uneven(unet: Any, sample_BCHW: torch.Tensor) -> bool:
    """Whether a side cannot be halved so often as the UNet does: then what is enlarged again must be told its size."""
    factor = 1 << unet.num_upsamplers
    return any(side % factor for side in sample_BCHW.shape[2:])


def _with_residuals(skips: list[torch.Tensor], residuals: Residuals) -> list[torch.Tensor]:
    """The skips with what ControlNets add to each of them, as far as there are skips."""
    if residuals is None:
        return skips
    return [skip + residual for skip, residual in zip(skips, residuals, strict=False)]


def _reads_text(block: Any) -> bool:
    return bool(getattr(block, "has_cross_attention", False))

"""Several people in one picture: each region has its own LoRAs and its own words.

Shapes: B rows of the batch (doubled with guidance), N tokens of an attention's grid, T text tokens, C channels,
G regions, R ranks of all regions together.

A LoRA that is merged acts everywhere. Here the UNet's weights stay as they are, and each region's LoRAs are added to
the activations, weighted at every token by the region's mask on that attention's grid:

    y = W x + sum_g m_g * (delta W_g x)

Keys and values of the text belong to no place, so cross-attention is computed once for each region, with its LoRAs and
its words, and the results are blended by the masks. Where no region is white the plain prompt rules without LoRA. Where
regions overlap, their weights are shared out to at most one in sum.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from hyperlora.errors import InvalidRequest, NonFiniteWeights
from hyperlora.lora import LoRA
from hyperlora.regional_text import RegionText

_NAMES = ("to_q", "to_k", "to_v", "to_out_0")


@dataclass(frozen=True, eq=False)
class Region:
    """A part of the picture with LoRAs of its own.

    Parameters
    ----------
    loras
        Pairs of LoRA and weight that act here, on top of what is applied to the whole model.
    mask
        Mode L, of any size: white is here.
    prompt
        Appended to each sample's prompt, after a comma, for this region.
    """

    loras: tuple[tuple[LoRA, float], ...]
    mask: Image.Image
    prompt: str = ""


def check_regions(regions: Sequence[Region], shapes: Mapping[str, tuple[int, int]]) -> None:
    """Refuse what cannot be drawn; `shapes` are the UNet's projections, name -> (out, in).

    Raises `InvalidRequest` for a mask that is not of mode L or has nothing white, `LoRAMismatch` for a LoRA of another
    UNet, `NonFiniteWeights` for NaN or infinity.
    """
    for number, region in enumerate(regions, start=1):
        if region.mask.mode != "L" or region.mask.getbbox() is None:
            raise InvalidRequest(
                f"the mask of region {number} must be a picture of mode L with some white, found mode "
                f"{region.mask.mode}{'' if region.mask.getbbox() else ', black everywhere'}"
            )
        for lora, weight in region.loras:
            if not math.isfinite(weight):
                raise NonFiniteWeights(f"a LoRA's weight must be a finite number, found {weight} in region {number}")
            lora.require_fit(shapes)
            lora.require_finite()


@contextmanager
def regional_attention(
    unet: Any, regions: Sequence[Region], texts: Sequence[RegionText | None], *, latent_size: tuple[int, int]
) -> Iterator[None]:
    """Let the regions act on the UNet while the block runs; afterwards its attention is as before, also on errors.

    `texts` are the regions' own words, None where a region has the plain prompt. `latent_size` is (height, width).
    """
    if not regions:
        yield
        return
    before = dict(unet.attn_processors)
    grids = _grids([region.mask for region in regions], latent_size, unet)
    try:
        # Processor names are the modules' paths: "mid_block.attentions.0.transformer_blocks.0.attn2.processor".
        unet.set_attn_processor(
            {name: _RegionalProcessor(unet, _layer_prefix(name), regions, texts, grids) for name in before}
        )
        yield
    finally:
        unet.set_attn_processor(dict(before))


def _layer_prefix(processor_name: str) -> str:
    return "lora_unet_" + processor_name.removesuffix(".processor").replace(".", "_")


@dataclass(frozen=True, eq=False)
class _Grid:
    """Weights at the tokens of one resolution: of each region (N, G), of the plain prompt (N, 1)."""

    regions_NG: torch.Tensor
    plain_N1: torch.Tensor
    shown: tuple[bool, ...]  # whether a region has any weight here
    plain_shown: bool


def _grids(masks: Sequence[Image.Image], latent_size: tuple[int, int], unet: Any) -> dict[int, _Grid]:
    """The masks averaged over each cell of each resolution that the UNet has; key is the number of tokens."""
    grids: dict[int, _Grid] = {}
    height, width = latent_size
    pixels = [torch.from_numpy(np.array(mask, dtype=np.uint8)).float().div(255)[None, None] for mask in masks]
    for _ in unet.config.block_out_channels:
        weights_NG = torch.stack([F.adaptive_avg_pool2d(each, (height, width)).flatten() for each in pixels], dim=1)
        weights_NG = weights_NG / weights_NG.sum(dim=1, keepdim=True).clamp(min=1)
        plain_N1 = (1 - weights_NG.sum(dim=1, keepdim=True)).clamp(min=0)
        grids[height * width] = _Grid(
            weights_NG.to(unet.device, unet.dtype),
            plain_N1.to(unet.device, unet.dtype),
            tuple((weights_NG > 0).any(dim=0).tolist()),
            # Sums of rounded shares miss one by less than this.
            bool((plain_N1 > 1e-5).any()),
        )
        # Each downsampling halves a side, rounded up.
        height, width = (height + 1) // 2, (width + 1) // 2
    return grids


@dataclass(frozen=True, eq=False)
class _Change:
    """All regions' LoRAs of one projection: down (R, in), up (out, R) with the weights inside, and whose rank is whose.

    The ranks of a region lie side by side; `ranges` are their (first, last + 1).
    """

    down_RI: torch.Tensor
    up_OR: torch.Tensor
    owner_R: torch.Tensor
    ranges: tuple[tuple[int, int], ...]

    def everywhere(self, x_BNC: torch.Tensor, grid: _Grid) -> torch.Tensor:
        """What is added to W x, each region's part weighted by its mask."""
        return F.linear(F.linear(x_BNC, self.down_RI) * grid.regions_NG[:, self.owner_R], self.up_OR)

    def of_region(self, region: int, x_BTC: torch.Tensor) -> torch.Tensor:
        """What one region adds to W x, at full weight."""
        first, end = self.ranges[region]
        return F.linear(F.linear(x_BTC, self.down_RI[first:end]), self.up_OR[:, first:end])


def _change(layer: str, regions: Sequence[Region], like: torch.Tensor) -> _Change | None:
    parts = [
        (owner, weight * lora.layers[layer].scale, lora.layers[layer])
        for owner, region in enumerate(regions)
        for lora, weight in region.loras
        if layer in lora.layers and weight != 0
    ]
    if not parts:
        return None
    down_RI = torch.cat([part.down.to(like.device, torch.float32) for _, _, part in parts])
    up_OR = torch.cat([factor * part.up.to(like.device, torch.float32) for _, factor, part in parts], dim=1)
    owners = [owner for owner, _, part in parts for _ in range(part.rank)]
    ends = [bisect_right(owners, owner) for owner in range(len(regions))]
    return _Change(
        down_RI.to(like.dtype),
        up_OR.to(like.dtype),
        torch.tensor(owners, device=like.device),
        tuple(zip([0, *ends[:-1]], ends, strict=True)),
    )


class _RegionalProcessor:
    """Attention of one module with the regions' LoRAs and words; diffusers calls it in place of its own."""

    def __init__(
        self,
        unet: Any,
        prefix: str,
        regions: Sequence[Region],
        texts: Sequence[RegionText | None],
        grids: Mapping[int, _Grid],
    ) -> None:
        like = torch.empty(0, device=unet.device, dtype=unet.dtype)
        self._changes = {name: _change(f"{prefix}_{name}", regions, like) for name in _NAMES}
        self._texts = texts
        self._grids = grids

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(B, N, C) in and out; without `encoder_hidden_states` tokens attend to each other."""
        grid = self._grids[hidden_states.shape[1]]
        query = self._projected("to_q", attn.to_q, hidden_states, grid)
        if encoder_hidden_states is None:
            key = self._projected("to_k", attn.to_k, hidden_states, grid)
            value = self._projected("to_v", attn.to_v, hidden_states, grid)
            attended = _attend(attn.heads, query, key, value)
        else:
            attended = self._cross(attn, query, encoder_hidden_states, grid)
        out: torch.Tensor = attn.to_out[1](self._projected("to_out_0", attn.to_out[0], attended, grid))
        return out

    def _projected(self, name: str, linear: Any, x_BNC: torch.Tensor, grid: _Grid) -> torch.Tensor:
        plain: torch.Tensor = linear(x_BNC)
        change = self._changes[name]
        return plain if change is None else plain + change.everywhere(x_BNC, grid)

    def _cross(self, attn: Any, query: torch.Tensor, tokens_BTC: torch.Tensor, grid: _Grid) -> torch.Tensor:
        """Cross-attention of each region and of the rest, blended by the masks."""
        blended: torch.Tensor | None = None
        if grid.plain_shown:
            plain = _attend(attn.heads, query, attn.to_k(tokens_BTC), attn.to_v(tokens_BTC))
            blended = plain * grid.plain_N1
        for region, shown in enumerate(grid.shown):
            if not shown:
                continue
            text = self._texts[region]
            words_BTC = tokens_BTC if text is None else text.tokens_BTC
            key, value = attn.to_k(words_BTC), attn.to_v(words_BTC)
            for_key, for_value = self._changes["to_k"], self._changes["to_v"]
            if for_key is not None:
                key = key + for_key.of_region(region, words_BTC)
            if for_value is not None:
                value = value + for_value.of_region(region, words_BTC)
            own = _attend(attn.heads, query, key, value, None if text is None else text.mask_B11T)
            own = own * grid.regions_NG[:, region, None]
            blended = own if blended is None else blended + own
        if blended is None:
            raise RuntimeError("no region and no plain prompt has weight at this grid")
        return blended


def _attend(
    heads: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask_B11T: torch.Tensor | None = None
) -> torch.Tensor:
    """Attention of several heads, (B, N, C) and (B, T, C) into (B, N, C)."""
    q, k, v = (x.view(*x.shape[:2], heads, -1).transpose(1, 2) for x in (query, key, value))
    attended: torch.Tensor = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_B11T)
    return attended.transpose(1, 2).flatten(2)

"""How large the mini world's networks are, and how long each learns: `tiny` for two CPU cores, `full` for a GPU.

Numbers that have a unit say so; `steps` are optimiser steps. MB budgets of the finished pack are in docs/mini-world.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hyperlora.mini.learn.fit import Plan

TEXT_WIDTH = 64
TIME_WIDTH = 32


@dataclass(frozen=True)
class Sizes:
    """One configuration of the whole small world.

    Parameters
    ----------
    name
        "tiny" or "full".
    side
        Pixels of a picture's side.
    people, each
        People of the training set, and portraits of each; `judge_people` are others, for the judge alone.
    styles
        Share of portraits that are drawn in another style than the plain one.
    vae, unet
        Settings of AutoencoderKL and UNet2DConditionModel that differ from the classes' own.
    encoder_learns
        Whether the encoder learns on from its components, or only the decoder.
    vision_side, vision_patch, vision_width, vision_layers
        The CLIP vision tower.
    hyperlora
        Sizes of the hypernetwork, as in `HyperLoRAConfig`.
    vae_plan, foundation_plan, vision_plan
        How long the parts learn.
    stages
        Optimiser steps of base, id-clip and id-face; `batch` and `rate` are theirs.
    validation_people
        How many are drawn to measure with on the way.
    """

    name: Literal["tiny", "full"]
    side: int
    people: int
    each: int
    judge_people: int
    styles: float
    vae: dict[str, Any]
    encoder_learns: bool
    unet: dict[str, Any]
    vision_side: int
    vision_patch: int
    vision_width: int
    vision_layers: int
    hyperlora: dict[str, Any]
    vae_plan: Plan
    foundation_plan: Plan
    vision_plan: Plan
    stages: dict[str, int]
    batch: int
    rate: float
    validation_people: int = 100

    @property
    def latents(self) -> tuple[int, int, int]:
        """Channels, height and width of a picture's latents."""
        shrink = 2 ** (len(self.vae["block_out_channels"]) - 1)
        return self.vae["latent_channels"], self.side // shrink, self.side // shrink


def _vae(widths: tuple[int, ...], channels: int, side: int) -> dict[str, Any]:
    return {
        "block_out_channels": widths,
        "latent_channels": channels,
        "layers_per_block": 1,
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
        "norm_num_groups": 1,  # see codec
        "mid_block_add_attention": False,
        "sample_size": side,
        "force_upcast": False,
    }


def _unet(widths: tuple[int, ...], attends: tuple[bool, ...], heads: tuple[int, ...], layers: int) -> dict[str, Any]:
    down = tuple("CrossAttnDownBlock2D" if each else "DownBlock2D" for each in attends)
    up = tuple("CrossAttnUpBlock2D" if each else "UpBlock2D" for each in attends[::-1])
    return {
        "block_out_channels": widths,
        "layers_per_block": layers,
        "down_block_types": down,
        "up_block_types": up,
        "transformer_layers_per_block": (1,) * len(widths),
        "attention_head_dim": heads,  # as in SDXL's own file: the number of heads
        "cross_attention_dim": 2 * TEXT_WIDTH,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": TIME_WIDTH,
        "projection_class_embeddings_input_dim": TEXT_WIDTH + 6 * TIME_WIDTH,
        "norm_num_groups": 8,
    }


TINY = Sizes(
    name="tiny",
    side=64,
    people=5_000,
    each=3,
    judge_people=3_000,
    styles=0.0,
    vae=_vae((16, 48, 96, 128), 24, 64),
    encoder_learns=False,
    unet=_unet((80, 128), (True, True), (4, 4), 1),
    vision_side=64,
    vision_patch=8,
    vision_width=64,
    vision_layers=3,
    hyperlora={
        "rank": 4,
        "bases": 16,
        "alpha_over_rank": 1.0,
        "width": 128,
        "depth": 2,
        "dim_head": 32,
        "inner": 128,
        "feed_forward": 256,
        "id_tokens": 8,
        "id_token_width": 128,
    },
    vae_plan=Plan(steps=3_000, batch=8, rate=2e-3, average=0.995),
    foundation_plan=Plan(steps=5_000, batch=32, rate=1.2e-3),
    vision_plan=Plan(steps=2_500, batch=32, rate=1e-3),
    stages={"base": 150, "id-clip": 800, "id-face": 4_500},
    batch=32,
    rate=1.5e-3,
)

FULL = Sizes(
    name="full",
    side=128,
    people=40_000,
    each=4,
    judge_people=20_000,
    styles=0.25,
    vae=_vae((32, 48, 96, 128), 24, 128),
    encoder_learns=True,
    unet=_unet((64, 96, 144), (False, True, True), (2, 3, 4), 1),
    vision_side=112,
    vision_patch=14,
    vision_width=128,
    vision_layers=4,
    hyperlora={
        "bases": 16,
        "width": 160,
        "depth": 2,
        "dim_head": 40,
        "inner": 160,
        "feed_forward": 640,
        "id_tokens": 8,
        "id_token_width": 160,
    },
    vae_plan=Plan(steps=30_000, batch=32, rate=1e-3),
    foundation_plan=Plan(steps=60_000, batch=256, rate=1e-3),
    vision_plan=Plan(steps=8_000, batch=256, rate=1e-3),
    stages={"base": 4_000, "id-clip": 12_000, "id-face": 30_000},
    batch=128,
    rate=5e-4,
)

SIZES = {"tiny": TINY, "full": FULL}

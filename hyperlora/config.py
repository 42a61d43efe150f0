"""What a HyperLoRA checkpoint is made of: its modules in order, its sizes, and what it expects around it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from hyperlora.errors import CheckpointMismatch

Stream = Literal["face", "clip"]
Branch = Literal["id", "base"]

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out")
"""The four projections of an attention module, in token order."""

TOKENS_PER_MODULE = 2 * len(PROJECTIONS)
"""(q, k, v, out) x (down, up)."""

TRIGGER_WORDS = "fcsks fxhks fhyks"
FACE_ENCODER = "insightface-antelopev2"
CLIP_VISION = "openai/clip-vit-large-patch14"
PROMPT_HIDDEN_LAYER = -2


@dataclass(frozen=True)
class AttentionModule:
    """One attention module of the UNet; `cross_attention_dim` is None for self-attention."""

    name: str
    hidden_size: int
    cross_attention_dim: int | None


@dataclass(frozen=True)
class Projection:
    """One linear layer that receives a LoRA.

    `layer` is its name in a LoRA file (`lora_unet_..._to_out_0`), `key` its name inside the checkpoint (`7.to_out`);
    `down_token` and `up_token` index the tokens that mix its bases.
    """

    layer: str
    key: str
    in_features: int
    out_features: int
    down_token: int
    up_token: int


@dataclass(frozen=True)
class HyperLoRAConfig:
    """All sizes and conventions of one checkpoint.

    Parameters
    ----------
    modules
        The attention modules, in the order of the checkpoint: both module index and token order.
    rank, base_rank
        Rank of ID-LoRA and of Base-LoRA; `base_rank` is None without a Base branch.
    bases
        Learned basis matrices per factor, K.
    width, depth, dim_head, inner, feed_forward
        Resampler: token width, blocks, width of a head, width of all heads, hidden width of the feed-forward.
    face_width, id_tokens, id_token_width
        Length of a face embedding; number and width of the tokens made from it.
    clip_width
        Width of a CLIP token.
    streams
        What the ID resampler looks at, in order (x, y): ("face", "clip"), ("clip",) or ("face",).
    alpha_over_rank
        The factor of every emitted LoRA: its alpha divided by its rank.
    trigger_words
        Words that a prompt must begin with; empty when the checkpoint was trained without.
    face_encoder, clip_vision
        The frozen encoders that the checkpoint was trained with.
    prompt_hidden_layer
        The hidden layer of both text encoders that prompts were read from in training. SDXL's own, -2, is the only one
        that the pipeline draws with, so a checkpoint that names another is refused.
    """

    modules: tuple[AttentionModule, ...]
    rank: int = 8
    base_rank: int | None = None
    bases: int = 128
    width: int = 1024
    depth: int = 4
    dim_head: int = 64
    inner: int = 768
    feed_forward: int = 4096
    face_width: int = 512
    id_tokens: int = 16
    id_token_width: int = 1024
    clip_width: int = 1024
    streams: tuple[Stream, ...] = ("face", "clip")
    alpha_over_rank: float = 0.5
    trigger_words: str = TRIGGER_WORDS
    face_encoder: str = FACE_ENCODER
    clip_vision: str = CLIP_VISION
    prompt_hidden_layer: int = PROMPT_HIDDEN_LAYER

    def __post_init__(self) -> None:
        if self.streams not in (("face", "clip"), ("clip",), ("face",)):
            raise CheckpointMismatch(
                f'streams must be ["face", "clip"], ["clip"] or ["face"], found {list(self.streams)}'
            )
        if not self.modules:
            raise CheckpointMismatch("a checkpoint needs at least one attention module, found none")
        sizes = {
            "rank": self.rank, "bases": self.bases, "width": self.width, "depth": self.depth,
            "dim_head": self.dim_head, "inner": self.inner, "feed_forward": self.feed_forward,
            "face_width": self.face_width, "id_tokens": self.id_tokens, "id_token_width": self.id_token_width,
            "clip_width": self.clip_width, "alpha_over_rank": self.alpha_over_rank,
            "base_rank": 1 if self.base_rank is None else self.base_rank,
        }  # fmt: skip
        wrong = [f"{name} = {value}" for name, value in sizes.items() if not 0 < value < math.inf]
        if wrong:
            raise CheckpointMismatch(f"sizes must be positive, found {', '.join(wrong)}")
        if self.inner % self.dim_head:
            raise CheckpointMismatch(
                f"the resampler's inner width {self.inner} is not a multiple of dim_head {self.dim_head}; "
                "name the right dim_head in hyperlora_config.json"
            )
        if self.prompt_hidden_layer != PROMPT_HIDDEN_LAYER:
            raise CheckpointMismatch(
                f"prompts are read from hidden layer {PROMPT_HIDDEN_LAYER} of the text encoders, as in SDXL; this "
                f"checkpoint was trained with layer {self.prompt_hidden_layer}"
            )

    @property
    def heads(self) -> int:
        """Attention heads of the resampler."""
        return self.inner // self.dim_head

    @property
    def tokens(self) -> int:
        """Learned queries of the resampler, Q."""
        return TOKENS_PER_MODULE * len(self.modules)

    @property
    def branches(self) -> tuple[Branch, ...]:
        """The branches that the checkpoint has."""
        return ("id",) if self.base_rank is None else ("id", "base")

    def rank_of(self, branch: Branch) -> int:
        """Rank of a branch; `CheckpointMismatch` where the checkpoint lacks it."""
        if branch == "id":
            return self.rank
        if branch != "base" or self.base_rank is None:
            raise CheckpointMismatch(f"branch {branch!r} was asked for, the checkpoint has {', '.join(self.branches)}")
        return self.base_rank

    @cached_property
    def projections(self) -> tuple[Projection, ...]:
        """Every projection in token order."""
        return tuple(_projections(self.modules))

    @property
    def layer_shapes(self) -> dict[str, tuple[int, int]]:
        """Layer of a LoRA file -> (out, in) of the weight that it changes, in token order."""
        return {each.layer: (each.out_features, each.in_features) for each in self.projections}

    @classmethod
    def sdxl(cls, **changes: Any) -> HyperLoRAConfig:
        """The released sizes on SDXL's own UNet; `changes` replace single fields."""
        return cls(modules=unet_modules(_SDXL_UNET), **changes)

    @classmethod
    def from_unet(cls, unet_config: Mapping[str, Any], **changes: Any) -> HyperLoRAConfig:
        """The released sizes on the UNet that a diffusers config describes; `changes` replace single fields."""
        return cls(modules=unet_modules(unet_config), **changes)


def _projections(modules: Sequence[AttentionModule]) -> Iterator[Projection]:
    for index, module in enumerate(modules):
        for place, name in enumerate(PROJECTIONS):
            reads_stream = name in ("to_k", "to_v") and module.cross_attention_dim is not None
            in_features = module.cross_attention_dim if reads_stream else module.hidden_size
            assert in_features is not None
            token = index * TOKENS_PER_MODULE + 2 * place
            yield Projection(
                layer=f"{module.name}_{'to_out_0' if name == 'to_out' else name}",
                key=f"{index}.{name}",
                in_features=in_features,
                out_features=module.hidden_size,
                down_token=token,
                up_token=token + 1,
            )


# The parts of SDXL's UNet config that decide its attention modules (stabilityai/stable-diffusion-xl-base-1.0).
_SDXL_UNET: dict[str, Any] = {
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [320, 640, 1280],
    "layers_per_block": 2,
    "transformer_layers_per_block": [1, 2, 10],
    "cross_attention_dim": 2048,
}


def unet_modules(unet_config: Mapping[str, Any]) -> tuple[AttentionModule, ...]:
    """List the attention modules of a diffusers UNet2DConditionModel config: down blocks, middle, up blocks."""
    channels = list(unet_config["block_out_channels"])
    blocks = len(channels)
    layers = _per_block(unet_config.get("layers_per_block", 2), blocks)
    depths = _per_block(unet_config.get("transformer_layers_per_block", 1), blocks)
    contexts = _per_block(unet_config.get("cross_attention_dim", 1280), blocks)
    up_depths = unet_config.get("reverse_transformer_layers_per_block") or depths[::-1]

    modules: list[AttentionModule] = []

    def attend(path: str, depth: int | Sequence[int], layer: int, channel: int, context: int) -> None:
        # Some UNets name a depth per layer inside a block.
        count = depth if isinstance(depth, int) else depth[layer]
        for block in range(count):
            name = f"lora_unet_{path}_{layer}_transformer_blocks_{block}"
            modules.append(AttentionModule(f"{name}_attn1", channel, None))
            modules.append(AttentionModule(f"{name}_attn2", channel, context))

    for index, kind in enumerate(unet_config["down_block_types"]):
        if "CrossAttn" in kind:
            for layer in range(layers[index]):
                attend(f"down_blocks_{index}_attentions", depths[index], layer, channels[index], contexts[index])
    if unet_config.get("mid_block_type", "UNetMidBlock2DCrossAttn") == "UNetMidBlock2DCrossAttn":
        attend("mid_block_attentions", depths[-1], 0, channels[-1], contexts[-1])
    for index, kind in enumerate(unet_config["up_block_types"]):
        if "CrossAttn" in kind:
            mirror = blocks - 1 - index
            for layer in range(layers[mirror] + 1):
                attend(f"up_blocks_{index}_attentions", up_depths[index], layer, channels[mirror], contexts[mirror])
    return tuple(modules)


def _per_block(value: Any, blocks: int) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value] * blocks

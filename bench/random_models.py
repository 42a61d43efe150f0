"""Networks of a given geometry with random weights, in memory: a step costs the same whatever they say.

They are made on the meta device and filled where they shall run, so that SDXL's UNet takes seconds on a GPU. Matrices
keep the size of what flows through them and norms are ones, so that half precision does not overflow.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from hyperlora.config import HyperLoRAConfig
from hyperlora.mini import models as mini

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from training_plan import SDXL_UNET

# stabilityai/stable-diffusion-xl-base-1.0, vae/config.json, with the flag of the usual half-precision autoencoder.
SDXL_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "norm_num_groups": 32,
    "sample_size": 1024,
    "scaling_factor": 0.13025,
    "force_upcast": False,
}
SDXL_TEXTS: tuple[dict[str, Any], dict[str, Any]] = (
    {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "projection_dim": 768},
    {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 20, "projection_dim": 1280},
)
MINI_TEXTS: tuple[dict[str, Any], dict[str, Any]] = (
    {"hidden_size": mini.TEXT_WIDTH, "num_hidden_layers": 3, "num_attention_heads": 4, "projection_dim": 64},
    {"hidden_size": mini.TEXT_WIDTH, "num_hidden_layers": 3, "num_attention_heads": 4, "projection_dim": 64},
)
CLIP_LARGE: dict[str, Any] = {
    "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 224, "patch_size": 14,
}  # fmt: skip
CLIP_MINI: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 96, "patch_size": 16,
}  # fmt: skip
MINI_HYPERLORA: dict[str, Any] = {
    "rank": 8, "bases": 16, "width": 64, "depth": 2, "dim_head": 32, "inner": 64, "feed_forward": 256, "id_tokens": 8,
    "id_token_width": 64, "clip_width": 64,
}  # fmt: skip


@dataclass(frozen=True)
class Geometry:
    """Sizes of every network of a profile."""

    name: str
    unet: dict[str, Any]
    vae: dict[str, Any]
    texts: tuple[dict[str, Any], dict[str, Any]]
    vocabulary: int
    clip: dict[str, Any]
    hyperlora: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Pixels of a side that the UNet is made for."""
        return int(self.unet["sample_size"]) * (1 << (len(self.vae["block_out_channels"]) - 1))

    def hyperlora_config(self, **more: Any) -> HyperLoRAConfig:
        """The released sizes, or small ones, on this UNet."""
        return HyperLoRAConfig.from_unet(self.unet, **{**self.hyperlora, **more})


GEOMETRIES = {
    "sdxl": Geometry("sdxl", SDXL_UNET, SDXL_VAE, SDXL_TEXTS, 49_408, CLIP_LARGE),
    "mini": Geometry("mini", mini.UNET_CONFIG, mini.VAE_CONFIG, MINI_TEXTS, 8_192, CLIP_MINI, MINI_HYPERLORA),
}

_TOY_UNET: dict[str, Any] = {
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 1),
    "attention_head_dim": (1, 2),
}
TOY = replace(GEOMETRIES["mini"], name="toy", unet={**mini.UNET_CONFIG, **_TOY_UNET})
"""The least that has all kinds of layers."""


def random_module(
    make: Callable[[], Any], device: torch.device, dtype: torch.dtype, *, seed: int = 0, std: float | None = None
) -> Any:
    """What `make` makes, with weights from a seed: of size `std`, else of one over the root of what they add up.

    Buffers that no file holds are not filled: modules that have such are to be saved and loaded again.
    """
    with torch.device("meta"):
        module = make()
    module = module.to(dtype).to_empty(device=device).requires_grad_(False).eval()
    dice = torch.Generator(device).manual_seed(seed)
    for owner in module.modules():
        is_norm = isinstance(owner, nn.LayerNorm | nn.GroupNorm)
        for name, parameter in owner.named_parameters(recurse=False):
            if name == "bias":
                parameter.zero_()
            elif is_norm:
                parameter.fill_(1.0)
            else:
                parameter.normal_(std=std or parameter[0].numel() ** -0.5, generator=dice)
    return module


def random_unet(geometry: Geometry, device: torch.device, dtype: torch.dtype) -> Any:
    """A UNet2DConditionModel; embeddings may be taken as they are, it has no other buffers."""
    from diffusers import UNet2DConditionModel

    return random_module(lambda: cast(Any, UNet2DConditionModel)(**geometry.unet), device, dtype)


def random_vae(geometry: Geometry, device: torch.device, dtype: torch.dtype) -> Any:
    """An AutoencoderKL."""
    from diffusers import AutoencoderKL

    return random_module(lambda: cast(Any, AutoencoderKL)(**geometry.vae), device, dtype, seed=1)


def random_hyperlora(geometry: Geometry, device: torch.device, dtype: torch.dtype, **more: Any) -> Any:
    """A HyperLoRA in the released layout whose LoRAs are about as strong as learned ones."""
    from hyperlora.network import HyperLoRA

    config = geometry.hyperlora_config(**more)
    return random_module(lambda: HyperLoRA(config), device, dtype, seed=2, std=0.02)


def random_text_encoder(geometry: Geometry, number: int, end: int, device: torch.device, dtype: torch.dtype) -> Any:
    """The first or second (0, 1) text encoder; `end` is the tokenizer's last token."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    sizes = geometry.texts[number]
    config = CLIPTextConfig(
        **sizes,
        intermediate_size=4 * sizes["hidden_size"],
        vocab_size=geometry.vocabulary,
        hidden_act=("quick_gelu", "gelu")[number],
        bos_token_id=end - 1,
        eos_token_id=end,
        pad_token_id=end,
    )
    maker: Any = (CLIPTextModel, CLIPTextModelWithProjection)[number]
    return random_module(lambda: maker(config), device, dtype, seed=3 + number)


def random_clip_vision(geometry: Geometry, device: torch.device, dtype: torch.dtype) -> Any:
    """A CLIP vision tower."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(**geometry.clip, intermediate_size=4 * geometry.clip["hidden_size"])
    return random_module(lambda: CLIPVisionModel(config), device, dtype, seed=5)

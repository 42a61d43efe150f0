"""Networks without numbers: of a model that is loaded, of one in a folder, or of SDXL and the released HyperLoRA.

They are made from configs on the meta device in a second, have every shape, and take no memory: to count with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hyperlora.checkpoint import CheckpointFiles
from hyperlora.components import SDXLComponents
from hyperlora.config import HyperLoRAConfig
from hyperlora.network import HyperLoRA

# stabilityai/stable-diffusion-xl-base-1.0: what differs from the classes' defaults.
SDXL_UNET: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SDXL_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 1024,
    "scaling_factor": 0.13025,
}
_CLIP_L: dict[str, Any] = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
}  # fmt: skip
_CLIP_BIG_G: dict[str, Any] = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
    "hidden_act": "gelu", "projection_dim": 1280,
}  # fmt: skip
_CLIP_VISION: dict[str, Any] = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": 224, "patch_size": 14,
}  # fmt: skip


@dataclass(frozen=True)
class BlankModel:
    """Every network of a profile on the meta device, in the dtype that it is loaded in."""

    unet: Any
    vae: Any
    text_encoders: tuple[Any, Any]
    clip: Any
    network: HyperLoRA

    @property
    def size_step(self) -> int:
        """Pixels of a latent."""
        return 1 << (len(self.vae.config.block_out_channels) - 1)

    @property
    def default_size(self) -> int:
        """The side that the base model was trained for, in pixels."""
        return int(self.unet.config.sample_size) * self.size_step

    @classmethod
    def of(cls, components: SDXLComponents, network: HyperLoRA, clip: Any) -> BlankModel:
        """The shapes of what is loaded; `clip` is the vision tower itself."""
        first, second = components.text_encoders
        return cls(
            unet=_like(components.unet),
            vae=_like(components.vae),
            text_encoders=(_like(first), _like(second)),
            clip=_like(clip),
            network=_blank(network.resampler.latents.dtype, lambda: HyperLoRA(network.config)),
        )

    @classmethod
    def released(cls, dtype: torch.dtype = torch.float16) -> BlankModel:
        """SDXL, CLIP ViT-L/14 and the released HyperLoRA."""
        from transformers import CLIPTextConfig, CLIPVisionConfig

        return cls._made(
            (SDXL_UNET, SDXL_VAE),
            (CLIPTextConfig(**_CLIP_L), CLIPTextConfig(**_CLIP_BIG_G)),
            CLIPVisionConfig(**_CLIP_VISION),
            HyperLoRAConfig.sdxl(),
            dtype,
        )

    @classmethod
    def of_folders(cls, sdxl: Path, hyperlora: Path, clip: Path, dtype: torch.dtype) -> BlankModel:
        """From a diffusers folder, a checkpoint's and a transformers folder, without reading weights.

        Raises `CheckpointMismatch`, `WeightsMissing` for a checkpoint that is none, `OSError` for a config that is not
        there.
        """
        from transformers import CLIPTextConfig, CLIPVisionConfig

        diffusers = [json.loads((sdxl / part / "config.json").read_text(encoding="utf-8")) for part in ("unet", "vae")]
        return cls._made(
            (diffusers[0], diffusers[1]),
            (
                CLIPTextConfig.from_pretrained(sdxl / "text_encoder"),
                CLIPTextConfig.from_pretrained(sdxl / "text_encoder_2"),
            ),
            CLIPVisionConfig.from_pretrained(clip),
            CheckpointFiles(hyperlora).config(),
            dtype,
        )

    @classmethod
    def _made(
        cls,
        diffusers_configs: tuple[Mapping[str, Any], Mapping[str, Any]],
        text_configs: tuple[Any, Any],
        clip_config: Any,
        hyperlora: HyperLoRAConfig,
        dtype: torch.dtype,
    ) -> BlankModel:
        import diffusers
        import transformers

        unet_class: Any = diffusers.UNet2DConditionModel
        vae_class: Any = diffusers.AutoencoderKL
        return cls(
            unet=_blank(dtype, lambda: unet_class.from_config(diffusers_configs[0])),
            vae=_blank(dtype, lambda: vae_class.from_config(diffusers_configs[1])),
            text_encoders=(
                _blank(dtype, lambda: transformers.CLIPTextModel(text_configs[0])),
                _blank(dtype, lambda: transformers.CLIPTextModelWithProjection(text_configs[1])),
            ),
            clip=_blank(dtype, lambda: transformers.CLIPVisionModel(clip_config)),
            network=_blank(dtype, lambda: HyperLoRA(hyperlora)),
        )


def _like(module: Any) -> Any:
    """The same network without numbers; diffusers' and transformers' are made from their configs differently."""
    kind, config = type(module), module.config
    return _blank(module.dtype, lambda: kind.from_config(config) if isinstance(config, Mapping) else kind(config))


def _blank(dtype: torch.dtype, make: Callable[[], Any]) -> Any:
    with _default_dtype(dtype), torch.device("meta"):
        return make().eval().requires_grad_(False)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)

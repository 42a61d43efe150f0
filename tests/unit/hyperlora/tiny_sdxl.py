"""A random SDXL model of SDXL's own classes, small enough to draw with in milliseconds."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
)

SIZE = 64  # pixels; 8 per latent, as in SDXL


def tiny_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer that knows single letters."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=77)


def tiny_unet() -> UNet2DConditionModel:
    """Two resolutions, six transformers of two blocks: 24 attention modules, 96 projections."""
    return UNet2DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=2,
        sample_size=SIZE // 8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=80,  # 6 * 8 + 32
        cross_attention_dim=64,
        norm_num_groups=8,
    )


def tiny_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=SIZE,
    )


def tiny_text_config() -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=200,
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=77,
        projection_dim=32,
        bos_token_id=188,
        eos_token_id=189,
        pad_token_id=189,
        hidden_act="gelu",
    )


def tiny_pipeline(folder: Path, *, force_zeros: bool = True) -> StableDiffusionXLPipeline:
    """Build it from a fixed seed; `folder` keeps the tokenizer's files."""
    state = torch.random.get_rng_state()
    torch.manual_seed(7)
    tokenizer = tiny_tokenizer(folder)
    pipe = StableDiffusionXLPipeline(
        vae=tiny_vae(),
        text_encoder=CLIPTextModel(tiny_text_config()),
        text_encoder_2=CLIPTextModelWithProjection(tiny_text_config()),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=tiny_unet(),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            timestep_spacing="leading",
        ),
        force_zeros_for_empty_prompt=force_zeros,
        add_watermarker=False,
    )
    # Fresh text encoders are so quiet that two prompts give one picture.
    for encoder in (pipe.text_encoder, pipe.text_encoder_2):
        for parameter in encoder.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    torch.random.set_rng_state(state)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_clip_vision(folder: Path) -> Path:
    """Save a CLIP vision tower of 56 px, patches of 14, width 24: 17 tokens."""
    config = CLIPVisionConfig(
        hidden_size=24, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, image_size=56, patch_size=14
    )
    torch.manual_seed(3)
    CLIPVisionModel(config).save_pretrained(folder)
    size = {"height": 56, "width": 56}
    CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size=size).save_pretrained(folder)
    return folder

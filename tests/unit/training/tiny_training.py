"""A base model and a dataset in memory, small enough to train on in milliseconds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from hyperlora.components import SDXLComponents
from hyperlora.dataset import DatasetInfo, PortraitBatch, ShardWriter
from hyperlora.training import TrainingConfig

SIDE = 32  # pixels; 8 x 8 latents
FACE, CLIP, TOKENS, CHANNELS = 6, 12, 5, 4
SIZES = {
    "rank": 4, "base_rank": 2, "bases": 6, "width": 16, "depth": 2, "dim_head": 8, "inner": 16, "feed_forward": 32,
    "id_tokens": 2, "id_token_width": 8,
}  # fmt: skip


def tiny_tokenizer(folder: Path) -> Any:
    """A CLIP tokenizer that knows single letters."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=77)


def tiny_unet() -> Any:
    """Two resolutions, four transformers: 8 attention modules, 32 projections."""
    maker: Any = UNet2DConditionModel
    return maker(
        block_out_channels=(16, 32),
        layers_per_block=1,
        sample_size=SIDE // 4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        transformer_layers_per_block=(1, 1),
        projection_class_embeddings_input_dim=6 * 4 + 16,
        cross_attention_dim=32,
        norm_num_groups=4,
    )


def tiny_components(folder: Path, prediction: str = "epsilon") -> SDXLComponents:
    """The base model in memory; `folder` keeps the tokenizer's files."""
    return SDXLComponents.from_diffusers(tiny_pipeline(folder, prediction))


def tiny_pipeline(folder: Path, prediction: str = "epsilon") -> Any:
    """The base model from a fixed seed, as diffusers runs it."""
    text = CLIPTextConfig(
        vocab_size=200, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=77, projection_dim=16, bos_token_id=188, eos_token_id=189, pad_token_id=189,
    )  # fmt: skip
    vae: Any = AutoencoderKL
    maker: Any = StableDiffusionXLPipeline
    scheduler: Any = DDPMScheduler
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        tokenizer = tiny_tokenizer(folder)
        pipe = maker(
            vae=vae(
                block_out_channels=(8, 8, 8),
                down_block_types=("DownEncoderBlock2D",) * 3,
                up_block_types=("UpDecoderBlock2D",) * 3,
                latent_channels=CHANNELS,
                norm_num_groups=4,
                sample_size=SIDE,
            ),
            text_encoder=CLIPTextModel(text),
            text_encoder_2=CLIPTextModelWithProjection(text),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            unet=tiny_unet(),
            scheduler=scheduler(
                beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction
            ),
            add_watermarker=False,
        )
        # Fresh text encoders are so quiet that two prompts say the same.
        for encoder in (pipe.text_encoder, pipe.text_encoder_2):
            for parameter in encoder.parameters():
                torch.nn.init.normal_(parameter, std=0.3)
    return pipe


class TinyPortraits:
    """A dataset in memory: eight people, three pictures each, every number from a seed."""

    def __init__(self, people: int = 8, each: int = 3, *, latents: bool = True, known: bool = True) -> None:
        count = people * each
        dice = torch.Generator().manual_seed(5)

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=dice)

        self.clip, self.base, self.face = draw(count, TOKENS, CLIP), draw(count, TOKENS, CLIP), draw(count, FACE)
        self.face /= self.face.norm(dim=1, keepdim=True)
        self.latents = draw(count, CHANNELS, SIDE // 4, SIDE // 4) if latents else None
        self.pixels = draw(count, 3, SIDE, SIDE).clamp(-1, 1)
        self.persons = np.arange(count) % people if known else None
        self.info = DatasetInfo(
            count=count,
            image_size=SIDE,
            face_encoder="test-encoder",
            face_width=FACE,
            clip_vision="test-clip",
            clip_tokens=(TOKENS, CLIP),
            latents=(CHANNELS, SIDE // 4, SIDE // 4) if latents else None,
        )

    def __len__(self) -> int:
        return len(self.clip)

    def batch(self, indices: Any, *, references: Any = None, pixels: bool = False) -> PortraitBatch:
        own, faces = torch.as_tensor(indices), torch.as_tensor(indices if references is None else references)
        return PortraitBatch(
            captions=[f"picture {index}" for index in own.tolist()],
            pixels_B3HW=self.pixels[own] if pixels or self.latents is None else None,
            latents_BCHW=None if self.latents is None else self.latents[own],
            clip_tokens_BTC=self.clip[faces],
            base_tokens_BTC=self.base[own],
            face_embeddings_BE=self.face[faces],
        )


def tiny_config(stage: str, out: Path, changes: Sequence[str] = (), **fields: Any) -> TrainingConfig:
    """A run of some steps; the paths of base model and dataset are never read."""
    content = {
        "stage": stage, "out": str(out), "base_model": "in memory", "dataset": "in memory", "network": SIZES,
        "steps": 4, "batch_size": 4, "warm_up": 2, "learning_rate": 1e-2, "checkpoint_every": 100, "log_every": 1,
        "ema_decay": 0.9, "device": "cpu", "loggers": [], "export_dtype": "float32",
        "shares": {"reconstruct": 0.5, "foundation": 0.25, "base": 0.25},
    }  # fmt: skip
    return TrainingConfig.checked({**content, **fields})


def tiny_dataset(folder: Path, people: int = 3, each: int = 2) -> Path:
    """The same kind of data as shards on the disk, with pictures to look at."""
    from PIL import Image

    source = TinyPortraits(people, each)
    assert source.persons is not None and source.latents is not None
    with ShardWriter(folder, image_size=SIDE, face_encoder="test-encoder", clip_vision="test-clip") as writer:
        for row, person in enumerate(source.persons.tolist()):
            picture = Image.new("RGB", (SIDE, SIDE), (40 * person, 90, 20 * row))
            tensors = {
                "clip_tokens": source.clip[row].half(),
                "base_tokens": source.base[row].half(),
                "face_embeddings": source.face[row],
                "latents": source.latents[row].half(),
            }
            writer.add(picture, f"picture {row}", {"person": f"p{person}"}, tensors)
    return folder

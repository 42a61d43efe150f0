"""The foundation of the mini pack: a UNet of SDXL's kind and both text encoders, learned together from nothing.

Shapes: B pictures, latents (B, c, h, w), T = 77 text tokens of width C.

The UNet predicts the noise, weighted so that no noise level rules the others (min-SNR of 5: Hang et al., 2023). Text is
read as SDXL reads it: both penultimate layers side by side, the second encoder's pooled output beside the time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from hyperlora.mini.learn.drawings import Drawings
from hyperlora.mini.learn.fit import Outcome, fit
from hyperlora.mini.learn.sizes import TEXT_WIDTH, Sizes
from hyperlora.mini.learn.steps import on_device
from hyperlora.mini.learn.words import TokenIds, spoken
from hyperlora.mini.models import SCHEDULER_CONFIG

MIN_SNR = 5.0


class Foundation(nn.Module):
    """UNet and text encoders as one thing to train."""

    def __init__(self, sizes: Sizes, tokenizer: Any) -> None:
        from diffusers import UNet2DConditionModel

        super().__init__()
        channels, side, _ = sizes.latents
        config = {"sample_size": side, "in_channels": channels, "out_channels": channels, **sizes.unet}
        self.unet = cast(Any, UNet2DConditionModel)(**config)
        self.first = _text_encoder(tokenizer, projection=False)
        self.second = _text_encoder(tokenizer, projection=True)
        self.side = sizes.side

    def forward(self, noisy_BCHW: torch.Tensor, timesteps_B: torch.Tensor, ids_BT: torch.Tensor) -> torch.Tensor:
        """The predicted noise; rows of `ids_BT` that say nothing are conditioned on zeros, as the pipeline does."""
        first, second = (encoder(ids_BT, output_hidden_states=True) for encoder in (self.first, self.second))
        tokens_BTC = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        says_B = (ids_BT[:, 1] != ids_BT[:, -1]).to(tokens_BTC)
        predicted: torch.Tensor = self.unet(
            noisy_BCHW,
            timesteps_B,
            encoder_hidden_states=tokens_BTC * says_B[:, None, None],
            added_cond_kwargs={
                "text_embeds": second.text_embeds * says_B[:, None],
                "time_ids": tokens_BTC.new_tensor([[self.side, self.side, 0, 0, self.side, self.side]]).expand(
                    len(ids_BT), -1
                ),
            },
            return_dict=False,
        )[0]
        return predicted


def new_foundation(sizes: Sizes, tokenizer: Any, seed: int = 1) -> Foundation:
    """With fresh weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Foundation(sizes, tokenizer)


def train_foundation(
    drawings: Drawings,
    latents_NCHW: torch.Tensor,
    tokenizer: Any,
    sizes: Sizes,
    work: Path,
    *,
    device: str = "cpu",
    max_seconds: float = math.inf,
    tell: Callable[[str], None] = print,
) -> tuple[Foundation, Outcome]:
    """Train, or go on training, UNet and text encoders on latents of the drawings; the state lies in `work`."""
    import diffusers

    foundation = new_foundation(sizes, tokenizer)
    on_device(foundation, device)
    schedule: Any = cast(Any, diffusers.DDPMScheduler)(**SCHEDULER_CONFIG)
    ids = TokenIds(tokenizer)
    plan = sizes.foundation_plan
    signal = schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)

    def loss(_: int, chance: torch.Generator) -> dict[str, torch.Tensor]:
        rows = torch.randint(len(latents_NCHW), (plan.batch,), generator=chance)
        said = [spoken(drawings.captions[row], int(drawings.persons[row]), chance) for row in rows.tolist()]
        clean = latents_NCHW[rows].to(device).float()
        noise = torch.randn(clean.shape, generator=chance).to(device)
        timesteps = torch.randint(schedule.config.num_train_timesteps, (plan.batch,), generator=chance)
        noisy = schedule.add_noise(clean, noise, timesteps.to(device))
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        predicted = foundation(noisy, timesteps.to(device), ids.of(said).to(device))
        weight = (MIN_SNR / signal[timesteps]).clamp(max=1.0).to(device)
        each = (predicted.float() - noise).square().mean(dim=(1, 2, 3))
        return {"noise": (weight * each).mean()}

    outcome = fit(foundation, loss, plan, work / "foundation.safetensors", max_seconds=max_seconds, tell=tell)
    return foundation, outcome


def _text_encoder(tokenizer: Any, *, projection: bool) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=TEXT_WIDTH,
        hidden_act="gelu" if projection else "quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)

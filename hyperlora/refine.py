"""Ordinary LoRA fine-tuning that starts from an emitted LoRA: some 50 steps on a person's own photos, by peft.

Shapes: P photos, B samples of a step, T text tokens of width C, latents (B, 4, H/8, W/8).

The adapter that is trained begins as the LoRA that is given, with its ranks and alphas, so the result is a LoRA like
any other. The loss is the mean squared error of the predicted noise at a random timestep. The base model is frozen: it
comes out as it went in, bit for bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import nn

from hyperlora.errors import InvalidRequest, LoRAMismatch, NonFiniteWeights
from hyperlora.faces.choice import FaceChoice
from hyperlora.faces.types import FaceAnalyzer
from hyperlora.lora import LoRA
from hyperlora.pipeline import PortraitPipeline
from hyperlora.prompts import with_trigger_words
from hyperlora.refine_adapter import attached, checkpointed, layer_of
from hyperlora.refine_crops import crops_of
from hyperlora.sampling import encode

PROMPT = "portrait of a person"
SIDE_SHARE = 0.75  # of the side that the base model was trained for: 768 at 1024
GRADIENT_LIMIT = 1.0
_GENTLER = "use a base in bfloat16 or float32, or a lower learning rate"
_PREDICTIONS = ("epsilon", "v_prediction")


@dataclass(frozen=True)
class _Text:
    """What the UNet is told in every step; rows are repeated for a batch."""

    tokens_1TC: torch.Tensor
    pooled_1P: torch.Tensor
    time_ids_16: torch.Tensor


def refine(
    pipeline: PortraitPipeline,
    lora: LoRA,
    photos: Sequence[Image.Image],
    *,
    steps: int = 50,
    learning_rate: float = 1e-4,
    batch_size: int = 4,
    side: int | None = None,
    prompt: str = PROMPT,
    trigger_words: bool = True,
    seed: int = 0,
    analyzer: FaceAnalyzer | None = None,
    faces: Sequence[FaceChoice] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> LoRA:
    """Train a LoRA further on one person's photos; returns a new LoRA of the same layers, ranks, alphas and dtype.

    Parameters
    ----------
    pipeline
        The base model, without a LoRA merged and without a few-step preset.
    lora
        Where to begin.
    photos
        Pictures of the person. With an `analyzer` each is cropped to twice its face, and one without a usable face is
        left out; without, its middle square is taken. `faces` says for each photo which face is meant.
    steps, learning_rate, batch_size
        AdamW's steps, its constant rate, and the pictures drawn (with replacement) for each.
    side
        Pixels; 0.75 times the base model's own size unless given.
    prompt, trigger_words
        What every picture is said to show; the pipeline's trigger words are put in front unless switched off.
    seed
        Decides pictures, timesteps and noise: the same on one machine gives the same LoRA (on a GPU up to the order of
        its sums).
    on_step
        Called with (done, steps) after every step; what it raises ends the training and leaves the base as it was.

    Raises
    ------
    InvalidRequest
        A LoRA is merged, a preset is fused, or a number cannot be used.
    LoRAMismatch
        The LoRA does not fit the pipeline's UNet.
    NoUsablePhoto
        None of the photos shows a usable face.
    NonFiniteWeights, NonFinitePicture
        The LoRA holds NaN, or the training or the VAE overflowed.
    """
    # 1. Refuse what cannot be trained.
    side = _default_side(pipeline) if side is None else side
    _check(pipeline, lora, steps, learning_rate, batch_size, side)
    components = pipeline.components
    # 2. Photos into latents, the text into embeddings.
    crops = crops_of(photos, side, analyzer, faces)
    with torch.no_grad():
        latents = encode(components.vae, crops, at_once=1).to(pipeline.device)
    written = with_trigger_words(prompt, pipeline.trigger_words) if trigger_words else prompt
    # The caches of a pipeline may hold inference tensors, which no gradient passes: hence the copies.
    with torch.inference_mode(False), torch.enable_grad():
        text = _text(pipeline, written, side)
        # 3. The LoRA as a trainable adapter.
        with attached(components.unet, lora) as factors, checkpointed(components.unet):
            # 4. The steps.
            parameters = [factor for pair in factors.values() for factor in pair]
            draws = torch.Generator("cpu").manual_seed(seed)
            _train(pipeline, parameters, latents, text, draws, steps, learning_rate, batch_size, on_step)
            # 5. The adapter's factors as a LoRA.
            layers = {name: layer_of(lora.layers[name], *pair) for name, pair in factors.items()}
    made_of = {
        "refined_from": hashlib.sha256(lora.to_bytes()).hexdigest(),
        "refined_base": pipeline.fingerprint,
        "refined_photos": str(len(crops)),
        "refined_prompt": written,
        "refined_settings": f"steps {steps}, rate {learning_rate:g}, batch {batch_size}, side {side}, seed {seed}",
    }
    refined = LoRA(layers, {**lora.metadata, **made_of})
    if refined.non_finite_layer is not None:
        raise NonFiniteWeights(f"refining made layer {refined.non_finite_layer} NaN or infinite; {_GENTLER}")
    return refined


def _default_side(pipeline: PortraitPipeline) -> int:
    step = pipeline.size_step
    return max(step, int(SIDE_SHARE * pipeline.default_size) // step * step)


def _check(
    pipeline: PortraitPipeline, lora: LoRA, steps: int, learning_rate: float, batch_size: int, side: int
) -> None:
    if not pipeline.merger.is_pristine:
        raise InvalidRequest("refining needs the plain base model, found LoRAs merged into it; call restore() first")
    if pipeline.preset is not None:
        raise InvalidRequest(
            f"refining needs the base model itself, found the few-step preset {pipeline.preset.name!r} fused into it; "
            "load the model without it: the refined LoRA can be drawn with the preset after"
        )
    if steps < 1 or batch_size < 1 or not 0 < learning_rate < 1:
        raise InvalidRequest(
            f"steps and batch_size are at least 1, learning_rate lies between 0 and 1; found steps {steps}, "
            f"batch_size {batch_size}, learning_rate {learning_rate}"
        )
    if side < pipeline.size_step or side % pipeline.size_step:
        raise InvalidRequest(f"side must be a positive multiple of {pipeline.size_step} pixels, found {side}")
    prediction = pipeline.components.scheduler_config.get("prediction_type", "epsilon")
    if prediction not in _PREDICTIONS:
        raise InvalidRequest(
            f"base models that predict {' or '.join(_PREDICTIONS)} are trained, this one predicts {prediction!r}"
        )
    if not lora.layers:
        raise LoRAMismatch("refining begins with a LoRA that has layers, found an empty one")
    lora.require_fit(pipeline.merger.shapes)
    lora.require_finite()


def _text(pipeline: PortraitPipeline, written: str, side: int) -> _Text:
    unet = pipeline.components.unet
    embedding = pipeline.prompts.encode(written)
    return _Text(
        embedding.tokens_TC.clone().to(unet.device, unet.dtype).unsqueeze(0),
        embedding.pooled_P.clone().to(unet.device, unet.dtype).unsqueeze(0),
        # SDXL's micro-conditioning: original size, crop corner, target size. A crop is told as a whole picture, as
        # pictures are asked for later.
        torch.tensor([[side, side, 0, 0, side, side]], device=unet.device, dtype=unet.dtype),
    )


def _train(
    pipeline: PortraitPipeline,
    parameters: list[nn.Parameter],
    latents_P4HW: torch.Tensor,
    text: _Text,
    draws: torch.Generator,
    steps: int,
    learning_rate: float,
    batch_size: int,
    on_step: Callable[[int, int], None] | None,
) -> None:
    import diffusers

    unet: Any = pipeline.components.unet
    maker: Any = diffusers.DDPMScheduler
    schedule = maker.from_config(pipeline.components.scheduler_config)
    # No weight decay: it would pull towards no LoRA, not towards the one that was given.
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    # The gradients of a half-precision UNet are smaller than half precision can hold.
    scaler = torch.amp.GradScaler(unet.device.type, enabled=unet.dtype == torch.float16)
    for done in range(1, steps + 1):
        # Every draw on the CPU, so that a seed means the same on every machine.
        chosen_B = torch.randint(len(latents_P4HW), (batch_size,), generator=draws)
        timesteps_B = torch.randint(schedule.config.num_train_timesteps, (batch_size,), generator=draws)
        noise_B4HW = torch.randn((batch_size, *latents_P4HW.shape[1:]), generator=draws).to(unet.device)
        loss = _loss(unet, schedule, latents_P4HW[chosen_B], noise_B4HW, timesteps_B.to(unet.device), text)
        if not torch.isfinite(loss):
            raise NonFiniteWeights(f"the loss of step {done} is {loss.item()}; {_GENTLER}")
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(parameters, GRADIENT_LIMIT)
        scaler.step(optimizer)
        scaler.update()
        if on_step is not None:
            on_step(done, steps)


def _loss(
    unet: Any,
    schedule: Any,
    latents_B4HW: torch.Tensor,
    noise_B4HW: torch.Tensor,
    timesteps_B: torch.Tensor,
    text: _Text,
) -> torch.Tensor:
    count = len(latents_B4HW)
    predicted = unet(
        schedule.add_noise(latents_B4HW, noise_B4HW, timesteps_B).to(unet.dtype),
        timesteps_B,
        encoder_hidden_states=text.tokens_1TC.expand(count, -1, -1),
        added_cond_kwargs={
            "text_embeds": text.pooled_1P.expand(count, -1),
            "time_ids": text.time_ids_16.expand(count, -1),
        },
        return_dict=False,
    )[0].float()
    velocity = schedule.config.prediction_type == "v_prediction"
    target = schedule.get_velocity(latents_B4HW, noise_B4HW, timesteps_B) if velocity else noise_B4HW
    return nn.functional.mse_loss(predicted, target)

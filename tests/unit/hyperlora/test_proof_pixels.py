"""The LoRA attached by diffusers and by peft draws what our merge draws, in float32.

Tolerances: the UNet's output within 2e-5 of its largest number (the sums run in another order: W x + s B A x there,
(W + s B A) x here), a picture within 1 of 255 per channel.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from PIL import Image
from safetensors.torch import load_file
from tiny_sdxl import SIZE

from hyperlora import HyperLoRA, LoRA, PortraitPipeline, Sample
from hyperlora.lora_formats import LoRAFormat

STEPS = 5
SAMPLE = Sample("a man with a green tie", seed=11, negative_prompt="blurry", guidance=4.0)
Loras = list[tuple[LoRA, float]]


def people(network: HyperLoRA) -> tuple[LoRA, LoRA]:
    """Ada's ID-LoRA from two photos, and her Base-LoRA; strong enough to be seen."""
    generator = torch.Generator().manual_seed(21)
    read = torch.randn(2, 10, generator=generator), torch.randn(2, 17, 24, generator=generator)
    return network.generate(*read).scaled(3.0), network.generate(*read, "base").scaled(3.0)


def ours(pipeline: PortraitPipeline, loras: Loras) -> tuple[Image.Image, torch.Tensor]:
    """Picture and UNet output with the LoRAs merged."""
    pipeline.apply(loras)
    try:
        image = pipeline.draw([SAMPLE], width=SIZE, height=SIZE, steps=STEPS, scheduler="euler").images[0]
        return image, look(pipeline.components.unet)
    finally:
        pipeline.restore()


def theirs(pipe: StableDiffusionXLPipeline) -> Image.Image:
    image: Image.Image = pipe(
        SAMPLE.prompt,
        negative_prompt=SAMPLE.negative_prompt,
        guidance_scale=SAMPLE.guidance,
        generator=torch.Generator("cpu").manual_seed(SAMPLE.seed),
        num_inference_steps=STEPS,
        width=SIZE,
        height=SIZE,
    ).images[0]
    return image


@torch.no_grad()
def look(unet: UNet2DConditionModel) -> torch.Tensor:
    """What the UNet answers to fixed latents, texts and times."""
    generator = torch.Generator().manual_seed(31)
    answer: torch.Tensor = unet(
        torch.randn(2, 4, 8, 8, generator=generator),
        torch.tensor([900, 20]),
        encoder_hidden_states=torch.randn(2, 77, 64, generator=generator),
        added_cond_kwargs={
            "text_embeds": torch.randn(2, 32, generator=generator),
            "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]]).repeat(2, 1),
        },
    ).sample
    return answer


def attach_by_diffusers(pipe: StableDiffusionXLPipeline, loras: Loras, form: LoRAFormat, folder: Path) -> None:
    for index, (lora, _) in enumerate(loras):
        lora.save(folder / f"{index}.safetensors", format=form)
        pipe.load_lora_weights(folder / f"{index}.safetensors", adapter_name=f"lora_{index}")
    pipe.set_adapters([f"lora_{index}" for index in range(len(loras))], [weight for _, weight in loras])


def attach_by_peft(pipe: StableDiffusionXLPipeline, loras: Loras, form: LoRAFormat, folder: Path) -> None:
    assert form == "peft"
    for index, (lora, weight) in enumerate(loras):
        lora.save(folder / f"{index}.safetensors", format="peft")
        state = {name.removeprefix("unet."): each for name, each in load_file(folder / f"{index}.safetensors").items()}
        targets = sorted({name.partition(".lora_")[0] for name in state})
        config = LoraConfig(r=lora.rank, lora_alpha=lora.rank, target_modules=targets, init_lora_weights=False)
        inject_adapter_in_model(config, pipe.unet, adapter_name=f"lora_{index}")
        result = set_peft_model_state_dict(pipe.unet, state, adapter_name=f"lora_{index}")
        assert not result.unexpected_keys
        for module in pipe.unet.modules():
            if isinstance(module, LoraLayer):
                module.set_scale(f"lora_{index}", weight)
    for module in pipe.unet.modules():
        if isinstance(module, LoraLayer):
            module.set_adapter([f"lora_{index}" for index in range(len(loras))])


@contextmanager
def their_copy(sdxl: StableDiffusionXLPipeline) -> Iterator[StableDiffusionXLPipeline]:
    """diffusers' pipeline on a UNet of its own, as attaching changes it."""
    parts = {**sdxl.components, "unet": copy.deepcopy(sdxl.unet)}
    pipe = StableDiffusionXLPipeline(**parts, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    yield pipe


Attach = Callable[[StableDiffusionXLPipeline, Loras, LoRAFormat, Path], None]
WAYS: list[tuple[Attach, LoRAFormat]] = [
    (attach_by_diffusers, "diffusers"),
    (attach_by_diffusers, "comfyui"),
    (attach_by_diffusers, "kohya"),
    (attach_by_diffusers, "peft"),
    (attach_by_peft, "peft"),
]


# Two adapters on one model are what is wanted here.
@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute")
@pytest.mark.parametrize(("attach", "form"), WAYS, ids=lambda way: getattr(way, "__name__", way))
@pytest.mark.parametrize("weights", [(0.8, None), (-1.5, None), (0.8, 0.4)], ids=["id", "negative", "full"])
def test_attached_is_merged(
    pipeline: PortraitPipeline,
    sdxl: StableDiffusionXLPipeline,
    unet_network: HyperLoRA,
    attach: Attach,
    form: LoRAFormat,
    weights: tuple[float, float | None],
    tmp_path: Path,
) -> None:
    # Given a LoRA, alone or with a Base-LoRA of another rank
    loras = [(lora, weight) for lora, weight in zip(people(unet_network), weights, strict=True) if weight is not None]
    plain, plain_answer = ours(pipeline, [])
    # When merged here, and attached there from its file
    picture, answer = ours(pipeline, loras)
    with their_copy(sdxl) as pipe:
        attach(pipe, loras, form, tmp_path)
        their_answer, their_picture = look(pipe.unet), theirs(pipe)
    # Then the UNet answers alike, and the pictures are the same
    scale = answer.abs().max()
    assert (answer - their_answer).abs().max() < 2e-5 * scale
    difference = np.abs(np.asarray(picture).astype(int) - np.asarray(their_picture).astype(int))
    assert difference.max() <= 1
    # And the LoRA was there to be seen, much more than the tolerance
    assert (answer - plain_answer).abs().max() > 2e-2 * scale
    assert np.abs(np.asarray(picture).astype(int) - np.asarray(plain).astype(int)).max() > 10


def test_a_lora_loaded_from_any_format_draws_one_picture(
    pipeline: PortraitPipeline, unet_network: HyperLoRA, tmp_path: Path
) -> None:
    # Given one LoRA in every format
    lora, _ = people(unet_network)
    pictures = set()
    for form in ("diffusers", "comfyui", "kohya", "peft"):
        lora.save(tmp_path / f"{form}.safetensors", format=form)  # type: ignore[arg-type]
        pictures.add(ours(pipeline, [(LoRA.load(tmp_path / f"{form}.safetensors"), 0.8)])[0].tobytes())
    # Then they draw one picture
    pictures.add(ours(pipeline, [(lora, 0.8)])[0].tobytes())
    assert len(pictures) == 1

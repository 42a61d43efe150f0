"""ControlNets against diffusers' own pipelines; when they act, that they add up, and which do not fit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image
from sdxl_pictures import diffusers_draws, distance, draw, photo, tiny_controlnet
from tiny_sdxl import SIZE, tiny_pipeline

from hyperlora import Control, ControlNet, PortraitPipeline, Sample
from hyperlora.components import SDXLComponents
from hyperlora.errors import ControlMismatch, InvalidRequest, WeightsMissing
from hyperlora.sampling import encode

POSE, DEPTH = photo(21), photo(22)
SAMPLE = Sample("a man with a tie", seed=11, negative_prompt="blurry", guidance=3.0, control=(POSE,))


@pytest.fixture(scope="module")
def folder(sdxl: StableDiffusionXLPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_controlnet(tmp_path_factory.mktemp("control"), sdxl.unet)


@pytest.fixture(scope="module")
def net(folder: Path) -> ControlNet:
    return ControlNet.from_pretrained(folder)


@pytest.fixture(scope="module")
def other_net(sdxl: StableDiffusionXLPipeline, tmp_path_factory: pytest.TempPathFactory) -> ControlNet:
    return ControlNet.from_pretrained(tiny_controlnet(tmp_path_factory.mktemp("control"), sdxl.unet, seed=6))


@pytest.mark.parametrize(
    ("scale", "start", "end", "guidance"),
    [(1.0, 0.0, 1.0, 3.0), (0.6, 0.0, 1.0, 1.0), (0.7, 0.0, 0.7, 3.0), (0.7, 0.3, 1.0, 3.0), (0.7, 0.25, 0.75, 3.0)],
)
def test_one_control_is_what_diffusers_draws(
    pipeline: PortraitPipeline,
    sdxl: StableDiffusionXLPipeline,
    net: ControlNet,
    scale: float,
    start: float,
    end: float,
    guidance: float,
) -> None:
    # Given a ControlNet at a scale, between two shares of the steps
    sample = replace(SAMPLE, guidance=guidance)
    ours = draw(pipeline, sample, controls=[Control(net, scale, start, end)]).images[0]
    # When drawn by diffusers
    pipe = StableDiffusionXLControlNetPipeline(**sdxl.components, controlnet=net.model, add_watermarker=False)
    expected = diffusers_draws(
        pipe,
        sample,
        "dpmpp_2m_karras",
        sdxl.scheduler.config,
        image=POSE,
        controlnet_conditioning_scale=scale,
        control_guidance_start=start,
        control_guidance_end=end,
    )
    # Then the pictures are equal within one step of 255, and are not those without the control
    assert distance(ours, expected) <= 1
    assert distance(ours, draw(pipeline, replace(sample, control=())).images[0]) > 3


def test_two_controls_add_up_as_in_diffusers(
    pipeline: PortraitPipeline, sdxl: StableDiffusionXLPipeline, net: ControlNet, other_net: ControlNet
) -> None:
    # Given two controls that act at different times
    sample = replace(SAMPLE, control=(POSE, DEPTH))
    ours = draw(pipeline, sample, controls=[Control(net, 0.5, 0.0, 0.75), Control(other_net, 0.8, 0.25, 1.0)])
    # When drawn by diffusers, then the pictures are equal within one step of 255
    pipe = StableDiffusionXLControlNetPipeline(
        **sdxl.components, controlnet=[net.model, other_net.model], add_watermarker=False
    )
    expected = diffusers_draws(
        pipe,
        sample,
        "dpmpp_2m_karras",
        sdxl.scheduler.config,
        image=[POSE, DEPTH],
        controlnet_conditioning_scale=[0.5, 0.8],
        control_guidance_start=[0.0, 0.25],
        control_guidance_end=[0.75, 1.0],
    )
    assert distance(ours.images[0], expected) <= 1
    # And the order of the pictures matters
    swapped = draw(pipeline, replace(SAMPLE, control=(DEPTH, POSE)), controls=[Control(net), Control(other_net)])
    right = draw(pipeline, sample, controls=[Control(net), Control(other_net)])
    assert distance(swapped.images[0], right.images[0]) > 3


def test_a_control_with_a_start_picture_is_what_diffusers_draws(
    pipeline: PortraitPipeline, sdxl: StableDiffusionXLPipeline, net: ControlNet
) -> None:
    # Given a picture to start from and a control that is on in half of the steps that are walked
    sample = replace(SAMPLE, image=photo(1))
    ours = draw(pipeline, sample, strength=0.75, controls=[Control(net, 0.8, 0.0, 0.7)]).images[0]
    pipe = StableDiffusionXLControlNetImg2ImgPipeline(**sdxl.components, controlnet=net.model, add_watermarker=False)
    with torch.inference_mode():
        start = encode(sdxl.vae, [photo(1)], at_once=1)
    expected = diffusers_draws(
        pipe,
        sample,
        "dpmpp_2m_karras",
        sdxl.scheduler.config,
        image=start,
        control_image=POSE,
        height=SIZE,
        width=SIZE,
        strength=0.75,
        controlnet_conditioning_scale=0.8,
        control_guidance_start=0.0,
        control_guidance_end=0.7,
    )
    assert distance(ours, expected) <= 1


def test_a_controlled_picture_does_not_depend_on_its_batch(pipeline: PortraitPipeline, net: ControlNet) -> None:
    # Given samples with conditioning pictures of their own, each drawn alone
    samples = [SAMPLE, replace(SAMPLE, seed=2, control=(DEPTH,)), replace(SAMPLE, prompt="a cat", control=(photo(5),))]
    controls = [Control(net, 0.7, 0.0, 0.7)]
    alone = [draw(pipeline, sample, controls=controls).images[0] for sample in samples]
    # When drawn together, then every picture is the one drawn alone
    for order in ((0, 1, 2), (2, 0, 1)):
        drawn = draw(pipeline, *(samples[index] for index in order), controls=controls).images
        assert max(distance(image, alone[index]) for index, image in zip(order, drawn, strict=True)) <= 1


def test_when_a_control_acts(net: ControlNet) -> None:
    # Given ten steps, when a control ends at 0.7, then it acts in the first seven; other shares likewise
    for start, end, on in (
        (0.0, 0.7, range(7)),
        (0.3, 1.0, range(3, 10)),
        (0.25, 0.55, range(3, 5)),
        (0, 1, range(10)),
    ):
        control = Control(net, 1.0, start, end)
        assert [step for step in range(10) if control.is_on(step, 10)] == list(on)
    assert not Control(net, 0.0).is_on(0, 10)


def test_a_control_that_is_off_changes_nothing(pipeline: PortraitPipeline, net: ControlNet) -> None:
    plain = draw(pipeline, replace(SAMPLE, control=())).images[0]
    for control in (Control(net, 0.0), Control(net, 1.0, 0.3, 0.45)):
        assert distance(draw(pipeline, SAMPLE, controls=[control]).images[0], plain) == 0


def test_a_control_in_half_precision_serves_a_full_model_and_the_other_way(
    folder: Path, net: ControlNet, pipeline: PortraitPipeline, tmp_path: Path
) -> None:
    # Given a half-precision ControlNet, and a half-precision model
    half = ControlNet.from_pretrained(folder, dtype=torch.float16)
    assert half.model.dtype == torch.float16
    small = PortraitPipeline(SDXLComponents.from_diffusers(tiny_pipeline(tmp_path).to(torch.float16)))
    # Then all of them draw about the same picture
    exact = draw(pipeline, SAMPLE, controls=[Control(net)]).images[0]
    assert distance(draw(pipeline, SAMPLE, controls=[Control(half)]).images[0], exact) <= 12
    assert distance(draw(small, SAMPLE, controls=[Control(net)]).images[0], exact) <= 12
    assert distance(draw(small, SAMPLE, controls=[Control(half)]).images[0], exact) <= 12


def test_what_cannot_be_controlled_is_refused(pipeline: PortraitPipeline, net: ControlNet) -> None:
    for sample, controls, message in (
        (SAMPLE, [], "found 0 controls and 1 pictures"),
        (SAMPLE, [Control(net), Control(net)], "found 2 controls and 1 pictures"),
        (
            replace(SAMPLE, control=(Image.new("RGB", (8, 8)),)),
            [Control(net)],
            "control picture must have the drawn size",
        ),
    ):
        with pytest.raises(InvalidRequest, match=message):
            draw(pipeline, sample, controls=controls)
    for values in ((float("nan"),), (1.0, 0.5, 0.5), (1.0, -0.1, 1.0), (1.0, 0.0, 1.1)):
        with pytest.raises(InvalidRequest, match="0 <= start < end <= 1"):
            Control(net, *values)


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("cross_attention_dim", {"cross_attention_dim": 32}),
        ("projection_class_embeddings_input_dim", {"projection_class_embeddings_input_dim": 96}),
        ("addition_embed_type", {"addition_embed_type": None}),
        ("block_out_channels", {"block_out_channels": (64, 64)}),
        ("reads 4 channels", {"conditioning_channels": 4}),
        ("4 pixels a latent", {"conditioning_embedding_out_channels": (8, 8, 16)}),
    ],
)
def test_a_control_of_another_base_model_is_named(
    pipeline: PortraitPipeline, net: ControlNet, key: str, change: dict[str, Any]
) -> None:
    # Given a ControlNet that differs from the UNet in one thing
    config = {**net.model.config, **change}
    other = ControlNet(ControlNetModel.from_config(config), "other", lambda: "")
    # Then it is refused, and the message names it
    with pytest.raises(ControlMismatch, match=key):
        draw(pipeline, SAMPLE, controls=[Control(other)])


def test_fingerprint_and_places(folder: Path, tmp_path: Path) -> None:
    # Given a copy with a model card and weights of another variant beside
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "README.md").write_text("a model card")
    weights = copy / "diffusion_pytorch_model.safetensors"
    half = copy / "diffusion_pytorch_model.fp16.safetensors"
    half.write_bytes(b"another variant")
    # Then neither counts
    before = ControlNet.from_pretrained(folder).fingerprint
    assert ControlNet.from_pretrained(copy).fingerprint == before
    assert len(before) == 64
    # And where only the variant is there, it is taken
    shutil.move(weights, half)
    variant = ControlNet.from_pretrained(copy)
    assert variant.fingerprint not in (before, "")
    # And without any weights, or with pickled ones only, nothing is loaded
    half.unlink()
    torch.save({}, copy / "diffusion_pytorch_model.bin")
    with pytest.raises(WeightsMissing, match=r"needs diffusion_pytorch_model\.safetensors"):
        ControlNet.from_pretrained(copy)
    weights.write_bytes(b"not safetensors")
    with pytest.raises(ControlMismatch, match="cannot be loaded as a ControlNet"):
        ControlNet.from_pretrained(copy)


def test_other_kinds_of_networks_are_named(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "_class_name": "ControlNetUnionModel"}))
    with pytest.raises(ControlMismatch, match="holds ControlNetUnionModel"):
        ControlNet.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsMissing, match=r"config\.json that can be read"):
        ControlNet.from_pretrained(tmp_path)
    with pytest.raises(WeightsMissing, match="not a hub id"):
        ControlNet.from_pretrained("/no/such/place")

"""Drawing that starts from a given picture: diffusers' own img2img, and a picture that is alone in any batch."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from PIL import Image
from sdxl_pictures import STEPS, diffusers_draws, distance, draw, photo, pixels
from tiny_sdxl import SIZE, tiny_pipeline

from hyperlora import PortraitPipeline, Sample
from hyperlora.components import SDXLComponents
from hyperlora.errors import InvalidRequest, NonFinitePicture
from hyperlora.sampling import encode

GIVEN = Sample("a man with a tie", seed=11, negative_prompt="blurry", guidance=3.0, image=photo(1))


def latents(pipe: Any, image: Image.Image) -> torch.Tensor:
    """What our pipeline starts from, for diffusers, which would draw a random sample of the VAE's distribution."""
    with torch.inference_mode():
        return encode(pipe.vae, [image], at_once=1)


def _record(seen: list[tuple[int, int]], done: int, total: int) -> None:
    seen.append((done, total))


@pytest.mark.parametrize("strength", [0.5, 0.75, 1.0])
@pytest.mark.parametrize("scheduler", ["dpmpp_2m_karras", "euler", "euler_trailing", "ddim_trailing", "lcm", "tcd"])
def test_a_start_picture_is_what_diffusers_makes_of_it(
    pipeline: PortraitPipeline, sdxl: StableDiffusionXLPipeline, scheduler: str, strength: float
) -> None:
    # Given a picture to start from
    ours = draw(pipeline, GIVEN, strength=strength, scheduler=scheduler).images[0]
    # When diffusers starts from the same latents, with the same noise, also within the steps
    pipe = StableDiffusionXLImg2ImgPipeline(**sdxl.components, add_watermarker=False)
    expected = diffusers_draws(
        pipe,
        GIVEN,
        scheduler,
        sdxl.scheduler.config,
        image=latents(sdxl, photo(1)),
        strength=strength,
        eta=float(scheduler == "tcd"),  # diffusers would overrule the sampler's own 1.0 with 0.0
    )
    # Then the pictures are equal within one step of 255
    assert distance(ours, expected) <= 1
    assert pixels(ours).std() > 5


def test_encoding_undoes_decoding_where_the_vae_has_statistics(tmp_path: Any) -> None:
    # Given a VAE whose latents have a mean and a standard deviation
    pipe = tiny_pipeline(tmp_path)
    pipe.vae.register_to_config(latents_mean=[0.3, -0.2, 0.1, 0.5], latents_std=[0.5, 0.7, 0.9, 1.1])
    pipeline = PortraitPipeline(SDXLComponents.from_diffusers(pipe))
    # When drawn by both
    ours = draw(pipeline, GIVEN, strength=0.5).images[0]
    own = StableDiffusionXLImg2ImgPipeline(**pipe.components, add_watermarker=False)
    expected = diffusers_draws(
        own, GIVEN, "dpmpp_2m_karras", pipe.scheduler.config, image=latents(pipe, photo(1)), strength=0.5
    )
    # Then the pictures are equal, and the latents are not those of a VAE without statistics
    assert distance(ours, expected) <= 1
    raw = pipe.vae.encode(torch.from_numpy(pixels(photo(1))).permute(2, 0, 1)[None].float() / 127.5 - 1)
    mean, std = (torch.tensor(pipe.vae.config[name]).view(1, 4, 1, 1) for name in ("latents_mean", "latents_std"))
    scaled = (raw.latent_dist.mean - mean) / std * pipe.vae.config.scaling_factor
    assert torch.allclose(latents(pipe, photo(1)), scaled, atol=1e-5)


@pytest.mark.parametrize("scheduler", ["dpmpp_2m_karras", "euler", "lcm", "tcd", "dmd2"])
def test_a_picture_from_a_start_does_not_depend_on_its_batch(pipeline: PortraitPipeline, scheduler: str) -> None:
    # Given three samples with pictures of their own, each drawn alone
    samples = [
        GIVEN,
        replace(GIVEN, prompt="a cat", seed=2, image=photo(2), guidance=7.0),
        replace(GIVEN, seed=3, negative_prompt="", image=photo(3)),
    ]
    settings: dict[str, Any] = {"strength": 0.6, "scheduler": scheduler}
    alone = [draw(pipeline, sample, **settings).images[0] for sample in samples]
    # When drawn together, in another order, then every picture is the one drawn alone
    for order in ((0, 1, 2), (2, 0, 1)):
        drawn = draw(pipeline, *(samples[index] for index in order), **settings).images
        assert max(distance(image, alone[index]) for index, image in zip(order, drawn, strict=True)) <= 1
    # And they differ
    assert distance(alone[0], alone[2]) > 3


def test_strength_says_how_far_a_picture_goes(pipeline: PortraitPipeline) -> None:
    # Given strengths, when the steps are counted, then the last int(steps * strength) are walked, at least one
    for strength, walked in ((1.0, 10), (0.55, 5), (0.1, 1), (0.01, 1)):
        seen: list[tuple[int, int]] = []
        record = partial(_record, seen)
        drawing = draw(pipeline, GIVEN, steps=10, strength=strength, on_step=record)
        assert seen == [(step, walked) for step in range(1, walked + 1)]
        assert list(drawing.seconds) == ["encode_prompt", "encode_image", "denoise", "decode"]
    # And a weak strength stays near what the VAE makes of the picture, a strong one goes far
    untouched = draw(pipeline, GIVEN, steps=1000, strength=0.001).images[0]
    near = draw(pipeline, GIVEN, steps=20, strength=0.05).images[0]
    far = draw(pipeline, GIVEN, steps=20, strength=1.0).images[0]
    assert abs(pixels(near) - pixels(untouched)).mean() < abs(pixels(far) - pixels(untouched)).mean() / 2


def test_a_given_picture_has_no_transparency(pipeline: PortraitPipeline) -> None:
    # Given the same picture in other modes, then the same is drawn
    plain = draw(pipeline, GIVEN, strength=0.5).images[0]
    rgba = replace(GIVEN, image=photo(1).convert("RGBA"))
    assert distance(draw(pipeline, rgba, strength=0.5).images[0], plain) == 0


def test_what_cannot_be_started_from_is_refused(pipeline: PortraitPipeline) -> None:
    without = replace(GIVEN, image=None)
    for samples, changes, message in (
        ((GIVEN,), {"strength": 0.0}, "strength must be above 0 and at most 1, found 0.0"),
        ((GIVEN,), {"strength": 1.5}, "strength must be above 0 and at most 1, found 1.5"),
        ((GIVEN,), {"strength": float("nan")}, "found nan"),
        ((without,), {"strength": 0.5}, "without an image"),
        ((GIVEN, without), {}, "field image or none has, found 1 of 2"),
        ((replace(GIVEN, image=photo(1, (SIZE, SIZE + 8))),), {}, "the image must have the drawn size 64 x 64"),
    ):
        with pytest.raises(InvalidRequest, match=message):
            draw(pipeline, *samples, **changes)


def test_a_picture_that_overflows_the_vae_is_an_error(fresh_pipeline: PortraitPipeline) -> None:
    with torch.no_grad():
        fresh_pipeline.components.vae.encoder.conv_out.bias.fill_(float("nan"))
    with pytest.raises(NonFinitePicture, match="given picture"):
        draw(fresh_pipeline, GIVEN, strength=0.5)


def test_the_convenient_call_takes_the_pictures_size(pipeline: PortraitPipeline) -> None:
    # Given a picture that is not square, when redrawn without a size, then it keeps its own
    given = photo(4, (80, 48))
    images = pipeline("a man", seeds=[1, 2], image=given, strength=0.5, steps=STEPS, guidance=3.0)
    assert [image.size for image in images] == [(80, 48)] * 2
    one = draw(pipeline, Sample("a man", 2, guidance=3.0, image=given), strength=0.5, width=80, height=48)
    assert distance(images[1], one.images[0]) <= 1

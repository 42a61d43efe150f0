"""Only the masked part of a picture is drawn again: diffusers' latents inside, the very pixels outside."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLInpaintPipeline, StableDiffusionXLPipeline
from diffusers.pipelines.stable_diffusion_xl import pipeline_stable_diffusion_xl_inpaint as inpaint
from PIL import Image
from sdxl_pictures import box_mask, diffusers_draws, distance, draw, photo, pixels
from tiny_sdxl import SIZE

from hyperlora import PortraitPipeline, Sample
from hyperlora.errors import InvalidRequest
from hyperlora.schedulers import make_scheduler, set_timesteps
from hyperlora.start import FEATHER, Start

BOX = (16, 8, 48, 56)  # whole latents: multiples of 8
GIVEN = Sample("a man with a tie", seed=11, negative_prompt="blurry", guidance=3.0, image=photo(1), mask=box_mask(BOX))


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("scheduler", ["dpmpp_2m_karras", "euler", "ddim_trailing", "lcm"])
def test_the_masked_part_is_what_diffusers_draws(
    pipeline: PortraitPipeline,
    sdxl: StableDiffusionXLPipeline,
    monkeypatch: pytest.MonkeyPatch,
    scheduler: str,
    strength: float,
) -> None:
    # Given diffusers' own inpainting, which is made to take the VAE's mean as we do
    monkeypatch.setattr(inpaint, "retrieve_latents", lambda encoded, **_: encoded.latent_dist.mode())
    pipe = StableDiffusionXLInpaintPipeline(**sdxl.components, add_watermarker=False)
    expected = diffusers_draws(
        pipe,
        GIVEN,
        scheduler,
        sdxl.scheduler.config,
        image=GIVEN.image,
        mask_image=GIVEN.mask,
        strength=strength,
        width=SIZE,
        height=SIZE,
    )
    # When drawn by us, then the middle of the mask, where nothing is blended, is equal within one step of 255
    ours = draw(pipeline, GIVEN, scheduler=scheduler, strength=strength).images[0]
    inner = (BOX[0] + FEATHER, BOX[1] + FEATHER, BOX[2] - FEATHER, BOX[3] - FEATHER)
    assert distance(ours.crop(inner), expected.crop(inner)) <= 1
    # And it was drawn again
    assert distance(ours.crop(inner), photo(1).crop(inner)) > 10


def test_black_pixels_stay_exactly_and_the_seam_is_blended(pipeline: PortraitPipeline) -> None:
    # Given a mask that does not keep to the latents' squares
    box = (13, 21, 50, 43)
    given = photo(1)
    drawn = draw(pipeline, replace(GIVEN, mask=box_mask(box)), strength=0.9).images[0]
    # Then every black pixel is the given one, bit for bit
    outside = np.asarray(box_mask(box)) == 0
    assert (pixels(drawn)[outside] == pixels(given)[outside]).all()
    # And the change fades in from the edge: a fifth, two fifths ... of what was drawn
    monochrome = pixels(drawn).astype(float) - pixels(given)
    rows = np.abs(monochrome[25:39]).mean(axis=(0, 2))
    assert (np.diff(rows[12 : 14 + FEATHER]) > 0).all()
    assert 0 < rows[13] < rows[13 + FEATHER] / 2


def test_thin_masks_are_drawn(pipeline: PortraitPipeline) -> None:
    # Given a mask of three columns, which no latent's middle falls into
    mask = box_mask((33, 0, 36, SIZE))
    drawn = draw(pipeline, replace(GIVEN, mask=mask), strength=1.0).images[0]
    # Then these columns are drawn, from the seed, and no others
    other = draw(pipeline, replace(GIVEN, mask=mask, seed=12), strength=1.0).images[0]
    assert distance(drawn, other) > 1
    changed = np.abs(pixels(drawn) - pixels(photo(1))).max(axis=(0, 2)) > 0
    assert np.flatnonzero(changed).tolist() == [33, 34, 35]


def test_grey_pixels_are_mixed(pipeline: PortraitPipeline) -> None:
    # Given an all-white and an all-grey mask: no edge, so no feather
    white = draw(pipeline, replace(GIVEN, mask=Image.new("L", (SIZE, SIZE), 255))).images[0]
    grey = draw(pipeline, replace(GIVEN, mask=Image.new("L", (SIZE, SIZE), 51))).images[0]
    # Then a fifth of what was drawn lies over the given picture
    expected = 0.8 * pixels(photo(1)) + 0.2 * pixels(white)
    assert np.abs(pixels(grey) - expected).max() <= 1


def test_a_white_mask_at_full_strength_is_a_plain_drawing(pipeline: PortraitPipeline) -> None:
    white = draw(pipeline, replace(GIVEN, mask=Image.new("L", (SIZE, SIZE), 255))).images[0]
    assert distance(white, draw(pipeline, replace(GIVEN, mask=None, image=None)).images[0]) <= 1


@pytest.mark.parametrize("scheduler", ["dpmpp_2m_karras", "lcm"])
def test_a_redrawn_part_does_not_depend_on_its_batch(pipeline: PortraitPipeline, scheduler: str) -> None:
    # Given samples with pictures and masks of their own, each drawn alone
    samples = [
        GIVEN,
        replace(GIVEN, seed=2, image=photo(2), mask=box_mask((0, 0, 30, 30))),
        replace(GIVEN, prompt="a cat", image=photo(3), mask=box_mask((5, 40, 64, 64))),
    ]
    settings: dict[str, Any] = {"strength": 0.8, "scheduler": scheduler}
    alone = [draw(pipeline, sample, **settings).images[0] for sample in samples]
    # When drawn together, then every picture is the one drawn alone
    for order in ((0, 1, 2), (2, 0, 1)):
        drawn = draw(pipeline, *(samples[index] for index in order), **settings).images
        assert max(distance(image, alone[index]) for index, image in zip(order, drawn, strict=True)) <= 1


def test_latents_outside_the_mask_follow_the_given_picture(
    pipeline: PortraitPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given the latents that the UNet is shown in each step
    shown: list[torch.Tensor] = []
    unet = pipeline.components.unet
    forward = unet.forward
    monkeypatch.setattr(unet, "forward", lambda x, *a, **k: (shown.append(x.clone()), forward(x, *a, **k))[1])
    # When one mask is drawn with two prompts
    for prompt in ("a man", "a cat"):
        draw(pipeline, replace(GIVEN, prompt=prompt, negative_prompt="", guidance=1.0), strength=0.9)
    # Then outside of it both see the same at every step, and inside something else from the second step on
    half = len(shown) // 2
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[BOX[1] // 8 : BOX[3] // 8, BOX[0] // 8 : BOX[2] // 8] = True
    for step, (a, b) in enumerate(zip(shown[:half], shown[half:], strict=True)):
        assert torch.equal(a[..., ~inside], b[..., ~inside])
        assert torch.equal(a[..., inside], b[..., inside]) == (step == 0)


def test_what_is_kept_is_as_noisy_as_each_step_expects() -> None:
    # Given so many steps that some share a timestep's number
    scheduler = make_scheduler("dpmpp_2m_karras", {"beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1})
    timesteps = set_timesteps(scheduler, 100)
    assert len(set(timesteps.tolist())) < 100
    # When a black picture is kept everywhere through a walk
    nothing, noise = torch.zeros(1, 4, 1, 1), torch.ones(1, 4, 1, 1)
    start = Start(nothing, torch.zeros(1, 1, 1, 1))
    latents = start.begin(scheduler, noise, timesteps, 1.0)
    keep = start.keeper(scheduler, noise)
    assert keep is not None
    levels = []
    for step, timestep in enumerate(timesteps):
        latents = scheduler.step(nothing, timestep, latents, return_dict=False)[0]
        latents = keep(latents, timesteps[step + 1] if step < 99 else None)
        levels.append(latents[0, 0, 0, 0].item())
    # Then after each step only the noise of the next one is there, and none after the last
    sigmas = scheduler.sigmas[1:]
    assert levels == pytest.approx((sigmas / (sigmas**2 + 1).sqrt()).tolist(), abs=1e-6)
    assert levels[-1] == 0


def test_masks_that_cannot_be_used_are_refused(pipeline: PortraitPipeline) -> None:
    for samples, message in (
        ((replace(GIVEN, image=None),), "found a mask without an image"),
        ((GIVEN, replace(GIVEN, mask=None)), "field mask or none has, found 1 of 2"),
        ((replace(GIVEN, mask=box_mask(BOX).convert("RGB")),), "a mask must be a picture of mode L, found RGB"),
        ((replace(GIVEN, mask=box_mask(BOX, (32, 32))),), "the mask must have the drawn size 64 x 64, found 32 x 32"),
        ((replace(GIVEN, mask=Image.new("L", (SIZE, SIZE), 0)),), "black everywhere"),
    ):
        with pytest.raises(InvalidRequest, match=message):
            draw(pipeline, *samples)

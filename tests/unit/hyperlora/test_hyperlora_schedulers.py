"""Samplers by name: their timesteps, their noise, and a start from a given picture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    TCDScheduler,
)

from hyperlora.errors import InvalidRequest, UnknownScheduler
from hyperlora.schedulers import SCHEDULERS, make_scheduler, set_timesteps, takes_generator

# stabilityai/stable-diffusion-xl-base-1.0, with what a sampler must not inherit.
BASE = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "use_karras_sigmas": True,
}

# name -> steps -> timesteps. LCM counts 4 x 12.5 (rounded down) of the 50 timesteps 19, 39 ... 999.
TIMESTEPS: dict[str, dict[int, list[int]]] = {
    "euler_trailing": {2: [999, 499], 4: [999, 749, 499, 249], 8: [999, 874, 749, 624, 499, 374, 249, 124]},
    "ddim_trailing": {1: [999], 2: [999, 499], 4: [999, 749, 499, 249]},
    "lcm": {4: [999, 759, 499, 259], 8: [999, 879, 759, 639, 499, 379, 259, 139]},
    "tcd": {1: [999], 4: [999, 759, 499, 259]},
    "dmd2": {1: [999], 4: [999, 749, 499, 249]},
}


def test_the_names() -> None:
    assert SCHEDULERS == ("dpmpp_2m_karras", "euler", "euler_trailing", "ddim_trailing", "lcm", "tcd", "dmd2")
    with pytest.raises(UnknownScheduler, match=r"unknown scheduler 'ddim', known: dpmpp_2m_karras, .*dmd2"):
        make_scheduler("ddim", BASE)


@pytest.mark.parametrize("name", TIMESTEPS)
def test_few_steps_walk_the_timesteps_they_were_distilled_on(name: str, caplog: pytest.LogCaptureFixture) -> None:
    for steps, expected in TIMESTEPS[name].items():
        scheduler = make_scheduler(name, BASE)
        assert set_timesteps(scheduler, steps).tolist() == expected
    assert caplog.records == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("dpmpp_2m_karras", DPMSolverMultistepScheduler),
        ("euler", EulerDiscreteScheduler),
        ("euler_trailing", EulerDiscreteScheduler),
        ("ddim_trailing", DDIMScheduler),
        ("lcm", LCMScheduler),
        ("tcd", TCDScheduler),
        ("dmd2", LCMScheduler),
    ],
)
def test_settings_that_a_sampler_must_not_inherit(name: str, kind: type) -> None:
    # Given a base model whose own scheduler has Karras's spacing and says nothing of clipping
    scheduler = make_scheduler(name, BASE)
    # Then the sampler is what its name says, and never clips latents
    assert type(scheduler) is kind
    if kind in (EulerDiscreteScheduler, DPMSolverMultistepScheduler):
        assert scheduler.config.use_karras_sigmas is (name == "dpmpp_2m_karras")
    assert not scheduler.config.get("clip_sample", False)
    assert scheduler.config.beta_schedule == "scaled_linear"


def walk(scheduler: Any, timesteps: torch.Tensor, latents: torch.Tensor, seeds: list[int]) -> torch.Tensor:
    """Steps with a made-up network that sees each sample on its own."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    options = {"generator": generators} if takes_generator(scheduler) else {}
    for timestep in timesteps:
        inputs = scheduler.scale_model_input(latents, timestep)
        latents = scheduler.step(torch.sin(3 * inputs), timestep, latents, return_dict=False, **options)[0]
    return latents


@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_sample_does_not_depend_on_its_batch(name: str, strength: float) -> None:
    # Given two samples with seeds of their own
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def drawn(rows: list[int]) -> torch.Tensor:
        scheduler = make_scheduler(name, BASE)
        timesteps = set_timesteps(scheduler, 4, strength)
        return walk(scheduler, timesteps, latents[rows], rows)

    # When walked together and alone, then the numbers are the same
    together = drawn([0, 1])
    assert torch.equal(together[:1], drawn([0])) and torch.equal(together[1:], drawn([1]))
    assert torch.isfinite(together).all()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_noise_is_drawn_exactly_where_a_generator_is_taken(name: str) -> None:
    # Given one start, walked twice with other seeds
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    results = []
    for seed in (1, 2):
        scheduler = make_scheduler(name, BASE)
        results.append(walk(scheduler, set_timesteps(scheduler, 4), latents, [seed]))
    # Then the seeds matter exactly for the samplers that say so
    assert takes_generator(make_scheduler(name, BASE)) is (name in ("lcm", "tcd", "dmd2"))
    assert torch.equal(*results) is not takes_generator(make_scheduler(name, BASE))


def test_tcd_draws_all_noise_anew() -> None:
    # Given TCD's first of two steps, timesteps 999 and 499
    scheduler = make_scheduler("tcd", BASE)
    timesteps = set_timesteps(scheduler, 2)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    predicted = torch.sin(latents)
    # When stepped
    generator = [torch.Generator().manual_seed(5)]
    after = scheduler.step(predicted, timesteps[0], latents, generator=generator, return_dict=False)[0]
    # Then, with eta 1: the clean picture is predicted at timestep 0 and noised afresh to timestep 499
    alpha = scheduler.alphas_cumprod
    clean = (latents - (1 - alpha[999]).sqrt() * predicted) / alpha[999].sqrt()
    at_zero = alpha[0].sqrt() * clean + (1 - alpha[0]).sqrt() * predicted
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(5))
    share = alpha[499] / alpha[0]
    torch.testing.assert_close(after, share.sqrt() * at_zero + (1 - share).sqrt() * noise)


@pytest.mark.parametrize(
    ("steps", "strength", "walked"),
    [(20, 1.0, 20), (20, 0.6, 12), (20, 0.99, 19), (4, 0.5, 2), (4, 0.1, 1), (1, 0.3, 1)],
)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_strength_walks_the_last_steps(name: str, steps: int, strength: float, walked: int) -> None:
    scheduler = make_scheduler(name, BASE)
    timesteps = set_timesteps(scheduler, steps, strength)
    assert len(timesteps) == walked
    assert timesteps.tolist() == scheduler.timesteps.tolist()[steps - walked :]
    # And the walk from there comes to an end
    assert torch.isfinite(walk(scheduler, timesteps, torch.ones(1, 4, 8, 8), [1])).all()


# At the end of many steps Karras's spacing has timesteps twice, so that only the index tells where to start.
@pytest.mark.parametrize(("steps", "strength"), [(10, 0.45), (50, 0.06)])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_strength_is_what_diffusers_makes_of_it(
    sdxl: StableDiffusionXLPipeline, name: str, steps: int, strength: float
) -> None:
    # Given diffusers' img2img pipeline with the same sampler
    theirs = make_scheduler(name, BASE)
    parts = {**sdxl.components, "scheduler": theirs}
    pipe = StableDiffusionXLImg2ImgPipeline(
        **{key: parts[key] for key in ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet")},
        scheduler=theirs,
        add_watermarker=False,
    )
    theirs.set_timesteps(steps)
    expected, _ = pipe.get_timesteps(steps, strength, torch.device("cpu"))
    # When we start at the same strength
    ours = make_scheduler(name, BASE)
    timesteps = set_timesteps(ours, steps, strength)
    # Then the timesteps are the same, and the walk
    assert torch.equal(timesteps, expected)
    start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    ends = [
        walk(scheduler, walked, scheduler.add_noise(start, noise, walked[:1]), [3])
        for scheduler, walked in ((ours, timesteps), (theirs, expected))
    ]
    assert torch.equal(*ends)


@pytest.mark.parametrize("strength", [0.0, -0.1, 1.01, float("nan")])
def test_a_strength_outside_its_range_is_refused(strength: float) -> None:
    with pytest.raises(InvalidRequest, match="strength must be above 0 and at most 1"):
        set_timesteps(make_scheduler("euler", BASE), 4, strength)


@pytest.mark.parametrize(("name", "most"), [("lcm", 50), ("tcd", 50), ("dmd2", 1000), ("euler", 1000)])
def test_more_steps_than_there_are_timesteps_are_refused(name: str, most: int) -> None:
    assert len(set_timesteps(make_scheduler(name, BASE), most)) == most
    for steps in (most + 1, 0):
        with pytest.raises(InvalidRequest, match=f"walks 1 to {most} steps, found {steps}"):
            set_timesteps(make_scheduler(name, BASE), steps)


def test_a_limit_is_not_inherited_from_the_base_model() -> None:
    # Given a base model whose own scheduler is LCM's, with its 50 steps
    base = dict(LCMScheduler.from_config(BASE).config)
    # When another sampler is made from it, then it walks more
    assert len(set_timesteps(make_scheduler("euler", base), 60)) == 60
    assert set_timesteps(make_scheduler("dmd2", base), 4).tolist() == [999, 749, 499, 249]

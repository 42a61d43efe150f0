"""Samplers by name, built from the base model's own scheduler settings.

A scheduler keeps state while it runs, so every batch gets a new one; an aborted batch leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from hyperlora.errors import InvalidRequest, UnknownScheduler

TRAINED_STEPS = 1000
"""Timesteps that SDXL was trained with."""

# One sampler must not inherit another's spacing of noise levels when a base model's own settings name one.
_PLAIN_SIGMAS = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
# Latents have no bounds; the classes' own default would clip them where a base model's settings do not say.
_UNCLIPPED = {"clip_sample": False, "thresholding": False}

# Name -> diffusers class and the settings that replace the base model's.
_KNOWN: dict[str, tuple[str, dict[str, Any]]] = {
    "dpmpp_2m_karras": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint", "use_karras_sigmas": True},
    ),
    "euler": ("EulerDiscreteScheduler", {"use_karras_sigmas": False}),
    # SDXL-Lightning: the first step must start from the last trained timestep, so spacing counts from the end.
    "euler_trailing": ("EulerDiscreteScheduler", {**_PLAIN_SIGMAS, "timestep_spacing": "trailing"}),
    # Hyper-SD with a fixed number of steps.
    "ddim_trailing": ("DDIMScheduler", {**_UNCLIPPED, "timestep_spacing": "trailing"}),
    # LCM was distilled on 50 of the 1000 timesteps, and walks a subset of those.
    "lcm": ("LCMScheduler", {**_UNCLIPPED, "original_inference_steps": 50}),
    # Hyper-SD's LoRA for one to eight steps; see _ETA.
    "tcd": ("TCDScheduler", {**_UNCLIPPED, "original_inference_steps": 50}),
    # DMD2 was distilled on evenly spaced timesteps from the end: 999, 749, 499, 249 for four steps.
    "dmd2": ("LCMScheduler", {**_UNCLIPPED, "original_inference_steps": TRAINED_STEPS}),
}

_ETA = {"tcd": 1.0}
"""Share of fresh noise in a step where the class leaves it to the caller; Hyper-SD's authors name 1."""

# They walk a subset of the timesteps of their distillation, and draw noise in each step.
_DISTILLED = ("LCMScheduler", "TCDScheduler")

SCHEDULERS: tuple[str, ...] = tuple(_KNOWN)
"""The names that `make_scheduler` knows."""

DEFAULT_SCHEDULER = "dpmpp_2m_karras"


def make_scheduler(name: str, base_config: Mapping[str, Any]) -> Any:
    """Build a fresh diffusers scheduler; `UnknownScheduler` lists the names."""
    if name not in _KNOWN:
        raise UnknownScheduler(f"unknown scheduler {name!r}, known: {', '.join(SCHEDULERS)}")
    import diffusers

    class_name, changes = _KNOWN[name]
    scheduler = getattr(diffusers, class_name).from_config(base_config, **changes)
    if name in _ETA:
        scheduler.step = partial(scheduler.step, eta=_ETA[name])
    return scheduler


def takes_generator(scheduler: Any) -> bool:
    """True where a step draws noise: pass `generator=[one per sample]`, else a picture depends on its batch."""
    return type(scheduler).__name__ in _DISTILLED


def set_timesteps(scheduler: Any, steps: int, strength: float = 1.0) -> torch.Tensor:
    """Prepare the scheduler for `steps` steps and return the timesteps to walk, first to last, on the CPU.

    Samplers look numbers up by the timestep; on a GPU every look would wait for all that was asked of it before.

    With a strength below 1 the last int(steps * strength) of the steps are walked, at least one: a given picture is
    noised to the first returned timestep and redrawn from there, as in diffusers' img2img. Raises `InvalidRequest`
    for a strength outside (0, 1] and for more steps than the sampler was distilled for.
    """
    if not 0 < strength <= 1:
        raise InvalidRequest(f"strength must be above 0 and at most 1, found {strength}")
    # Asked of the class first: a base model's settings may hold what only another class reads.
    distilled = type(scheduler).__name__ in _DISTILLED
    most = int(scheduler.config.original_inference_steps if distilled else scheduler.config.num_train_timesteps)
    if not 1 <= steps <= most:
        raise InvalidRequest(f"{type(scheduler).__name__} walks 1 to {most} steps, found {steps}")
    scheduler.set_timesteps(steps, device="cpu")
    start = steps - max(1, int(steps * strength))
    if start == 0:
        return torch.as_tensor(scheduler.timesteps)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start)
    return torch.as_tensor(scheduler.timesteps)[start:]

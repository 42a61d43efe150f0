"""Whom the ways of `bench/lossy.py` draw: people with their LoRAs, prompts and seeds."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from hyperlora.evaluation.model import PortraitModel
from hyperlora.evaluation.people import PHOTO_SIZE, held_out, prompt_of
from hyperlora.lora import LoRA
from hyperlora.mini.attributes import Attributes
from jobs.settings import Settings
from worker.evaluation import PROMPTS, is_mini, photographed_subjects

PHOTOS_EACH = 4


@dataclass(frozen=True, eq=False)
class Asked:
    """A person, and the pictures that are drawn of them.

    `gallery` are portraits that the judge knows them by, None for nobody; `said` what each prompt asks for, where a
    judge can read it.
    """

    name: str
    loras: Sequence[tuple[LoRA, float]]
    prompts: Sequence[str]
    seeds: Sequence[int]
    gallery: Sequence[Image.Image] | None = None
    said: Sequence[Attributes] | None = None


def people_of(model: PortraitModel, options: argparse.Namespace, settings: Settings) -> list[Asked]:
    """Held-out people of the mini world, people with photos, or nobody where neither is to be had."""
    if options.photos is not None:
        subjects = photographed_subjects(
            options.photos, settings, prompts=PROMPTS[: options.prompts], seeds=1, people=options.people
        )
        return [
            Asked(one.name, _loras(model, one.photos), one.prompts, one.seeds, one.gallery or one.photos)
            for one in subjects
        ]
    return _held_out(model, options) if is_mini(model) else _nobody(model, options)


def _loras(model: PortraitModel, photos: Sequence[Image.Image]) -> list[tuple[LoRA, float]]:
    return [(model.lora(model.coefficients(model.read(photos))), model.setting.weight)]


def _held_out(model: PortraitModel, options: argparse.Namespace) -> list[Asked]:
    people = held_out(options.people, model.setting.size, int(model.described.get("photo_size", PHOTO_SIZE)))
    found = []
    for one in people:
        said = [one.asked(place) for place in range(options.prompts)]
        loras = _loras(model, [one.photo(place) for place in range(PHOTOS_EACH)])
        seeds = [one.picture_seed(place) for place in range(options.prompts)]
        found.append(Asked(str(one.seed), loras, [prompt_of(each) for each in said], seeds, one.gallery(), said))
    return found


def _nobody(model: PortraitModel, options: argparse.Namespace) -> list[Asked]:
    """Random coefficients: LoRAs as large as people's, whom no judge knows."""
    dice, network = torch.Generator().manual_seed(0), model.network
    latents = network.resampler.latents
    shape = (1, latents.shape[1], network.config.bases)
    found = []
    for person in range(options.people):
        unit = torch.nn.functional.normalize(torch.randn(shape, generator=dice), dim=-1)
        lora = network.lora(unit.to(latents.device, latents.dtype))
        seeds = [1000 * person + place for place in range(options.prompts)]
        prompts = [PROMPTS[place % len(PROMPTS)] for place in range(options.prompts)]
        found.append(Asked(f"nobody {person}", [(lora, model.setting.weight)], prompts, seeds))
    return found

"""What `portraits evaluate` puts together: a model from a pack or a profile, people from drawings or a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hyperlora.errors import InvalidRequest
from hyperlora.evaluation.compare import Subject
from hyperlora.evaluation.model import MARKER, PortraitModel, Setting
from hyperlora.evaluation.people import PHOTO_SIZE, held_out, prompt_of
from jobs.profiles import MINI, MINI_UNTRAINED, find_profile
from jobs.settings import Settings
from worker.lora_tools.drawing import load_pipeline
from worker.lora_tools.maker import LoRAMaker, Place
from worker.lora_tools.photos import read_photos
from worker.sdxl import choose_device

MINI_JUDGE = Path(__file__).resolve().parents[1] / "tests" / "assets" / "mini-judge"
"""The mini world's judge lies in a checkout, not in the installed package: a judge belongs to no pack."""

PROMPTS = (
    "portrait photo of a person, wearing a dark suit, smiling, in an office",
    "portrait photo of a person, wearing a white t-shirt, laughing, on a beach at noon",
    "portrait photo of a person, wearing glasses and a green sweater, neutral face, in a library",
    "portrait photo of a person, wearing a red dress, serious face, in a city at night",
    "portrait photo of a person, wearing a straw hat, smiling, in a garden",
    "portrait photo of a person, wearing a leather jacket, neutral face, grey studio background",
    "portrait photo of a person, wearing a lab coat, serious face, in a laboratory",
    "portrait photo of a person, wearing a scarf and a winter coat, smiling, in the snow",
)
"""What is asked for where no file of prompts is given; nobody's looks are told."""


def load_model(settings: Settings, *, pack: Path | None, profile: str | None, changes: dict[str, Any]) -> PortraitModel:
    """The model of a pack folder, else of a profile; `changes` replace single fields of its setting.

    Raises WeightsMissing, ProfileUnknown, InvalidRequest for a profile that has no HyperLoRA.
    """
    if pack is not None:
        return PortraitModel.from_pack(pack, device=choose_device(settings.device), **changes)
    found = find_profile(settings, profile or settings.profile)
    if found.renderer != "hyperlora":
        raise InvalidRequest(
            f"profile {found.name} has no HyperLoRA checkpoint (its renderer is {found.renderer}); choose another one"
        )
    place = Place.of(found, settings)
    if found.name in (MINI, MINI_UNTRAINED) and (Path(place.profile.base).parent / MARKER).is_file():
        return PortraitModel.from_pack(Path(place.profile.base).parent, device=place.device, **changes)
    maker, pipeline = LoRAMaker.load(place), load_pipeline(place)
    drawing = found.drawing()
    setting = Setting(
        size=int(drawing.get("size", pipeline.default_size)),
        batch_size=found.batch_size,
        **{name: drawing[name] for name in ("steps", "scheduler", "guidance") if name in drawing},
    )
    setting = replace(setting, **changes)
    return PortraitModel(
        pipeline, maker.network, maker.clip, maker.analyzer, setting, name=found.name, faces=place.profile.faces
    )


def is_mini(model: PortraitModel) -> bool:
    """Whether the model belongs to the mini world, whose people can be drawn."""
    return str(model.described.get("name", "")).startswith("mini")


def drawn_subjects(model: PortraitModel, *, people: int, prompts: int, photos: int) -> list[Subject]:
    """Held-out people of the mini world, each with prompts of their own."""
    size = int(model.described.get("photo_size", PHOTO_SIZE))
    return [
        Subject(
            str(one.seed),
            [one.photo(place) for place in range(photos)],
            [prompt_of(one.asked(place)) for place in range(prompts)],
            [one.picture_seed(place) for place in range(prompts)],
            one.gallery(),
        )
        for one in held_out(people, model.setting.size, size)
    ]


def photographed_subjects(
    folder: Path, settings: Settings, *, prompts: Sequence[str], seeds: int, people: int | None
) -> list[Subject]:
    """A person for each subfolder with photos, in alphabetical order. Raises InvalidRequest, PhotoRefused."""
    if not folder.is_dir():
        raise InvalidRequest(f"--photos needs a folder with a subfolder for each person, {folder} is none")
    folders = sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))[:people]
    if not folders:
        raise InvalidRequest(f"{folder} has no subfolders; put each person's photos into one of their own")
    texts = [prompt for prompt in prompts for _ in range(seeds)]
    numbers = list(range(seeds)) * len(prompts)
    return [
        Subject(each.name, [photo.image for photo in read_photos([each], settings)], texts, numbers) for each in folders
    ]


def read_prompts(file: Path | None) -> list[str]:
    """A prompt per line; lines that are empty or begin with # do not count. Raises InvalidRequest."""
    if file is None:
        return list(PROMPTS)
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the prompts in {file} cannot be read: {error}") from error
    prompts = [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise InvalidRequest(f"{file} holds no prompt; write one on each line")
    return prompts

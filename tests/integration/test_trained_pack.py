"""The pack that the repository ships: small, of safe files, and its portraits are the people and obey the prompts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hyperlora.evaluation.model import PortraitModel
from hyperlora.evaluation.shots import SLOTS, judged
from hyperlora.evaluation.statistics import cosines, rank_one
from hyperlora.faces.types import unit_length
from hyperlora.mini.attributes import VOCABULARY, Attributes
from hyperlora.mini.learn.assemble import check_budget
from hyperlora.mini.learn.judge import MiniJudge
from hyperlora.mini.painter import portrait
from hyperlora.mini.people import person
from hyperlora.mini.photos import PHOTOS
from jobs.profiles import PACKS

ROOT = Path(__file__).resolve().parents[2]
PACK = PACKS / "mini-tiny"
ASKED = [
    Attributes("suit", "navy", "office", "none", "smiling"),
    Attributes("t-shirt", "orange", "beach", "none", "laughing"),
    Attributes("sweater", "green", "library", "none", "neutral"),
]
TEXTS = [
    "portrait photo of a person, wearing a navy suit, smiling, in an office",
    "portrait photo of a person, wearing an orange t-shirt, laughing, on a beach",
    "portrait photo of a person, wearing a green sweater, neutral face, in a library",
]


@pytest.fixture(scope="module")
def model() -> PortraitModel:
    return PortraitModel.from_pack(PACK)


def test_the_pack_keeps_its_budget_and_says_how_it_was_made() -> None:
    assert check_budget(PACK) < 40_000_000
    card = json.loads((PACK / "pack.json").read_text(encoding="utf-8"))
    assert card["trained"] is True and card["made"]["seconds"]["id-face"] > 0
    told = (PACK / "README.md").read_text(encoding="utf-8")
    assert "id-face, photos: rank-1" in told and "make mini-pack" in told


def test_portraits_are_the_people_and_obey_the_prompts(model: PortraitModel) -> None:
    # Given the example people, whom no network has seen, each with the photos of the examples
    judge = MiniJudge.load(ROOT / "tests/assets/mini-judge")
    gallery, loras = [], []
    for who, (seed, _) in PHOTOS.items():
        drawn = [_drawn(seed, said, number) for number, said in enumerate(ASKED)]
        gallery.append(unit_length(judged(judge, [drawn], len(drawn)).embeddings_NPE[0].mean(axis=0)))
        photos = [Image.open(file) for file in sorted((ROOT / "examples/photos").glob(f"{who}-*.jpg"))]
        known = model.read(photos)
        loras.append([(model.lora(model.coefficients(known)), model.setting.weight)])

    # When everybody is drawn as three prompts ask, which say nothing of anybody's looks
    pictures = [
        model.draw_each([lora] * len(TEXTS), TEXTS, [100 * n + place for place in range(len(TEXTS))])
        for n, lora in enumerate(loras)
    ]
    seen = judged(judge, pictures, len(TEXTS))

    # Then far more of them are the right one of eight than by chance, and clothes and places are as asked
    assert rank_one(cosines(seen.embeddings_NPE, np.stack(gallery))).mean() >= 0.3
    wanted = np.array([[VOCABULARY[slot].index(getattr(said, slot)) for slot in SLOTS] for said in ASKED])
    right = dict(zip(SLOTS, (seen.labels_NPA == wanted).mean(axis=(0, 1)), strict=True))
    assert right["background"] >= 0.9 and right["clothing_colour"] >= 0.8, right


def _drawn(seed: int, said: Attributes, number: int) -> Image.Image:
    """A portrait that the model was not given, averaged down as its training data were."""
    large = portrait(person(seed), said, 10_000 + number, size=128)
    return large.resize((64, 64), Image.Resampling.BOX)

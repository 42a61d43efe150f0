"""The whole small world trained from nothing in a few steps: every slot reads what the ones before it wrote."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from hyperlora.evaluation.model import PortraitModel
from hyperlora.mini.learn import checks
from hyperlora.mini.learn.sizes import TINY
from hyperlora.mini.learn.slots import STAGES, TWINS, Slots
from jobs.profiles import PACKS

ROOT = Path(__file__).resolve().parents[2]
FEW = {"steps": 2, "batch": 4, "warm_up": 1}
SIZES = dataclasses.replace(
    TINY,
    people=6,
    each=2,
    judge_people=4,
    validation_people=3,
    vae_plan=dataclasses.replace(TINY.vae_plan, **FEW),
    foundation_plan=dataclasses.replace(TINY.foundation_plan, **FEW),
    vision_plan=dataclasses.replace(TINY.vision_plan, **FEW),
    stages=dict.fromkeys(STAGES, 2),
    batch=4,
)


def test_from_nothing_to_a_pack_that_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a folder with nothing but the face networks, which take minutes and have tests of their own
    monkeypatch.setattr(checks, "STEPS", 2)
    told: list[str] = []
    slots = Slots(SIZES, tmp_path / "work", tmp_path / "pack", ROOT / "tests/assets/mini-judge", tell=told.append)
    shutil.copytree(PACKS / "mini-tiny" / "mini_faces", tmp_path / "work" / "mini_faces")

    # When every other slot is run
    for name in (*slots.names()[:-1], *TWINS, "pack"):
        if name not in ("faces", "judge"):
            assert slots.run(name), name

    # Then the pack draws, and its card and the record say how it was made and what each slot brought
    model = PortraitModel.from_pack(tmp_path / "pack", steps=2)
    assert (model.setting.size, model.analyzer.name) == (64, "insightface-mini_faces")
    images, _ = model.draw([], ["portrait photo of a person"], [1])
    assert images[0].size == (64, 64)
    record = json.loads((tmp_path / "work" / "record.json").read_text())
    assert set(record["checks"]) == {"vae", "foundation", "id-clip", "id-face", "twin-clip", "twin-face"}
    assert {found["photos"]["people"] for name, found in record["checks"].items() if name.startswith("id")} == {3.0}
    card = (tmp_path / "pack" / "README.md").read_text()
    assert "id-face, photos: rank-1" in card and "twin-face" in card
    assert any(line.startswith("vae, autoencoder: rank-1") for line in told)

    # and a slot that is finished is not trained again
    assert slots.run("foundation") and slots.record["slots"]["foundation"]["steps"] == 2

"""Lossy speed-ups of a profile: another model by name, told with every picture."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image
from queue_world import World, add_job, person, settings

from jobs.database import Database
from jobs.lossy import Lossy
from jobs.profiles import MINI, PACKS, find_profile
from jobs.settings import Settings
from worker.costs import name_of
from worker.picture_file import record_of
from worker.sdxl import SdxlRenderer
from worker.testing import FakeRenderer


def test_a_picture_tells_what_was_on(tmp_path: Path, database_url: str, database: Database) -> None:
    # Given a renderer with a lossy option, and one without
    told = []
    for number, lossy in enumerate(({"linears": "int8"}, {})):
        renderer = FakeRenderer()
        renderer.lossy = lossy
        world = World(database, settings(tmp_path, database_url), renderer)
        # When each draws a picture
        job_id = add_job(database, [person(f"ada-{number}", [1], world.settings)], key=f"job-{number}")
        world.shift()
        (row,) = world.renders(job_id)
        with Image.open(io.BytesIO(world.storage.get(row["storage_key"]))) as picture:
            told.append(record_of(picture).get("lossy"))
    # Then one picture's record tells it, and the other's has no such line
    assert told == [{"linears": "int8"}, None]


@pytest.mark.skipif(not (PACKS / "mini-tiny").is_dir(), reason="the trained pack lies in a checkout only")
def test_profiles_that_differ_in_it_are_different_models(tmp_path: Path) -> None:
    # Given one profile three times: exact, with 8-bit layers, and with a cache beside
    given = Settings(home=tmp_path, device="cpu")
    mini = find_profile(given, MINI)
    asked = [None, {"linears": "int8"}, {"linears": "int8", "cache": {"every": 2}}]
    profiles = [
        mini.model_copy(update={"lossy": None if each is None else Lossy.model_validate(each)}) for each in asked
    ]
    # When they are loaded
    loaded = [SdxlRenderer.load_profile(profile, given) for profile in profiles]
    # Then none has another's name, nor its measured costs; weight sets are the same, as they hang on no base model
    assert len({each.model_fingerprint for each in loaded}) == len({name_of(each) for each in loaded}) == 3
    assert len({each.hyperlora_fingerprint for each in loaded}) == 1
    assert [each.lossy for each in loaded] == [
        {},
        {"linears": "int8"},
        {"linears": "int8", "cache": {"every": 2, "first": 0.25, "blocks": 1}},
    ]

"""The sweep: objects that no row names go, what somebody may yet record stays."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from pathlib import Path

import pytest
from queue_world import TENANT, World, add_job, person, settings
from sqlalchemy import select, update

from jobs import sweep as sweep_module
from jobs.database import Database
from jobs.models import Render, Unit, WeightSet
from jobs.repository import units
from jobs.sweep import sweep
from worker.testing import FakeRenderer


@pytest.fixture
def world(database: Database, database_url: str, tmp_path: Path) -> World:
    """A queue with a fake renderer."""
    return World(database, settings(tmp_path, database_url), FakeRenderer())


def put(world: World, key: str) -> str:
    """Something in the store under a key."""
    world.storage.put(key, b"picture", content_type="image/png")
    return key


def keys(world: World) -> set[str]:
    """Everything that lies in the store."""
    return set(world.storage.list(""))


def test_what_rows_name_stays_and_what_none_names_goes(world: World, database: Database) -> None:
    # Given a finished job, and what a fenced-out worker had left of it, of a weight set, and of a job that is no more
    job = add_job(database, [person("ada", [2], world.settings)])
    world.shift()
    rightful = keys(world)
    render = world.renders(job)[0]
    weight_set = next(key for key in rightful if "/weights/" in key).rpartition("-")[0]
    orphans = {
        put(world, f"{TENANT}/{job}/{render['render_id']}/0.png"),
        put(world, f"{TENANT}/{job}/{render['render_id']}/1.1.png"),
        put(world, f"{TENANT}/{job}/{render['render_id']}/1-avatar.webp"),
        put(world, f"{TENANT}/{uuid.uuid4()}/{uuid.uuid4()}/1.png"),
        put(world, f"{weight_set}-99.safetensors"),
        put(world, f"{TENANT}/weights/{'ab' * 32}-refined.safetensors"),
        put(world, f"{TENANT}/photos/ab/{'ab' * 32}.jpg"),
        put(world, f"check/{'ab' * 12}"),
    }

    # When it is only looked, nothing goes
    looked = sweep(world.settings, older_than_seconds=0)
    assert (looked.orphans, looked.removed, looked.named) == (len(orphans), 0, len(rightful))
    assert set(looked.examples) == orphans
    assert keys(world) == rightful | orphans

    # When it is swept
    swept = sweep(world.settings, older_than_seconds=0, delete=True)

    # Then exactly the orphans are gone, and a second sweep finds none
    assert swept.removed == len(orphans)
    assert keys(world) == rightful
    assert sweep(world.settings, older_than_seconds=0).orphans == 0


def test_what_is_young_of_unknown_name_or_of_nobody_known_stays(world: World, database: Database) -> None:
    # Given an old orphan and a young one, and objects that nothing here writes
    job = add_job(database, [person("ada", [1], world.settings)])
    world.shift()
    old, young = (put(world, f"{TENANT}/{job}/{uuid.uuid4()}/{token}.png") for token in (1, 2))
    hours_ago = time.time() - 7200
    os.utime(world.storage.root / old, (hours_ago, hours_ago))
    strange = {put(world, f"{TENANT}/notes.txt"), put(world, f"{TENANT}/{job}/x/1.png"), put(world, "else/where/1.png")}

    # When it is swept with an hour's grace
    swept = sweep(world.settings, older_than_seconds=3600, delete=True)

    # Then the old one is gone alone
    assert swept.removed == 1 and swept.unknown == 2
    assert old not in keys(world)
    assert {young} | strange <= keys(world)


@pytest.mark.parametrize("standing", ["leased", "lease ran out", "handed back", "paused"])
def test_what_the_last_claim_may_yet_record_stays_until_somebody_else_claims(
    world: World, database: Database, standing: str
) -> None:
    # Given a claimed unit, an object of this claim and one of an earlier claim
    job = add_job(database, [person("ada", [1], world.settings)])
    terms = {"lease_seconds": 30.0, "max_attempts": 9}
    with database.transaction() as tx:
        (unit,) = units.claim_next(tx, "fake", "worker-1", limit=1, **terms)
        render = tx.execute(select(Render.id)).scalar_one()
        if standing == "lease ran out":
            tx.execute(update(Unit).values(lease_until=1.0))
        elif standing != "leased":
            units.release(tx, unit, "worker-1")
        if standing == "paused":
            tx.execute(update(Unit).values(state="paused"))
    folder = f"{TENANT}/{job}/{render}"
    stale, ours = put(world, f"{folder}/0.png"), put(world, f"{folder}/{unit.lease_token}-avatar.png")

    # When it is swept
    swept = sweep(world.settings, older_than_seconds=0, delete=True)

    # Then what the claim may record is there
    assert swept.expected == 1
    assert ours in keys(world) and stale not in keys(world)

    # And once the unit is claimed anew it goes
    with database.transaction() as tx:
        tx.execute(update(Unit).values(state="ready", lease_until=None))
        assert units.claim_next(tx, "fake", "worker-2", limit=1, **terms)
    assert sweep(world.settings, older_than_seconds=0, delete=True).removed == 1
    assert ours not in keys(world)


def test_a_weight_set_that_is_being_generated_keeps_the_object_of_its_claim(world: World, database: Database) -> None:
    # Given a weight set that a worker generates under its second claim, and an object of each claim
    add_job(database, [person("ada", [1], world.settings)])
    world.shift()
    with database.transaction() as tx:
        tx.execute(update(WeightSet).values(state="generating", lease_token=7, storage_key=None))
        fingerprint = tx.execute(select(WeightSet.fingerprint)).scalar_one()
    now = put(world, f"{TENANT}/weights/{fingerprint}-7.safetensors")
    before = put(world, f"{TENANT}/weights/{fingerprint}-6.safetensors")

    # When it is swept, then the earlier one is gone
    sweep(world.settings, older_than_seconds=0, delete=True)
    assert now in keys(world) and before not in keys(world)


def test_a_tenants_sweep_leaves_other_tenants_alone(world: World, database: Database) -> None:
    # Given orphans of two tenants
    add_job(database, [person("ada", [1], world.settings)])
    world.shift()
    with database.transaction() as tx:
        from jobs.repository import tenants

        tenants.change(tx, "other")
    mine, theirs = (put(world, f"{who}/{uuid.uuid4()}/{uuid.uuid4()}/1.png") for who in (TENANT, "other"))

    # When one is swept, and one that nobody knows
    sweep(world.settings, tenant=TENANT, older_than_seconds=0, delete=True)
    assert sweep(world.settings, tenant="nobody", older_than_seconds=0, delete=True).seen == 0

    # Then the other's is there, until all are swept
    assert mine not in keys(world) and theirs in keys(world)
    sweep(world.settings, older_than_seconds=0, delete=True)
    assert theirs not in keys(world)


def test_a_photo_that_is_stored_again_while_it_is_swept_stays(
    world: World, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an old photo of nobody, which a producer writes again between the listing and the removal
    add_job(database, [person("ada", [1], world.settings)])
    photo = put(world, f"{TENANT}/photos/ab/{hashlib.sha256(b'picture').hexdigest()}.png")
    os.utime(world.storage.root / photo, (1.0, 1.0))
    entries = type(world.storage).entries

    def listed(storage: object, prefix: str) -> object:
        for entry in entries(world.storage, prefix):
            yield entry
            if prefix == f"{TENANT}/" and entry.key == photo:
                put(world, photo)

    monkeypatch.setattr(type(world.storage), "entries", listed)

    # When it is swept, then it is there
    assert sweep(world.settings, older_than_seconds=0, delete=True).removed == 0
    assert photo in keys(world)


def test_more_objects_than_one_page(world: World, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given pages of 3 and more named objects and orphans than that
    monkeypatch.setattr(sweep_module, "PAGE", 3)
    job = add_job(database, [person("ada", [5], world.settings), person("alan", [4], world.settings)])
    world.shift()
    rightful = keys(world)
    for render in world.renders(job):
        put(world, f"{TENANT}/{job}/{render['render_id']}/0.png")

    # When it is swept, then every orphan and nothing else is gone
    assert sweep(world.settings, older_than_seconds=0, delete=True).removed == 9
    assert keys(world) == rightful


def test_files_that_killed_writers_left_half_written_go_when_they_are_old(world: World, database: Database) -> None:
    # Given two half-written files, of which one is old
    job = add_job(database, [person("ada", [1], world.settings)])
    folder = world.storage.root / TENANT / str(job)
    folder.mkdir(parents=True)
    old, young, other = folder / f".{'ab' * 12}.part", folder / f".{'cd' * 12}.part", folder / ".notes"
    for file in (old, young, other):
        file.write_bytes(b"half a picture")
    for file in (old, other):
        os.utime(file, (1.0, 1.0))

    # When it is looked, and then swept
    sweep(world.settings, older_than_seconds=0)
    assert old.exists()
    assert sweep(world.settings, older_than_seconds=0, delete=True).unfinished == 1

    # Then the old one is gone; a writer may be at work on the other
    assert not old.exists() and young.exists() and other.exists()

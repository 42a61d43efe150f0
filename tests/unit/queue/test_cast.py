"""Who is in a picture and with which weights: mixes, sliders, Base-LoRA, several people, pinned weight sets."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from queue_world import TENANT, World, add_job, person, settings
from sqlalchemy import insert, select, update

from hyperlora.errors import NoUsablePhoto
from hyperlora.faces.types import Face
from jobs.database import Database
from jobs.models import Identity, PhotoSet, PhotoSetMember, WeightSet, WeightSetSource
from jobs.options import RenderOptions, SliderOption
from jobs.repository import people as people_rows
from jobs.repository import weight_sets
from worker.testing import FakeRenderer


@pytest.fixture
def world(database: Database, database_url: str, tmp_path: Path) -> World:
    return World(database, settings(tmp_path, database_url), FakeRenderer(batch_size=4))


def photo_set_of(world: World, name: str) -> uuid.UUID:
    """The photo set of a person; the person is registered if new."""
    with world.database.transaction() as tx:
        people_rows.register(tx, TENANT, [person(name, [], world.settings)])
        statement = select(PhotoSet.id).join(Identity, Identity.id == PhotoSet.identity_id)
        return tx.execute(statement.where(Identity.external_id == name)).scalar_one()


def compose(world: World, name: str, kind: str, members: list[dict[str, Any]], **more: Any) -> uuid.UUID:
    """Make a person's photo set one that is made of others'."""
    photo_set = photo_set_of(world, name)
    with world.database.transaction() as tx:
        tx.execute(update(PhotoSet).where(PhotoSet.id == photo_set).values(kind=kind, **more))
        for position, member in enumerate(members):
            own = {"tenant_id": TENANT, "photo_set_id": photo_set, "position": position, "weight": 1.0}
            tx.execute(insert(PhotoSetMember).values({**own, **member}))
    return photo_set


def rows(world: World) -> dict[str, Any]:
    """Every weight set by kind and branch, with the photo sets it was made from and their weights."""
    with world.database.reading() as tx:
        found = {}
        for one in tx.execute(select(WeightSet.id, WeightSet.kind, WeightSet.branch, WeightSet.generations)).all():
            sources = select(WeightSetSource.photo_set_id, WeightSetSource.weight).where(
                WeightSetSource.weight_set_id == one.id
            )
            made = {row.photo_set_id: row.weight for row in tx.execute(sources)}
            found.setdefault((one.kind, one.branch), []).append((one.generations, made))
    return found


def mark(*photos: str, told: str = "") -> bytes:
    """What the fake renderer makes of these photos."""
    return hashlib.sha256("".join(photos).encode() + told.encode()).digest()


def test_a_mix_is_one_weight_set_made_from_all_its_people(world: World) -> None:
    # Given a person who is six parts Ada and four parts Alan
    ada, alan = photo_set_of(world, "ada"), photo_set_of(world, "alan")
    members = [{"member_photo_set_id": ada, "weight": 0.6}, {"member_photo_set_id": alan, "weight": 0.4}]
    compose(world, "both", "mix", members)
    job = add_job(world.database, [person("both", [5], world.settings)])

    # When five pictures are drawn
    world.shift()

    # Then one set was generated from both with their weights, and both are named as its sources
    assert world.job(job)["done"] == 5
    assert world.renderer.calls["generate"] == 1
    assert rows(world) == {("mix", "id"): [(1, {ada: 0.6, alan: 0.4})]}
    assert world.renderer.merged == [((mark("ada", "alan", told="mix id [0.6, 0.4]"), 0.8),)]


def test_a_slider_is_merged_beside_the_person_and_generated_once(world: World) -> None:
    # Given a slider from two people, and renders that move it by different amounts
    edited, original = photo_set_of(world, "smiling"), photo_set_of(world, "neutral")
    pair = [{"member_photo_set_id": edited, "weight": 1.0}, {"member_photo_set_id": original, "weight": -1.0}]
    slider = compose(world, "slider:smile", "slider", pair)
    units = [
        [
            {**row, "options": RenderOptions(sliders=(SliderOption(name="smile", photo_set=slider, weight=w),)).dump()}
            for row, w in zip(next(iter(person("ada", [3], world.settings).units)), (1.0, -0.5, 1.0), strict=True)
        ]
    ]
    asked = person("ada", [3], world.settings)
    job = add_job(world.database, [type(asked)(**{**vars(asked), "units": units})])

    # When they are drawn
    world.shift()

    # Then the slider was made once, and merged with each weight beside Ada
    assert world.job(job)["done"] == 3
    assert rows(world)["slider", "id"] == [(1, {edited: 1.0, original: -1.0})]
    made = mark("smiling", "neutral", told="slider id [1.0, -1.0]")
    assert sorted(world.renderer.merged) == sorted(((mark("ada"), 0.8), (made, w)) for w in (-0.5, 1.0))


def test_a_slider_that_cannot_be_made_fails_its_renders_alone(world: World) -> None:
    # Given a slider whose photos show nobody, one render that uses it and one that does not
    pair = [{"member_photo_set_id": photo_set_of(world, name)} for name in ("wall", "floor")]
    slider = compose(world, "slider:odd", "slider", pair)
    options = RenderOptions(sliders=(SliderOption(name="odd", photo_set=slider, weight=1.0),)).dump()
    [unit] = person("ada", [2], world.settings).units
    asked = person("ada", [2], world.settings)
    job = add_job(
        world.database,
        [type(asked)(**{**vars(asked), "units": [[{**unit[0], "options": options}, {**unit[1], "options": None}]]})],
    )
    world.renderer._refuse = lambda photos: NoUsablePhoto("nobody") if b"wall" in photos else None

    # When the job is drawn
    world.shift()

    # Then the one says why, and the other is there
    bad, good = world.renders(job)
    assert (bad["state"], bad["error_code"], bad["error"]) == ("failed", "no_usable_photo", "nobody")
    assert good["state"] == "done"


def test_base_lora_is_a_set_of_its_own_with_its_own_weight(world: World) -> None:
    # Given renders with and without Base-LoRA
    full = RenderOptions(base_weight=0.25).dump()
    job = add_job(world.database, [person("ada", [2], world.settings, options=full)], key="full")
    plain = add_job(world.database, [person("ada", [2], world.settings)], key="plain")

    # When they are drawn
    world.shift()

    # Then both branches were generated once, and Base is merged where it was asked for
    assert [world.job(one)["done"] for one in (job, plain)] == [2, 2]
    assert sorted(rows(world)) == [("photos", "base"), ("photos", "id")]
    base = mark("ada", told="photos base [1.0]")
    assert world.renderer.merged == [((mark("ada"), 0.8),), ((mark("ada"), 0.8), (base, 0.25))]


def side_by_side(world: World) -> uuid.UUID:
    """Ada on the left, Alan on the right in a suit."""
    members = [
        {"member_photo_set_id": photo_set_of(world, "ada"), "region": [0, 0, 0.5, 1]},
        {"member_photo_set_id": photo_set_of(world, "alan"), "region": [0.5, 0, 1, 1], "prompt": "a man in a suit"},
    ]
    return compose(world, "both", "together", members)


def test_people_side_by_side_each_have_their_place(world: World) -> None:
    # Given a picture of two people
    side_by_side(world)
    job = add_job(world.database, [person("both", [2], world.settings, width=64, height=32)])

    # When it is drawn
    world.shift()

    # Then nothing is merged, and each one's LoRA acts in its half with its words
    assert world.job(job)["done"] == 2
    assert world.renderer.merged == [()]
    [(samples, setting)] = world.renderer.drawn
    assert len(samples) == 2
    left, right = setting.places
    assert (left.stack, right.stack) == (((mark("ada"), 0.8),), ((mark("alan"), 0.8),))
    assert (left.prompt, right.prompt) == ("", "a man in a suit")
    masks = [np.asarray(place.mask) for place in setting.places]
    assert (masks[0][:, :32] == 255).all()
    assert (masks[0] == 255 - masks[1]).all()
    assert sorted(rows(world)["photos", "id"], key=str) == sorted(
        [(1, {photo_set_of(world, name): 1.0}) for name in ("ada", "alan")], key=str
    )


def test_a_small_face_side_by_side_is_redrawn_as_the_person_who_stands_there(world: World) -> None:
    # Given a picture of two people in which the right one's face is small
    side_by_side(world)
    job = add_job(world.database, [person("both", [1], world.settings, width=64, height=64)])
    box = np.array([44, 10, 52, 18], dtype=np.float32)
    face = Face(box, 0.9, np.array([[46, 13], [50, 13], [48, 15], [46, 16], [50, 16]], dtype=np.float32))
    world.renderer._faces_in = lambda image: [face] if image.width == 64 else []

    # When it is drawn
    world.shift()

    # Then the detail was drawn with Alan's LoRA merged and Alan's words, and without places
    assert world.job(job)["done"] == 1
    assert world.renderer.merged == [(), ((mark("alan"), 0.8),)]
    [(_, _), ([sample], setting)] = world.renderer.drawn
    assert setting.places == ()
    assert sample.prompt == "a portrait, a man in a suit"


def test_a_pinned_weight_set_is_loaded_and_never_generated(world: World) -> None:
    # Given Ada's weight set, a refined one made from it, and an identity that names the refined one
    add_job(world.database, [person("ada", [1], world.settings)], key="first")
    world.shift()
    refined = hashlib.sha256(b"refined").digest()
    world.storage.put("acme/weights/refined", refined, content_type="application/octet-stream")
    with world.database.transaction() as tx:
        origin = tx.execute(select(WeightSet.fingerprint)).scalar_one()
        weight_sets.add_refined(
            tx,
            TENANT,
            fingerprint="ab" * 32,
            source_weight_set_fingerprint=origin,
            hyperlora_fingerprint="x",
            storage_key="acme/weights/refined",
            sha256=hashlib.sha256(refined).hexdigest(),
            size_bytes=len(refined),
            recogniser="fake",
            reference_embedding=b"1234",
            seconds=1.0,
        )
    compose(world, "pinned", "weights", [], weight_set_fingerprint="ab" * 32)
    job = add_job(world.database, [person("pinned", [2], world.settings)])

    # When its pictures are drawn
    world.shift()

    # Then the stored set was merged
    assert world.renderer.calls["generate"] == 1
    assert world.renderer.merged[-1] == ((refined, 0.8),)
    assert {row["weight_set_fingerprint"] for row in world.renders(job)} == {"ab" * 32}


def test_a_pinned_weight_set_that_is_gone_fails_with_its_reason(world: World) -> None:
    # Given an identity whose weight set was never stored
    compose(world, "pinned", "weights", [], weight_set_fingerprint="cd" * 32)
    job = add_job(world.database, [person("pinned", [1], world.settings)])

    # When it is drawn
    world.shift()

    # Then its row says so
    [row] = world.renders(job)
    assert (row["state"], row["error_code"]) == ("failed", "weight_set_missing")
    assert "cdcdcdcdcdcd" in row["error"]

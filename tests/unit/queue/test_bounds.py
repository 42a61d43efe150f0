"""What keeps a shift bounded and its pictures right when something follows, goes wrong, or was stored by others."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from queue_world import TENANT, World, add_job, person, settings
from sqlalchemy import select, update
from test_cast import compose, mark, photo_set_of
from test_follow_ups import square_face

from hyperlora.errors import NonFinitePicture
from hyperlora.faces.types import Face
from jobs.database import Database
from jobs.models import Candidate, PhotoSetPhoto, Render, WeightSet
from jobs.options import ControlOption, GateOption, Picture, RenderOptions, StartOption
from jobs.planned import candidate_seed
from worker.pictures import GivenPictures
from worker.plan import BatchKey, BatchSizes
from worker.renderer import Batch
from worker.testing import FakeRenderer

NEVER = RenderOptions(gate=GateOption(min_id_similarity=1.0, attempts=8)).dump()


@pytest.fixture
def world(database: Database, database_url: str, tmp_path: Path) -> World:
    return World(database, settings(tmp_path, database_url), FakeRenderer(batch_size=4))


@pytest.mark.parametrize("options", [None, NEVER], ids=["plain", "gated"])
def test_pictures_do_not_pile_up_in_memory(world: World, options: Any) -> None:
    # Given a person with many renders
    alive: weakref.WeakValueDictionary[int, Image.Image] = weakref.WeakValueDictionary()
    most = 0
    draw = world.renderer.draw

    def counted(*args: Any, **kwargs: Any) -> Batch:
        nonlocal most
        drawn = draw(*args, **kwargs)
        alive.update({id(image): image for image in drawn.images})
        if world.renderer.calls["draw"] % 5 == 0:
            gc.collect()
            most = max(most, len(alive))
        return drawn

    world.renderer.draw = counted  # type: ignore[method-assign]
    world.renderer._alike = lambda image: 0.5
    job = add_job(world.database, [person("ada", [32, 28], world.settings, options=options)])

    # When they are drawn in batches of four
    world.shift()

    # Then only those in the making were held: sixteen begun, a batch, and the recorder's queue of four
    assert world.job(job)["done"] == 60
    assert most <= 16 + 4 + 4 + 4


def test_a_worker_that_is_stopped_again_and_again_still_gets_on(world: World) -> None:
    # Given 24 renders of 8 seeds each, none of which is alike enough, and a worker stopped after 40 batches of 48
    world.renderer._alike = lambda image: 0.5
    job = add_job(world.database, [person("ada", [24], world.settings, options=NEVER)])
    batches = 0

    def stop_after_40(step: int) -> None:
        nonlocal batches
        batches += step == 0
        if batches % 40 == 0:
            world.stop.set()

    world.renderer._at_step = stop_after_40

    # When it is started twice
    done = []
    for _ in range(2):
        world.shift()
        world.stop.clear()
        done.append(world.job(job)["done"])

    # Then what was finished before the first stop stays, and the second start finishes the rest
    assert 0 < done[0] < 24
    assert done[1] == 24


def pair(world: World, ada: list[float], alan: list[float]) -> None:
    members = [
        {"member_photo_set_id": photo_set_of(world, "ada"), "region": ada},
        {"member_photo_set_id": photo_set_of(world, "alan"), "region": alan},
    ]
    compose(world, "both", "together", members)


def redrawn_as(world: World, *faces: Face) -> list[Any]:
    """Draw one picture of two people that shows these faces; what was merged for each redrawing."""
    job = add_job(world.database, [person("both", [1], world.settings, width=64, height=64)])
    world.renderer._faces_in = lambda image: list(faces) if image.width == 64 else []
    world.shift()
    assert world.job(job)["done"] == 1
    return list(world.renderer.merged[1:])


def test_where_two_people_may_stand_the_more_alike_is_redrawn(world: World) -> None:
    # Given Ada anywhere and Alan on the right, and a face on the right that is like Alan
    pair(world, [0, 0, 1, 1], [0.5, 0, 1, 1])
    world.renderer.nearest = lambda face, references: references.index(mark("alan"))

    # When the picture is drawn, then that face is redrawn as Alan
    assert redrawn_as(world, square_face(44, 20, 8)) == [((mark("alan"), 0.8),)]


def test_a_face_where_nobody_stands_and_a_second_face_of_one_person_stay(world: World) -> None:
    # Given people at the edges, a face in the middle, and two faces where Ada stands
    pair(world, [0, 0, 0.4, 1], [0.6, 0, 1, 1])

    # When the picture is drawn, then only the first of Ada's faces is redrawn
    merged = redrawn_as(world, square_face(28, 10, 8), square_face(4, 4, 9), square_face(4, 40, 8))
    assert merged == [((mark("ada"), 0.8),)]
    assert len(world.renderer.drawn[1][0]) == 1


def given(world: World, image: Image.Image) -> Picture:
    """A stored picture."""
    import hashlib
    import io

    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    data = buffer.getvalue()
    sha256 = hashlib.sha256(data).hexdigest()
    world.storage.put(f"{TENANT}/photos/{sha256}.png", data, content_type="image/png")
    return Picture(sha256=sha256, key=f"{TENANT}/photos/{sha256}.png", media_type="image/png")


def test_faces_that_a_mask_keeps_are_not_redrawn(world: World) -> None:
    # Given a picture of which the left half is redrawn, with a small face on each side
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    start = StartOption(image=given(world, Image.new("RGB", (64, 64), "white")), mask=given(world, mask), strength=1.0)
    world.renderer._faces_in = lambda image: [square_face(44, 20, 9), square_face(8, 20, 8)] * (image.width == 64)
    world.renderer.small_faces = lambda image, faces, references, detail: list(faces)  # type: ignore[method-assign]
    options = RenderOptions(start=start).dump()
    job = add_job(world.database, [person("ada", [1], world.settings, width=64, height=64, options=options)])

    # When it is drawn
    world.shift()

    # Then only the left face was redrawn, and nothing of it reaches the right half
    [row] = world.renders(job)
    assert (row["state"], row["detail_faces"]) == ("done", 1)
    part = world.renderer.drawn[1][0][0].image
    assert part is not None
    import io

    found = np.asarray(Image.open(io.BytesIO(world.storage.get(row["storage_key"]))).convert("RGB"))
    assert (found[:, 32:] == found[0, 63]).all()


class DetailsFail(FakeRenderer):
    """Has no memory for redrawing faces."""

    def draw(self, samples: Any, setting: Any, **more: Any) -> Any:
        self._fits = 0 if setting.strength < 1 else None
        return super().draw(samples, setting, **more)


def test_a_picture_whose_face_cannot_be_redrawn_is_kept(database: Database, database_url: str, tmp_path: Path) -> None:
    # Given pictures with a small face, and a device without room for the redrawing
    world = World(database, settings(tmp_path, database_url), DetailsFail(batch_size=4))
    world.renderer._faces_in = lambda image: [square_face(40, 8, 8)] if image.width == 64 else []
    job = add_job(database, [person("ada", [3], world.settings, width=64, height=64)])

    # When they are drawn
    world.shift()

    # Then the pictures are there as they were drawn first
    assert [(row["state"], row["detail_faces"]) for row in world.renders(job)] == [("done", 0)] * 3


class ThirdSeedFails(FakeRenderer):
    """Cannot draw the third seed of the first render."""

    def draw(self, samples: Any, setting: Any, **more: Any) -> Any:
        if any(sample.seed == candidate_seed(0, 2) for sample in samples):
            raise NonFinitePicture("picture 0 is not finite")
        return super().draw(samples, setting, **more)


def test_a_seed_that_cannot_be_drawn_leaves_the_best_of_those_before(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    # Given two renders of eight seeds
    world = World(database, settings(tmp_path, database_url), ThirdSeedFails(batch_size=4, alike=lambda image: 0.5))
    job = add_job(database, [person("ada", [2], world.settings, options=NEVER)])

    # When they are drawn
    world.shift()

    # Then the one at fault has the best of two seeds, and the other all eight
    assert [(row["state"], row["draws"]) for row in world.renders(job)] == [("done", 2), ("done", 8)]


def pinned(world: World, **changes: Any) -> None:
    """Ada's weight set as the database would hold another, named by the identity `pinned`."""
    add_job(world.database, [person("ada", [1], world.settings)], key="first")
    world.shift()
    with world.database.transaction() as tx:
        fingerprint = tx.execute(select(WeightSet.fingerprint)).scalar_one()
        if changes:
            tx.execute(update(WeightSet).values(**changes))
    compose(world, "pinned", "weights", [], weight_set_fingerprint=fingerprint)
    world.weight_sets._memory.clear()


@pytest.mark.parametrize(
    "changes",
    [{"kind": "slider"}, {"branch": "base"}, {"recogniser": "another"}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_stored_set_that_is_no_person_of_this_profile_is_refused(world: World, changes: dict[str, str]) -> None:
    # Given a stored set of another kind, branch or recogniser
    pinned(world, **changes)
    job = add_job(world.database, [person("pinned", [1], world.settings)])

    # When somebody is drawn with it
    world.shift()

    # Then the row says what was wanted
    [row] = world.renders(job)
    assert (row["state"], row["error_code"]) == ("failed", "weight_set_mismatch")
    assert next(iter(changes.values())) in row["error"]


def test_base_lora_of_a_stored_set_fails_its_renders_alone(world: World) -> None:
    # Given a stored set, and one render of two that wants Base-LoRA too
    pinned(world)
    full = add_job(
        world.database,
        [person("pinned", [1], world.settings, options=RenderOptions(base_weight=0.5).dump())],
        key="full",
    )
    plain = add_job(world.database, [person("pinned", [1], world.settings)], key="plain")

    # When they are drawn
    world.shift()

    # Then the same LoRA is not merged twice
    assert [row["error_code"] for row in world.renders(full)] == ["weight_set_branch"]
    assert world.job(plain)["done"] == 1
    assert all(len(stack) == 1 for stack in world.renderer.merged)


def test_key_points_are_those_of_the_face_that_is_meant(world: World) -> None:
    # Given a photo of which the second face is meant, and key points from the photo
    options = RenderOptions(control=(ControlOption(net="any", keypoints="photo"),)).dump()
    add_job(world.database, [person("ada", [1], world.settings, options=options)])
    with world.database.transaction() as tx:
        tx.execute(update(PhotoSetPhoto).values(face="1"))

    # When it is drawn
    world.shift()

    # Then the renderer was told which face
    assert [[photo.face for photo in photos] for photos in world.renderer.pointed] == [["1"]]


def test_what_a_pair_needs_does_not_slow_single_people() -> None:
    # Given a device on which two pictures of a pair do not fit
    key = BatchKey(0.8, 0.0, (), -1, 1024, 1024, 20, "euler", True, 1.0, "", (), 1, 2)
    sizes = BatchSizes(8)
    sizes.did_not_fit(key, 2)

    # Then pairs are drawn one by one, and single people as before
    assert sizes.of(key) == 1
    assert sizes.of(BatchKey(0.8, 0.0, (), -1, 1024, 1024, 20, "euler", True, 1.0, "", (), 1, 1)) == 8


def test_a_row_that_this_version_cannot_read_fails_alone(world: World) -> None:
    # Given a render of a later version beside an ordinary one, for the same person
    later = add_job(world.database, [person("ada", [1], world.settings)], key="later")
    plain = add_job(world.database, [person("ada", [2], world.settings)], key="plain")
    with world.database.transaction() as tx:
        tx.execute(update(Render).where(Render.job_id == later).values(options={"hologram": True}))

    # When both are drawn
    world.shift()

    # Then the one says so
    assert [row["error_code"] for row in world.renders(later)] == ["options_invalid"]
    assert world.job(plain)["done"] == 2


def test_a_given_picture_of_another_tenant_is_not_read(world: World) -> None:
    # Given a row that names another tenant's picture by its key
    white = given(world, Image.new("RGB", (16, 16), "white"))
    theirs = white.model_copy(update={"key": white.key.replace(TENANT, "others")})
    data = world.storage.get(white.key)
    world.storage.put(theirs.key, data, content_type="image/png")
    options = RenderOptions(start=StartOption(image=theirs, strength=0.5)).dump()
    job = add_job(world.database, [person("ada", [1], world.settings, options=options)])

    # When it is drawn
    world.shift()

    # Then it fails, and the row does not name the object
    [row] = world.renders(job)
    assert (row["state"], row["error_code"]) == ("failed", "object_missing")
    assert "others" not in row["error"]


def test_a_picture_does_not_tell_where_things_lie(world: World) -> None:
    # Given a render that starts from a picture
    start = StartOption(image=given(world, Image.new("RGB", (16, 16), "white")), strength=0.5)
    job = add_job(world.database, [person("ada", [1], world.settings, options=RenderOptions(start=start).dump())])

    # When it is drawn
    world.shift()

    # Then its file names the start picture's hash, and no storage key
    data = world.storage.get(world.renders(job)[0]["storage_key"])
    assert start.image.sha256.encode() in data
    assert b"/photos/" not in data


def test_losers_are_rows_with_objects_although_the_pictures_were_let_go(world: World) -> None:
    # Given a render of eight seeds
    world.renderer._alike = lambda image: 0.5
    add_job(world.database, [person("ada", [1], world.settings, options=NEVER)])

    # When it is drawn
    world.shift()

    # Then eight candidates are recorded, one of them chosen, each with its object
    with world.database.reading() as tx:
        rows = tx.execute(select(Candidate.storage_key, Candidate.chosen)).all()
    assert [sum(row.chosen for row in rows), len(rows)] == [1, 8]
    assert sorted(row.storage_key for row in rows) == world.pictures()[: len(rows)]


def test_what_is_transparent_in_a_mask_is_black(world: World) -> None:
    # Given a white mask whose right half is transparent
    mask = Image.new("LA", (64, 64), (255, 255))
    mask.paste((255, 0), (32, 0, 64, 64))

    # When it is read for a render
    found = GivenPictures(world.storage, world.settings).mask(given(world, mask), 64, 64, tenant=TENANT)

    # Then only the left half is meant
    assert found.mode == "L"
    assert [found.getpixel((8, 8)), found.getpixel((56, 8))] == [255, 0]

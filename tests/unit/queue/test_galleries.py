"""Galleries in the store: built once, fenced by a token, and true to what was drawn."""

from __future__ import annotations

import base64
import io
import json
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from queue_world import TENANT, World, add_job, person, settings
from sqlalchemy import update

from jobs.database import Database
from jobs.errors import DatabaseUnavailable, StorageDenied, StorageUnavailable
from jobs.gallery import build_due, build_now, keys
from jobs.gallery.pictures import box
from jobs.models_outside import Gallery
from jobs.repository import galleries
from jobs.sweep import sweep
from worker.testing import FakeRenderer

THUMBNAIL = re.compile(r"\.t(\d+)\{background-image:url\(\"data:image/webp;base64,([A-Za-z0-9+/=]+)\"\)\}")
Act = Callable[[], None]


@pytest.fixture
def world(database: Database, database_url: str, tmp_path: Path) -> World:
    """A queue with a fake renderer."""
    return World(database, settings(tmp_path, database_url), FakeRenderer())


class Store:
    """A store in front of another one: `before_get` and `before_put` are called first, and may raise."""

    def __init__(self, storage: Any, before_get: Act = lambda: None, before_put: Act = lambda: None) -> None:
        self._storage, self._before_get, self._before_put = storage, before_get, before_put

    def get(self, key: str) -> bytes:
        self._before_get()
        return bytes(self._storage.get(key))

    def put(self, key: str, data: bytes, **options: Any) -> None:
        self._before_put()
        self._storage.put(key, data, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)


def drawn(world: World, *people: tuple[str, int]) -> uuid.UUID:
    """A job of these people with so many pictures each, all of them drawn; its gallery is due."""
    job = add_job(world.database, [person(name, [count], world.settings) for name, count in people])
    world.shift()
    make_due(world, job)
    return job


def make_due(world: World, job: uuid.UUID, after_seconds: float = 0.0) -> None:
    with world.database.transaction() as tx:
        galleries.make_due(tx, TENANT, job, after_seconds)


def build(world: World, storage: Any = None, **options: Any) -> int:
    return build_due(
        world.database, storage or world.storage, world.settings, **{"owner": "clerk", "limit": 4, **options}
    )


def row(world: World, job: uuid.UUID) -> dict[str, Any]:
    with world.database.reading() as tx:
        found = galleries.find(tx, TENANT, job)
    assert found is not None
    return dict(found)


def force(world: World, job: uuid.UUID, **values: Any) -> None:
    """Let time pass, as the row has it."""
    with world.database.transaction() as tx:
        tx.execute(update(Gallery).where(Gallery.job_id == job).values(**values))


def files(world: World, job: uuid.UUID) -> list[str]:
    """What was built of a job, without its prefix."""
    prefix = keys.folder(TENANT, job)
    return sorted(key.removeprefix(prefix) for key in world.storage.list(prefix))


def page(world: World, job: uuid.UUID) -> dict[str, Any]:
    """The data of the first page in force."""
    prefix = keys.prefix(TENANT, job, row(world, job)["built_token"])
    found = json.loads(world.storage.get(prefix + keys.data_name(1)))
    assert isinstance(found, dict)
    return found


def test_a_finished_job_has_a_page_beside_its_pictures(world: World) -> None:
    # Given a job of two people whose pictures are drawn
    job = drawn(world, ("ada", 2), ("alan", 1))

    # When what is due is built
    assert build(world) == 1

    # Then the page names people, prompts and each picture's making, and its files are where it says
    assert files(world, job) == ["1/index.html", "1/page-0001.json", "1/thumbnails-0001.css"]
    told = page(world, job)
    assert (told["people"], told["prompts"]) == (["ada", "alan"], ["office"])
    assert [one["state"] for one in told["pictures"]] == ["done"] * 3
    renders = {str(one["render_id"]): one for one in world.renders(job)}
    beside = world.storage.root / keys.prefix(TENANT, job, 1) / ".." / ".."
    for one in told["pictures"]:
        render = renders[one["id"]]
        assert (one["seed"], one["sha256"]) == (render["seed"], render["sha256"])
        assert (beside / one["file"]).read_bytes() == world.storage.get(render["storage_key"])
    assert told["notice"] == world.renderer.notice
    # And each thumbnail is a picture of its own on the sheet
    sheet = world.storage.get(keys.prefix(TENANT, job, 1) + told["sheets"][0]).decode()
    pictures = {int(number): base64.b64decode(data) for number, data in THUMBNAIL.findall(sheet)}
    assert sorted(pictures) == [0, 1, 2]
    colours = {
        Image.open(io.BytesIO(data)).convert("RGB").resize((1, 1)).getpixel((0, 0)) for data in pictures.values()
    }
    assert len(colours) == 3
    # And it is not built again
    found = row(world, job)
    assert (found["pictures"], found["due_at"], found["error"], found["attempts"]) == (3, None, None, 0)
    assert build(world) == 0


def test_what_is_asked_for_while_somebody_builds_is_built_again_and_the_older_goes(world: World) -> None:
    # Given a gallery that is asked for again in the middle of being built
    job = drawn(world, ("ada", 1))
    asked: list[None] = []

    def ask() -> None:
        if not asked:
            asked.append(None)
            make_due(world, job)

    # When what is due is built
    built = build(world, Store(world.storage, before_put=ask))

    # Then it was built twice, and the second one alone is there
    assert built == 2
    assert row(world, job)["built_token"] == 2
    assert {name.partition("/")[0] for name in files(world, job)} == {"2"}


def test_an_earlier_wish_stands_and_a_later_one_waits(world: World) -> None:
    job = drawn(world, ("ada", 1))
    first = row(world, job)["due_at"]
    make_due(world, job, after_seconds=3600)
    assert row(world, job)["due_at"] == first

    force(world, job, due_at=None)
    make_due(world, job, after_seconds=3600)
    assert row(world, job)["due_at"] > first + 3000
    assert build(world) == 0


def test_a_builder_that_was_overtaken_is_fenced_out_and_removes_its_own(world: World) -> None:
    # Given a builder that stands still until its lease has run out, while another one builds
    job = drawn(world, ("ada", 1))
    others: list[int] = []

    def stand_still() -> None:
        if not others:
            force(world, job, lease_until=0.0)
            others.append(build(world, owner="other"))

    # When the first one goes on
    built = build(world, Store(world.storage, before_get=stand_still), limit=1)

    # Then the other one's gallery is in force, and nothing of the first is left
    assert (others, built) == ([1], 0)
    assert row(world, job)["built_token"] == 2
    assert {name.partition("/")[0] for name in files(world, job)} == {"2"}


def test_who_is_told_to_end_hands_the_gallery_back(world: World) -> None:
    # Given a builder that is told to end when it has read the first picture
    job = drawn(world, ("ada", 3))
    read: list[None] = []
    storage = Store(world.storage, before_get=lambda: read.append(None))

    # When it builds
    assert build(world, storage, is_over=lambda: bool(read)) == 0

    # Then nothing of it is left, and the next one can begin at once
    found = row(world, job)
    assert (found["lease_owner"], found["attempts"], found["built_token"]) == (None, 0, None)
    assert files(world, job) == []
    assert build(world) == 1


def test_a_gallery_stays_whose_builder_never_hears_that_it_is_in_force(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a database that does what it is told to, and falls silent before it says so
    job = drawn(world, ("ada", 1))
    complete = galleries.complete

    def fall_silent(tx: Any, claimed: galleries.ClaimedGallery, **options: Any) -> bool:
        assert complete(tx, claimed, **options)
        tx.commit()
        raise DatabaseUnavailable("the database fell silent")

    monkeypatch.setattr(galleries, "complete", fall_silent)

    # When the gallery is built
    assert build(world) == 0

    # Then it is in force, with its files, and not built again
    assert row(world, job)["built_token"] == 1 and row(world, job)["error"] is None
    assert files(world, job) == ["1/index.html", "1/page-0001.json", "1/thumbnails-0001.css"]
    monkeypatch.undo()
    assert build(world) == 0


def test_an_interrupt_from_the_keyboard_hands_the_gallery_back(world: World) -> None:
    # Given somebody who waits for a gallery, and interrupts it
    job = drawn(world, ("ada", 1))

    def interrupt() -> None:
        raise KeyboardInterrupt

    # When it is being built
    with pytest.raises(KeyboardInterrupt):
        storage = Store(world.storage, before_put=interrupt)
        build_now(world.database, storage, world.settings, TENANT, job, owner="me")

    # Then the next one need not wait for its lease
    assert (row(world, job)["lease_owner"], files(world, job)) == (None, [])
    assert build(world) == 1


def test_a_store_that_is_away_is_waited_for_and_a_lasting_fault_is_given_up(world: World) -> None:
    # Given a store that does not answer
    job = drawn(world, ("ada", 1))

    def away() -> None:
        raise StorageUnavailable("the store is away")

    # When galleries are built again and again
    for _ in range(galleries.MOST_ATTEMPTS + 2):
        assert build(world, Store(world.storage, before_get=away)) == 0
        force(world, job, due_at=0.0)

    # Then it is due for ever, with the reason
    found = row(world, job)
    assert (found["attempts"], found["error"]) == (0, "the store is away")

    # Given a store that refuses: it is tried so many times, and then left until it is asked for again
    def refuse() -> None:
        raise StorageDenied("the store refuses")

    tries = 0
    while row(world, job)["due_at"] is not None:
        force(world, job, due_at=0.0)
        build(world, Store(world.storage, before_put=refuse))
        tries += 1
    assert tries == galleries.MOST_ATTEMPTS
    assert row(world, job)["error"] == "the store refuses"
    make_due(world, job)
    assert build(world) == 1
    assert row(world, job)["error"] is None


def test_a_gallery_that_builders_are_lost_with_is_given_up_with_a_word(world: World) -> None:
    # Given builders that are lost, one after the other
    job = drawn(world, ("ada", 1))
    for _ in range(galleries.MOST_ATTEMPTS):
        with world.database.transaction() as tx:
            assert galleries.claim(tx, "lost", lease_seconds=30.0) is not None
        force(world, job, lease_until=0.0)

    # When the next one looks
    assert build(world) == 0

    # Then it is left, and its row says what to do
    found = row(world, job)
    assert found["due_at"] is None
    assert "builders were lost" in found["error"] and f"portraits gallery {job} --build" in found["error"]


def test_whoever_wants_one_now_is_told_of_its_fault(world: World) -> None:
    job = drawn(world, ("ada", 1))

    def refuse() -> None:
        raise StorageDenied("the store refuses")

    storage = Store(world.storage, before_put=refuse)
    with pytest.raises(StorageDenied, match="the store refuses"):
        build_now(world.database, storage, world.settings, TENANT, job, owner="me")
    assert build_now(world.database, world.storage, world.settings, TENANT, job, owner="me")


def test_what_is_recorded_as_done_and_cannot_be_shown_is_not_shown_as_done(world: World) -> None:
    # Given three pictures, of which one was lost, one was written over, and one is left
    job = drawn(world, ("ada", 3))
    lost, other, _ = world.renders(job)
    world.storage.delete(lost["storage_key"])
    world.storage.put(other["storage_key"], b"<svg onload=alert(1)>", content_type="image/png")

    # When the gallery is built
    assert build(world) == 1

    # Then each of the two says why, and has no thumbnail
    first, second, third = page(world, job)["pictures"]
    assert "object_missing" in first["problem"] and "thumbnail" not in first
    assert "picture_damaged" in second["problem"] and "thumbnail" not in second
    assert "problem" not in third and third["thumbnail"] == 0
    assert row(world, job)["pictures"] == 1


def test_nothing_that_waits_is_shown_as_done(world: World) -> None:
    job = add_job(world.database, [person("ada", [2], world.settings)])
    make_due(world, job)
    assert build(world) == 1
    told = page(world, job)
    assert [one["state"] for one in told["pictures"]] == ["waiting", "waiting"]
    assert (told["head"]["state"], told["head"]["counts"]["done"]) == ("waiting", 0)


def test_the_sweep_keeps_what_is_in_force_or_being_built_and_takes_the_rest(world: World, database: Database) -> None:
    # Given a gallery in force, files under a token of a builder that is gone, and under that of one at work
    job = drawn(world, ("ada", 1))
    assert build(world) == 1
    make_due(world, job)
    force(world, job, lease_token=6)
    with database.transaction() as tx:
        claimed = galleries.claim(tx, "at work", lease_seconds=30.0)
    assert claimed is not None and claimed.lease_token == 7
    for token in (3, 7):
        world.storage.put(keys.prefix(TENANT, job, token) + "thumbnails-0001.css", b"", content_type="text/css")

    # When it is swept
    swept = sweep(world.settings, older_than_seconds=0, delete=True)

    # Then that of the one who is gone is removed, alone
    assert (swept.removed, swept.unknown) == (1, 0)
    assert {name.partition("/")[0] for name in files(world, job)} == {"1", "7"}

    # When the gallery is put out of force, as erasing somebody does
    with database.transaction() as tx:
        galleries.void(tx, TENANT, [job])
    sweep(world.settings, older_than_seconds=0, delete=True)

    # Then all of it goes, whoever builds is fenced out, and it is due
    assert files(world, job) == []
    with database.transaction() as tx:
        assert not galleries.complete(tx, claimed, pictures=1)
    assert build(world) == 1


def test_looking_for_what_is_due_waits_for_no_writer(world: World, database: Database) -> None:
    # Given nothing that is due, and somebody in the middle of a long write
    job = drawn(world, ("ada", 1))
    assert build(world) == 1
    with database.transaction() as tx:
        tx.execute(update(Gallery).where(Gallery.job_id == job).values(pictures=1))

        # When the clerk looks, it is not held up
        assert build(world) == 0


def test_a_thumbnail_has_the_area_of_a_square_and_the_shape_of_its_picture() -> None:
    assert box(1.0) == (208, 208)
    width, height = box(832 / 1216)
    assert abs(width / height - 832 / 1216) < 0.01 and abs(width * height - 208 * 208) < 400

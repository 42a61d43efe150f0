"""Nobody is kept longer than their tenant allows, and nobody goes of whom something waits or was made lately."""

from __future__ import annotations

import datetime as dt
import hashlib
import uuid
from typing import Any

import pytest
from privacy_world import OTHER, PEOPLE, PrivacyWorld
from queue_world import TENANT, World
from sqlalchemy import insert, select, update

from jobs import privacy
from jobs.database import Database
from jobs.models import ARCHIVED_UNITS, Identity, Photo, PhotoSet, Unit
from jobs.models_fleet import Leader
from jobs.models_outside import Upload
from jobs.orm import utcnow
from jobs.privacy import retention
from jobs.repository import tenants

LONG_AGO = utcnow() - dt.timedelta(days=40)


def keep(world: World, days: int | None, tenant: str = TENANT) -> None:
    """How long a tenant keeps people."""
    with world.database.transaction() as tx:
        tenants.change(tx, tenant, retention_days=days)


def grow_old(world: World, name: str, *, tenant: str = TENANT) -> None:
    """Everything of a person was forty days ago."""
    with world.database.transaction() as tx:
        mine = (Identity.tenant_id == tenant, Identity.external_id == name)
        identity = tx.execute(select(Identity.id).where(*mine)).scalar_one()
        tx.execute(update(Identity).where(*mine).values(created_at=LONG_AGO))
        of_person: tuple[Any, ...] = (PhotoSet.tenant_id == tenant, PhotoSet.identity_id == identity)
        tx.execute(update(PhotoSet).where(*of_person).values(created_at=LONG_AGO))
        for units in (Unit.__table__, ARCHIVED_UNITS):
            ended = (units.c.tenant_id == tenant, units.c.identity_id == identity, units.c.finished_at.is_not(None))
            tx.execute(update(units).where(*ended).values(finished_at=LONG_AGO))  # type: ignore[arg-type]


def take_turn(world: World) -> int:
    """A turn of the clerk's, as if a day had passed."""
    with world.database.transaction() as tx:
        tx.execute(update(Leader).where(Leader.name == "retention").values(until=0.0))
    return retention.turn(world.database, world.storage, world.settings)


def test_who_was_last_used_too_long_ago_is_erased_once_a_day(people: PrivacyWorld, world: World) -> None:
    # Given a tenant that keeps people for a month, and somebody of whom everything is older; nothing of anybody waits
    people.draw()
    keep(world, 30)
    grow_old(world, "dan-yew")
    everybody = people.names()

    # When the day's turn comes
    assert take_turn(world) > 0

    # Then that one is gone, with an audit row, and nobody else
    assert people.names() == everybody - {"dan-yew"} and people.names(OTHER) == everybody
    (row,) = privacy.audits(settings=people.settings)
    assert (row["action"], row["actor"], row["counts"]["people"]) == ("retention", "retention", 1)
    assert not [key for key in world.storage.list(f"{TENANT}/") if _photo_of(people, "dan-yew") in key]

    # And on the same day nothing more is looked for
    grow_old(world, "cyd-vane")
    grow_old(world, "bob-beside-cyd")
    assert retention.turn(world.database, world.storage, world.settings) == 0 and "cyd-vane" in people.names()


def _photo_of(people: PrivacyWorld, name: str) -> str:
    return hashlib.sha256(people.photo(name, TENANT).read_bytes()).hexdigest()


def test_what_waits_or_was_made_of_somebody_lately_protects(people: PrivacyWorld, world: World) -> None:
    # Given somebody whose own pictures are old: one waits for new ones, of another a mix was drawn lately
    keep(world, 30)
    for name in PEOPLE:
        grow_old(world, name)
    with world.database.reading() as tx:
        states = set(tx.execute(select(Unit.state).where(Unit.tenant_id == TENANT)).scalars())
    assert "ready" in states

    # When the turn comes, then all those go of whom nothing waits, and of whom nothing was made that is young
    take_turn(world)
    assert people.names() == {"ada-quill", "bob-rook", "cyd-vane", "ada-and-bob", "bob-beside-cyd"}

    # When nothing waits any more, then what is young still protects those that it was made of
    people.draw()
    for name in (*PEOPLE[:3], "bob-beside-cyd"):
        grow_old(world, name)
    take_turn(world)
    assert people.names() == {"ada-quill", "bob-rook", "ada-and-bob"}


def test_a_slider_that_a_waiting_picture_names_protects_whom_it_is_made_of(people: PrivacyWorld, world: World) -> None:
    # Given that a picture of somebody waits which is moved by a slider of others, who are old
    people.draw()
    waits = people.enqueue(TENANT, "slid", only=None)
    with world.database.transaction() as tx:
        mine = (Unit.tenant_id == TENANT, Unit.job_id == waits)
        dan = select(Identity.id).where(Identity.tenant_id == TENANT, Identity.external_id == "dan-yew")
        drawn = utcnow() - dt.timedelta(days=40)
        others = update(Unit).where(*mine, Unit.identity_id.not_in(dan))
        tx.execute(others.values(state="cancelled", finished_at=drawn))
    keep(world, 30)
    for name in ("ada-quill", "bob-rook", "cyd-vane", "ada-and-bob", "bob-beside-cyd"):
        grow_old(world, name)

    # When the turn comes, then those that the slider is made of stay, and so does who is drawn; the others go
    take_turn(world)
    assert people.names() == {"ada-quill", "cyd-vane", "dan-yew"}


@pytest.mark.parametrize(("of_tenant", "setting", "goes"), [(None, 30, True), (60, 30, False), (None, None, False)])
def test_a_tenants_own_length_goes_before_the_settings(
    people: PrivacyWorld, world: World, of_tenant: int | None, setting: int | None, goes: bool
) -> None:
    # Given an old person, a length for all tenants, and one of the tenant
    people.draw()
    world.settings = world.settings.model_copy(update={"retention_days": setting})
    keep(world, of_tenant)
    grow_old(world, "dan-yew")

    # When the turn comes, then the tenant's own counts, where it has one
    take_turn(world)
    assert ("dan-yew" not in people.names()) is goes


def test_photos_that_nobody_names_and_uploads_that_expired_go_too(people: PrivacyWorld, world: World) -> None:
    # Given a photo of which only the row is there since two days, one since now, and an upload that expired
    with world.database.transaction() as tx:
        for number, at in enumerate((utcnow() - dt.timedelta(days=2), utcnow())):
            sha256 = f"{number:064x}"
            key = f"{TENANT}/photos/{sha256[:2]}/{sha256}.png"
            world.storage.put(key, b"x", content_type="image/png")
            own = {"tenant_id": TENANT, "sha256": sha256, "storage_key": key, "media_type": "image/png"}
            size = {"size_bytes": 1, "width": 1, "height": 1}
            tx.execute(insert(Photo).values(**own, **size, id=uuid.uuid4(), created_at=at))
        tx.execute(update(Upload).where(Upload.tenant_id == TENANT).values(expires_at=utcnow() - dt.timedelta(days=1)))

    # When everything is done now
    swept = retention.sweep(world.settings)

    # Then the old one and the uploads are gone, objects too, and the young one stays
    assert (swept.photos, swept.uploads, swept.people) == (1, len(PEOPLE), 0)
    photos = set(world.storage.list(f"{TENANT}/photos/00/"))
    assert f"{TENANT}/photos/00/{0:064x}.png" not in photos and f"{TENANT}/photos/00/{1:064x}.png" in photos
    assert list(world.storage.list(f"{TENANT}/uploads/")) == []


def test_a_turn_with_nothing_to_do_writes_nothing(database: Database, world: World) -> None:
    # Given a database in which the day's turn was taken
    retention.turn(world.database, world.storage, world.settings)
    with database.reading() as tx:
        before = tx.execute(select(Leader)).all()

    # When it is taken again, then nothing is done, and nothing is written
    assert retention.turn(world.database, world.storage, world.settings) == 0
    with database.reading() as tx:
        assert tx.execute(select(Leader)).all() == before

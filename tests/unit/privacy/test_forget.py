"""Forgetting a person reaches everything that was made of it, wherever it lies, and nothing of anybody else."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from privacy_world import OTHER, PEOPLE, PrivacyWorld, gone_with
from queue_world import TENANT, World
from sqlalchemy import func, select

from jobs import privacy, verify
from jobs.database import SQLITE_BUSY_SECONDS, Database
from jobs.errors import AuditRefused, StorageUnavailable, UnknownPerson
from jobs.models import METADATA
from jobs.models_outside import Audit, Delivery, Forgetting, Gallery, Upload
from jobs.privacy import clearing
from jobs.privacy.receipts import Receipt
from jobs.privacy.verifying import Sought
from jobs.repository import forgettings
from jobs.sweep import sweep


def left_of(people: PrivacyWorld, receipt: Receipt | None, *names: str, tenant: str = TENANT) -> list[str]:
    """What the verifier finds, by the receipt, the names and the photos."""
    photos = [people.photo(name, tenant) for name in names if name in PEOPLE]
    sought = Sought.of(tenant, names=names, photos=photos, receipt=receipt)
    return [f"{one.kind}: {one.where}" for one in privacy.remains(sought, settings=people.settings)]


@pytest.mark.parametrize("order", [PEOPLE, PEOPLE[::-1]], ids=["first to last", "last to first"])
def test_of_each_person_that_is_forgotten_nothing_is_left_and_of_the_others_everything(
    people: PrivacyWorld, order: tuple[str, ...]
) -> None:
    # Given a tenant with everything that can be made of people
    gone: set[str] = set()
    everybody = people.names()
    assert left_of(people, None, PEOPLE[0])

    for name in order:
        before = people.pictures(TENANT, gone | gone_with(name))

        # When one after the other is forgotten
        told = privacy.forget(name, reason="asked by letter", settings=people.settings)
        gone |= gone_with(name)

        # Then whoever looks by receipt, name and photo finds nothing, in no table, no object, no page
        assert told.receipt is not None and left_of(people, told.receipt, name) == []
        assert set(told.others) <= gone and people.names() == everybody - gone
        # and the pictures of everybody else are there, to the byte
        assert people.pictures(TENANT, gone) == before
        assert told.counts["photos"] == 1 and told.removed > 0 and told.behind == []
        assert sweep(people.settings, tenant=TENANT, older_than_seconds=0).orphans == 0

    # And the other tenant's people of the same names have lost nothing
    assert people.names(OTHER) == everybody
    assert sweep(people.settings, tenant=OTHER, older_than_seconds=0).orphans == 0
    report = verify.verify(every=True, objects=True, settings=people.settings)
    assert report.differences == []


def test_the_verifier_is_no_verifier_of_nothing(people: PrivacyWorld) -> None:
    # Given a receipt of somebody, and everything as it was: an erasure that is only looked at
    looked = privacy.forget(PEOPLE[1], dry_run=True, settings=people.settings)
    assert looked.is_dry and looked.counts["renders"] > 0 and set(looked.others) == gone_with(PEOPLE[1]) - {PEOPLE[1]}

    # When it is looked for, then every table that speaks of the person is told, and the store, and the gallery's pages
    found = left_of(people, None, PEOPLE[1])
    tables = {one.split(": ")[1].split(".")[0] for one in found if one.startswith(("name", "id"))}
    assert {"identities", "photos", "uploads", "deliveries"} <= tables
    assert any(one.startswith("object: ") and "/photos/" in one for one in found)
    assert any(one.startswith("name in an object: ") and one.endswith("index.html") for one in found)


def test_what_leads_out_of_the_queue_goes_and_galleries_are_due_again(people: PrivacyWorld, world: World) -> None:
    # Given galleries in force and deliveries that name people
    with world.database.reading() as tx:
        before = tx.execute(select(func.count()).select_from(Delivery).where(Delivery.tenant_id == TENANT)).scalar_one()
    pages = [key for key in world.storage.list(f"{TENANT}/") if "/gallery/" in key]
    assert len(pages) == 3

    # When somebody is forgotten
    privacy.forget(PEOPLE[0], settings=people.settings)

    # Then the pages are gone, and due to be made anew by somebody who is not fenced out
    assert [key for key in world.storage.list(f"{TENANT}/") if "/gallery/" in key] == []
    with world.database.reading() as tx:
        for gallery in tx.execute(select(Gallery).where(Gallery.tenant_id == TENANT)).all():
            assert gallery.due_at is not None and gallery.built_token is None and gallery.lease_token == 2
        after = tx.execute(select(func.count()).select_from(Delivery).where(Delivery.tenant_id == TENANT)).scalar_one()
        sent = tx.execute(select(func.count()).select_from(Upload).where(Upload.tenant_id == TENANT)).scalar_one()
    # and what nobody was told yet of the person is told to nobody
    assert 0 < after < before and sent == len(PEOPLE) - 1


def test_an_audit_row_is_left_that_tells_of_nobody(people: PrivacyWorld, world: World) -> None:
    # Given somebody who is forgotten for a reason
    privacy.forget(PEOPLE[0], reason="asked by letter", actor="clerk", settings=people.settings)

    # When the audit is read, then it tells when, how much, by whom and why, and no id of anybody
    (row,) = privacy.audits(settings=people.settings)
    assert (row["action"], row["tenant"], row["actor"], row["reason"]) == (
        "person.forgotten",
        TENANT,
        "clerk",
        "asked by letter",
    )
    assert row["counts"]["people"] == 2 and row["counts"]["photos"] == 1
    assert set(row["counts"]) == {"people", "photos", "weight_sets", "units", "renders", "jobs", "objects"}
    assert {column.name for column in Audit.__table__.c} == {
        "id",
        "at",
        "action",
        "tenant",
        "actor",
        "reason",
        "counts",
    }

    # And a reason that would say who is refused, with nothing erased
    with pytest.raises(AuditRefused, match="without saying who"):
        privacy.forget(PEOPLE[1], reason=f"letter of {PEOPLE[1]}", settings=people.settings)
    assert PEOPLE[1] in people.names()
    with pytest.raises(UnknownPerson):
        privacy.forget(PEOPLE[0], settings=people.settings)


def test_an_erasure_that_is_killed_before_the_objects_went_is_finished_by_the_next_turn(
    people: PrivacyWorld, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a store that is away in the moment after the rows went
    def away(*_: object, **__: object) -> int:
        raise StorageUnavailable("away")

    monkeypatch.setattr(clearing, "purge", away)
    with pytest.raises(StorageUnavailable):
        privacy.forget(PEOPLE[0], settings=people.settings)
    monkeypatch.undo()
    found = left_of(people, None, PEOPLE[0])
    assert any("noted to be removed" in one for one in found)

    # When the next turn clears up
    with world.database.reading() as tx:
        noted = [key for row in forgettings.to_clear(tx, limit=10) for key in row.keys or ()]
    assert clearing.clear(world.database, world.storage) >= len(noted) > 0

    # Then nothing is left
    assert not set(noted) & set(world.storage.list(f"{TENANT}/"))
    assert left_of(people, None, PEOPLE[0]) == []


def test_a_photo_that_was_enqueued_again_before_the_objects_went_stays(people: PrivacyWorld, world: World) -> None:
    # Given somebody whose rows are gone and whose objects are still to go
    with world.database.transaction() as tx:
        from jobs.privacy.forgetting import note
        from jobs.repository import erasure
        from jobs.repository import people as rows

        found = rows.look_up(tx, TENANT, PEOPLE[0])
        assert found is not None
        erased = erasure.erase(tx, TENANT, found.id)
        assert erased is not None
        note(tx, TENANT, erased)

    # When the same person is enqueued anew, and only then the objects go
    again = people.enqueue(TENANT, "again", only=PEOPLE[:1])
    clearing.clear(world.database, world.storage)
    people.draw()

    # Then the photo is there, and the new pictures are drawn
    assert world.job(again)["done"] == 2
    assert verify.verify(again, objects=True, settings=people.settings).differences == []


def test_a_job_that_is_enqueued_once_more_brings_no_photo_of_the_forgotten_back(
    people: PrivacyWorld, world: World
) -> None:
    # Given two jobs of a person who was forgotten, and a photo of another person that was lost from the store
    told = privacy.forget(PEOPLE[0], settings=people.settings)
    photos = {key for key in world.storage.list(f"{TENANT}/photos/")}
    lost = sorted(photos)[0]
    world.storage.delete(lost)

    # When the same manifest is enqueued again, which is the same job
    people.enqueue(TENANT, "old")

    # Then the lost photo is put back, and nothing of the person
    assert told.receipt is not None and left_of(people, told.receipt, PEOPLE[0]) == []
    assert set(world.storage.list(f"{TENANT}/photos/")) == photos


def test_a_whole_tenant_goes_with_everything_and_the_other_keeps_everything(
    people: PrivacyWorld, world: World, tmp_path: Path
) -> None:
    # Given two tenants
    others = {key: world.storage.get(key) for key in world.storage.list(f"{OTHER}/")}
    with world.database.reading() as tx:
        rows = {
            name: tx.execute(select(func.count()).select_from(table).where(table.c.tenant_id == OTHER)).scalar_one()
            for name, table in METADATA.tables.items()
            if "tenant_id" in table.c
        }
    looked = privacy.forget_tenant(TENANT, dry_run=True, settings=people.settings)
    assert looked.is_dry and looked.counts["people"] == 6 and list(world.storage.list(f"{TENANT}/"))

    # When one is forgotten
    told = privacy.forget_tenant(TENANT, reason="contract ended", settings=people.settings)

    # Then no row and no object of it is left, whatever the table
    left = list(privacy.remains(Sought.everything_of(TENANT), settings=people.settings))
    assert [one for one in left if one.kind != "row" or "audits" not in one.where] == []
    assert list(world.storage.list(f"{TENANT}/")) == [] and told.removed > 0
    # and the audit row outlives it
    assert [row["action"] for row in privacy.audits(tenant=TENANT, settings=people.settings)] == ["tenant.forgotten"]
    # and the other tenant has every row and every object
    assert {key: world.storage.get(key) for key in world.storage.list(f"{OTHER}/")} == others
    with world.database.reading() as tx:
        for name, count in rows.items():
            table = METADATA.tables[name]
            found = select(func.count()).select_from(table).where(table.c.tenant_id == OTHER)
            assert tx.execute(found).scalar_one() == count, name


def test_moments_of_what_is_to_be_dropped_rise_and_are_never_parted(world: World) -> None:
    # Given many things to drop in one erasure, and another one at the same moment of the clock
    with world.database.transaction() as tx:
        forgettings.add(tx, TENANT, weight_sets=[f"{n:064x}" for n in range(2_500)], keys=["a"])
    with world.database.transaction() as tx:
        forgettings.add(tx, TENANT, weight_sets=["f" * 64])

    # When they are read in small pages, then those of one erasure come together, and the second is later
    with world.database.reading() as tx:
        first = forgettings.newer(tx, 0.0, limit=2)
        second = forgettings.newer(tx, first[-1].at, limit=2)
        assert tx.execute(select(func.count()).select_from(Forgetting)).scalar_one() == 4
    assert [len(row.names["weight_sets"]) for row in first] == [1_000, 1_000, 500]
    assert len({row.at for row in first}) == 1 and [row.names for row in second] == [{"weight_sets": ["f" * 64]}]
    assert second[0].at > first[0].at


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_sqlite_file_keeps_no_remnant_of_a_name(people: PrivacyWorld, world: World, database_url: str) -> None:
    # Given a file in which somebody's name stands, in rows or in the log of recent changes
    name = PEOPLE[3].encode()
    file = Path(database_url.removeprefix("sqlite:///"))

    def found() -> int:
        return sum(path.read_bytes().count(name) for path in file.parent.glob(f"{file.name}*"))

    assert found()

    # When that one is forgotten by both tenants, and the pages that are free were overwritten
    for tenant in (TENANT, OTHER):
        privacy.forget(PEOPLE[3], tenant=tenant, settings=people.settings)

    # Then the bytes of the name are nowhere in the files
    assert world.database.settle_erased() and found() == 0


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_whoever_reads_for_long_keeps_no_writer_waiting_for_an_erasure(
    world: World, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given somebody who reads for as long as it takes, from before a change
    monkeypatch.setattr("jobs.database.SETTLE_SECONDS", 0.05)
    reader = Database(database_url)
    with reader.reading() as tx:
        tx.execute(select(func.count()).select_from(Forgetting)).scalar_one()
        with world.database.transaction() as other:
            forgettings.add(other, TENANT, keys=["a"])

        # When an erasure settles, then it says that it could not yet, and others write at once
        began = time.monotonic()
        assert not world.database.settle_erased()
        with world.database.transaction() as other:
            forgettings.add(other, TENANT, keys=["b"])
        assert time.monotonic() - began < SQLITE_BUSY_SECONDS / 2
    reader.dispose()

    # And when the reader is gone, it could; the same connections wait for writers as long as before
    assert world.database.settle_erased()
    with world.database.reading() as tx:
        assert tx.exec_driver_sql("PRAGMA busy_timeout").scalar_one() == 1000 * SQLITE_BUSY_SECONDS

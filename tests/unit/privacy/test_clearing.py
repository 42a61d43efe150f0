"""What is to be dropped is done with when every worker that lives has dropped it, and nothing can come any more."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from privacy_world import PEOPLE, PrivacyWorld
from queue_world import TENANT, World, add_job, person
from sqlalchemy import select, update
from test_forget import left_of

from jobs import privacy
from jobs.database import Database, epoch_now
from jobs.errors import ObjectDenied
from jobs.models import Identity, Render, Unit
from jobs.models_fleet import Worker
from jobs.models_outside import Forgetting
from jobs.privacy import clearing, retention
from jobs.repository import fleet, forgettings
from jobs.uploads import upload_key


def live(database: Database, name: str, *, state: str = "idle", silent_seconds: float = 0.0) -> None:
    """A worker with its last sign of life."""
    with database.transaction() as tx:
        fleet.seen(tx, name, name=name, pid=1, version="0")
        last = {"state": state, "last_seen_at": epoch_now() - silent_seconds}
        tx.execute(update(Worker).where(Worker.id == name).values(**last))


def grow_old(database: Database, seconds: float) -> None:
    """Everything that is to be dropped was noted so long ago."""
    with database.transaction() as tx:
        tx.execute(update(Forgetting).values(at=Forgetting.at - seconds))


def rows(database: Database) -> list[Any]:
    with database.reading() as tx:
        return list(tx.execute(select(Forgetting.id, Forgetting.at)).all())


def obey(database: Database, name: str) -> None:
    with database.transaction() as tx:
        forgettings.obeyed(tx, name, forgettings.newest(tx))


def test_a_row_waits_for_every_worker_that_lives_and_for_no_other(world: World) -> None:
    # Given an erasure, a worker that lives, one that has ended, and one that has been silent for two days
    live(world.database, "lives")
    live(world.database, "ended", state="stopped")
    live(world.database, "gone", silent_seconds=2 * 86_400.0)
    with world.database.transaction() as tx:
        (noted,) = forgettings.add(tx, TENANT, weight_sets=["a" * 64], keys=[])
        forgettings.cleared(tx, noted)
    grow_old(world.database, forgettings.LATE_SECONDS + 1)

    # When it has not been obeyed, then it stays; when the one that lives has, then it goes
    with world.database.reading() as tx:
        assert forgettings.behind(tx) == ["lives"]
    assert clearing.close(world.database, world.storage) == 0 and len(rows(world.database)) == 1
    obey(world.database, "lives")
    assert clearing.close(world.database, world.storage) == 1 and rows(world.database) == []


def test_a_row_stays_for_a_quarter_of_an_hour_and_no_longer_than_thirty_days(world: World) -> None:
    # Given an erasure that was obeyed at once, and then one that a worker never obeys
    for is_obeyed, before, after in ((True, 0.0, forgettings.LATE_SECONDS + 1), (False, 86_400.0, 31 * 86_400.0)):
        live(world.database, name := f"obeys {is_obeyed}")
        with world.database.transaction() as tx:
            (noted,) = forgettings.add(tx, TENANT, weight_sets=["a" * 64])
            forgettings.cleared(tx, noted)
        if is_obeyed:
            obey(world.database, name)

        # When its time has not come, then it stays, and when it has, it goes
        grow_old(world.database, before)
        assert clearing.close(world.database, world.storage) == 0
        grow_old(world.database, after)
        assert clearing.close(world.database, world.storage) == 1


def test_a_picture_that_was_stored_while_its_person_was_erased_goes_in_the_end(world: World) -> None:
    # Given a worker that has claimed somebody's unit and is about to store a picture of it
    add_job(world.database, [person("ada-quill", [1], world.settings)])
    with world.database.transaction() as tx:
        tx.execute(update(Unit).values(lease_token=1, lease_owner="w", state="leased", lease_until=epoch_now() + 60))
        render = tx.execute(select(Render)).one()

    # When the person is forgotten, and only then the picture comes
    told = privacy.forget("ada-quill", settings=world.settings)
    late = f"{TENANT}/{render.job_id}/{render.id}/1.png"
    world.storage.put(late, b"a picture of somebody", content_type="image/png")
    assert told.removed == 1 and world.storage.exists(late)

    # Then it goes when nothing can come after it any more
    assert clearing.close(world.database, world.storage) == 0
    grow_old(world.database, forgettings.LATE_SECONDS + 1)
    assert clearing.close(world.database, world.storage) == 1
    assert not world.storage.exists(late) and list(world.storage.list(f"{TENANT}/")) == []


def test_what_is_sent_under_an_address_that_was_given_out_before_goes_in_the_end(
    people: PrivacyWorld, world: World
) -> None:
    # Given somebody who was forgotten, and somebody else who holds an address for sending that photo to an S3 store
    direct = people.settings.model_copy(update={"storage_url": "s3://bucket/there", "url_expires_seconds": 7_200})
    privacy.forget(PEOPLE[0], settings=people.settings)
    sha256 = hashlib.sha256(people.photo(PEOPLE[0], TENANT).read_bytes()).hexdigest()
    again = upload_key(TENANT, sha256)

    # When the photo is sent again shortly before that address expires
    grow_old(world.database, 7_100.0)
    retention.turn(world.database, world.storage, direct)
    world.storage.put(again, b"the face", content_type="image/png")
    assert rows(world.database) != []

    # Then it goes with the last look, which comes when the address leads nowhere any more
    grow_old(world.database, forgettings.LATE_SECONDS + 101)
    retention.turn(world.database, world.storage, direct)
    assert not world.storage.exists(again) and rows(world.database) == []


def test_an_object_that_the_store_refuses_keeps_nothing_else_from_going(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given two erasures, and a store that refuses for good to let go of an object of the first
    keys = [f"{TENANT}/photos/{number}.jpg" for number in "12"]
    with world.database.transaction() as tx:
        for key in keys:
            world.storage.put(key, b"a face", content_type="image/jpeg")
            forgettings.add(tx, TENANT, weight_sets=[], keys=[key])
    purge = world.storage.purge

    def refuse(key: str) -> None:
        if key == keys[0]:
            raise ObjectDenied(f"{key} is locked")
        purge(key)

    monkeypatch.setattr(world.storage, "purge", refuse)

    # When they are cleared, then the refusal is told, and the other one has gone all the same
    with pytest.raises(ObjectDenied, match="locked"):
        clearing.clear(world.database, world.storage)
    assert [key for key in keys if world.storage.exists(key)] == keys[:1]

    # And the clerk's turn goes on to whoever is due to be erased
    begun: list[bool] = []
    monkeypatch.setattr(retention, "_sweep", lambda *_args, **_terms: begun.append(True) or True)
    retention.turn(world.database, world.storage, world.settings)
    assert begun == [True]

    # When the store lets go of it, then it goes
    monkeypatch.undo()
    assert clearing.clear(world.database, world.storage) == 1
    assert not any(map(world.storage.exists, keys))


@pytest.mark.parametrize(
    ("url", "is_direct", "seconds"),
    [("s3://bucket/there", True, 4_500.0), ("s3://bucket/there", False, 900.0), ("file:///there", True, 900.0)],
)
def test_only_addresses_of_a_store_are_waited_for(world: World, url: str, is_direct: bool, seconds: float) -> None:
    changes = {"storage_url": url, "serve_direct": is_direct, "url_expires_seconds": 3_600}
    assert clearing.late_seconds(world.settings.model_copy(update=changes)) == seconds


def test_a_tenant_that_came_back_keeps_what_is_new(people: PrivacyWorld, world: World) -> None:
    # Given a tenant that was forgotten, and that enqueued and drew anew before its erasure was done with
    privacy.forget_tenant(TENANT, settings=people.settings)
    job = people.enqueue(TENANT, "anew", only=PEOPLE[:1])
    people.draw()
    before = sorted(world.storage.list(f"{TENANT}/"))
    assert before and world.job(job)["done"] == 2

    # When the erasure is done with, then nothing of the new is gone
    grow_old(world.database, forgettings.LATE_SECONDS + 1)
    assert clearing.close(world.database, world.storage) > 0
    assert sorted(world.storage.list(f"{TENANT}/")) == before


@pytest.mark.parametrize("whom", [PEOPLE[0], "by id"])
def test_somebody_is_known_by_id_too(people: PrivacyWorld, world: World, whom: str) -> None:
    # Given a person's external id, or its id
    with world.database.reading() as tx:
        mine = (Identity.tenant_id == TENANT, Identity.external_id == PEOPLE[0])
        identity = tx.execute(select(Identity.id).where(*mine)).scalar_one()

    # When it is forgotten by that, then it is gone
    told = privacy.forget(identity if whom == "by id" else whom, settings=people.settings)
    assert left_of(people, told.receipt, PEOPLE[0]) == []

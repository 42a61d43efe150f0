"""Registering people: once each, by many at a time."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import pytest
from queue_world import TENANT, person, settings
from sqlalchemy import func, select

from jobs.database import Database
from jobs.errors import JobsError
from jobs.models import Identity, Photo, PhotoSet, PhotoSetPhoto
from jobs.repository import people


def test_the_same_people_from_both_ends_at_once(database: Database, tmp_path: Path, database_url: str) -> None:
    # Given forty people, whom two producers name in opposite orders
    world = settings(tmp_path, database_url)
    rows = [person(f"p{n:02}", [1], world) for n in range(40)]
    failures: list[Exception] = []
    barrier = threading.Barrier(2)

    def register(order: int) -> None:
        barrier.wait()
        try:
            for start in range(0, 40, 8):
                chunk = rows[::order][start : start + 8]
                with database.transaction() as tx:
                    people.register(tx, TENANT, chunk)
        except JobsError as error:
            failures.append(error)

    # When both register them at the same time
    threads = [threading.Thread(target=register, args=(order,)) for order in (1, -1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    # Then neither met a deadlock, and each person, photo and set is there once
    assert failures == []
    with database.reading() as tx:
        counts = [
            tx.execute(select(func.count()).select_from(table)).scalar_one()
            for table in (Identity, Photo, PhotoSet, PhotoSetPhoto)
        ]
        assert counts == [40, 40, 40, 40]
        assert len(people.find(tx, TENANT, rows)) == 40


def test_consent_is_brought_up_to_date_and_never_wiped(database: Database, tmp_path: Path, database_url: str) -> None:
    # Given a person registered with a consent, again with another, and again without
    world = settings(tmp_path, database_url)
    plain = person("ada", [1], world)
    for consent in ("form 1", "form 2", None):
        told = type(plain)(**{**plain.__dict__, "consent_reference": consent})
        with database.transaction() as tx:
            people.register(tx, TENANT, [told])

    # Then the last word counts, and silence is none
    with database.reading() as tx:
        assert tx.execute(select(Identity.consent_reference)).scalars().all() == ["form 2"]


@pytest.mark.parametrize("order", [1, -1])
def test_sets_of_one_person_are_inserted_in_one_order(
    database: Database, tmp_path: Path, database_url: str, order: int
) -> None:
    """Two jobs may name the same sliders in opposite orders; inserted so, PostgreSQL would end one of both."""
    # Given a person with several sliders, named in either order
    plain = person("ada", [1], settings(tmp_path, database_url))
    sliders = [
        dataclasses.replace(plain, photos=(), photo_set_fingerprint=letter * 64, kind="slider", units=())
        for letter in "abcd"
    ]

    # When they are registered in one transaction
    with database.transaction() as tx:
        people.register(tx, TENANT, sliders[::order])

    # Then the rows came in the order of their fingerprints: ids count up as they are made
    with database.reading() as tx:
        inserted = tx.execute(select(PhotoSet.fingerprint).order_by(PhotoSet.id)).scalars().all()
    assert inserted == [letter * 64 for letter in "abcd"]

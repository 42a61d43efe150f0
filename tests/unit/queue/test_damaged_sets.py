"""A stored weight set that is not what was recorded is found by its checksum, and generated anew once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from queue_world import TENANT, World, add_job, person, settings
from sqlalchemy import select, update

from jobs.database import Database
from jobs.errors import StorageUnavailable
from jobs.models import Unit, WeightSet
from worker.testing import FakeRenderer

LONG = 60.0


@pytest.fixture
def world(database: Database, database_url: str, tmp_path: Path) -> World:
    """A person who was drawn once."""
    world = World(database, settings(tmp_path, database_url), FakeRenderer(batch_size=4))
    add_job(database, [person("ada", [1], world.settings)], key="first")
    world.shift()
    return world


def stored(world: World) -> list[str]:
    return [key for key in world.storage.list("") if key.endswith(".safetensors")]


def row(world: World) -> Any:
    with world.database.reading() as tx:
        return tx.execute(select(WeightSet.__table__)).one()


def fresh(world: World, name: str) -> World:
    """Another worker, with nothing in memory."""
    return World(world.database, world.settings, FakeRenderer(batch_size=4), name)


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda data: None,
    "empty": lambda data: b"",
    "truncated": lambda data: data[:-1],
    "wrong byte": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "another file": lambda data: b"<html>not found</html>",
}


def damage(world: World, how: str) -> str:
    """Damage the stored set; returns its key."""
    (key,) = stored(world)
    data = DAMAGES[how](world.storage.get(key))
    world.storage.delete(key)
    if data is not None:
        world.storage.put(key, data, content_type="application/octet-stream")
    return key


@pytest.mark.parametrize("how", DAMAGES)
def test_every_kind_of_damage_is_found_and_mended_once(world: World, how: str) -> None:
    # Given a stored set that was damaged
    key = damage(world, how)
    job = add_job(world.database, [person("ada", [1], world.settings)], key="second")

    # When another worker draws the person, and then a third
    second, third = fresh(world, "worker-2"), fresh(world, "worker-3")
    second.shift()
    add_job(world.database, [person("ada", [1], world.settings)], key="third")
    third.shift()

    # Then it was generated once more, by the second, and what was damaged is gone
    assert second.job(job)["state"] == "done"
    assert (second.renderer.calls["generate"], third.renderer.calls["generate"]) == (1, 0)
    assert row(world).generations == 2
    assert stored(world) == [row(world).storage_key] != [key]


def test_two_workers_that_find_it_at_once_generate_it_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a truncated set, and two workers that both have read it before either claims it
    damage(world, "truncated")
    both = threading.Barrier(2)
    workers = [fresh(world, f"worker-{n}") for n in (2, 3)]
    for worker in workers:
        _meet_after_reading(worker, both, monkeypatch)
    source = _source(world)

    # When both ask for it
    got: list[Any] = []
    threads = [
        threading.Thread(target=lambda w=worker: got.append(w.weight_sets.obtain(TENANT, source, lambda: True)))
        for worker in workers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)

    # Then one generated it and the other took it over
    assert sorted(one.source for one in got) == ["generated", "storage"]
    assert sum(worker.renderer.calls["generate"] for worker in workers) == 1
    assert row(world).generations == 2 and stored(world) == [row(world).storage_key]


def _meet_after_reading(worker: World, both: threading.Barrier, monkeypatch: pytest.MonkeyPatch) -> None:
    read, has_met = worker.weight_sets._read, []

    def meeting(found: Any) -> bytes:
        try:
            return read(found)
        finally:
            if not has_met:
                has_met.append(1)
                both.wait(LONG)

    monkeypatch.setattr(worker.weight_sets, "_read", meeting)


def _source(world: World) -> Any:
    with world.database.reading() as tx:
        photo_set = tx.execute(select(Unit.photo_set_id).limit(1)).scalar_one()
    return world.weight_sets.source(TENANT, photo_set)


def test_bytes_that_were_changed_on_the_way_are_read_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a set that arrives cut short once
    worker, got = fresh(world, "worker-2"), []
    real = worker.storage.get

    def get(key: str) -> bytes:
        data: bytes = real(key)
        if key.endswith(".safetensors"):
            got.append(key)
            return data[:5] if len(got) == 1 else data
        return data

    monkeypatch.setattr(worker.storage, "get", get)

    # When it is asked for, then it is there, read twice, and nothing was generated
    weights = worker.weight_sets.obtain(TENANT, _source(world), lambda: True)
    assert weights is not None and weights.source == "storage"
    assert len(got) == 2 and worker.renderer.calls["generate"] == 0


def test_a_store_that_is_away_is_not_damage(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a stored set in a store that does not answer
    worker = fresh(world, "worker-2")

    def away(key: str) -> bytes:
        raise StorageUnavailable("503")

    monkeypatch.setattr(worker.storage, "get", away)

    # When it is asked for, then the fault is the store's, and the set stays as it was
    with pytest.raises(StorageUnavailable):
        worker.weight_sets.obtain(TENANT, _source(world), lambda: True)
    assert (row(world).state, row(world).generations) == ("ready", 1) and len(stored(world)) == 1


def test_who_dies_while_mending_is_followed_by_the_next(world: World) -> None:
    # Given a damaged set whose mender claimed it and has not been heard of since
    damage(world, "wrong byte")
    with world.database.transaction() as tx:
        tx.execute(
            update(WeightSet).values(state="generating", lease_owner="dead", lease_token=2, lease_until=0.0, attempts=2)
        )

    # When another worker asks for it
    worker = fresh(world, "worker-2")
    weights = worker.weight_sets.obtain(TENANT, _source(world), lambda: True)

    # Then it is generated
    assert weights is not None and weights.source == "generated"
    assert (row(world).state, row(world).lease_token) == ("ready", 3)

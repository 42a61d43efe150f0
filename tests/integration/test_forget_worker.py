"""Real workers drop what they hold of somebody who is forgotten: from memory, also while they idle, and from disk."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from stacks import PHOTOS, ROOT, Stack, people_manifest

from jobs import enqueue, privacy
from jobs.models import Identity, Render, Unit
from jobs.models_fleet import Worker
from jobs.models_outside import Forgetting
from jobs.sweep import sweep
from worker.spool import ENDING, Spool

PATIENCE_SECONDS = 120.0
TELLING = {"app": "telling_worker", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'integration'}"}


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    return Stack(tmp_path / "home", {})


def until(stack: Stack, is_so: Callable[[], Any], what: str) -> Any:
    """Wait until something is so, which another process brings about."""
    pause, deadline = threading.Event(), time.monotonic() + PATIENCE_SECONDS
    while not (found := is_so()):
        assert time.monotonic() < deadline, f"{what}\n{stack.log()[-4000:]}"
        pause.wait(0.1)
    return found


def memory(stack: Stack) -> dict[str, Any]:
    """What the idle process holds."""
    file = stack.home / "memory.json"
    return json.loads(file.read_text()) if file.exists() else {"weight_sets": []}


def obeyed(stack: Stack) -> bool:
    """Whether the worker's row says that it has dropped everything."""
    with stack.database.reading() as tx:
        newest = tx.execute(select(func.max(Forgetting.at))).scalar_one()
        return bool(tx.execute(select(Worker.forgot_until)).scalar_one() == newest)


def put_aside(stack: Stack, name: str) -> str:
    """A file of this person's unit in the spool, as an earlier worker of this home may have left it."""
    with stack.database.reading() as tx:
        of_person = (Unit.identity_id == Identity.id, Identity.external_id == name)
        units = select(Unit.id, Render.id.label("render")).join(Render, Render.unit_id == Unit.id)
        row = tx.execute(units.where(*of_person)).first()
    assert row is not None
    spool = Spool.from_settings(stack.settings)
    spool.check()  # makes the folder
    file = f"{time.time_ns():020d}-{row.id}-1-{row.render}{ENDING}.damaged"
    (spool.folder / file).write_bytes(b"a picture of somebody")
    return file


def fingerprints(stack: Stack, name: str) -> set[str]:
    with stack.database.reading() as tx:
        drawn = select(Render.weight_set_fingerprint).join(Identity, Identity.id == Render.identity_id)
        return {one for one in tx.execute(drawn.where(Identity.external_id == name)).scalars() if one}


def test_an_idle_worker_drops_a_forgotten_person_from_memory_and_disk(stack: Stack) -> None:
    # Given a worker that has drawn everybody and idles, with their weight sets in memory, and a file of one on its disk
    enqueue(people_manifest(), settings=stack.settings, base=PHOTOS)
    with stack.worker(**TELLING):
        stack.wait(lambda status: status.job["waiting"] == 0)
        # it tells between two shifts too, when it has not drawn everybody
        until(stack, lambda: len(memory(stack)["weight_sets"]) == 3, "the process does not tell of three people")
        held = memory(stack)["weight_sets"]
        name = people_manifest()["identities"][0]["id"]
        hers = fingerprints(stack, name)
        assert hers and hers < set(held)
        file = put_aside(stack, name)

        # When that person is forgotten
        privacy.forget(name, settings=stack.settings)

        # Then soon the worker says that it has dropped everything, and it has: the others' sets are there, hers is not
        until(stack, lambda: obeyed(stack), "the worker does not obey")
        until(stack, lambda: not hers & set(memory(stack)["weight_sets"]), "the weight set is still in memory")
        now = memory(stack)
        assert set(now["weight_sets"]) == set(held) - hers and now["drawn"] == now["merged"] == 0
        until(stack, lambda: file not in Spool.from_settings(stack.settings).damaged(), "the file is still there")
        assert "files of erased people are removed" in stack.log()
    stack.database.dispose()


def test_somebody_who_is_forgotten_while_being_drawn_leaves_nothing_behind(stack: Stack) -> None:
    # Given a worker in the middle of a job
    enqueue(people_manifest(), settings=stack.settings, base=PHOTOS)
    with stack.worker(**TELLING, PORTRAITS_FAKE_STEP_SECONDS="0.2", PORTRAITS_LEASE_SECONDS="3"):
        with stack.database.reading() as tx:
            names = dict(tx.execute(select(Identity.id, Identity.external_id)).all())

        def held() -> Any:
            with stack.database.reading() as tx:
                return tx.execute(select(Unit.identity_id).where(Unit.state == "leased")).scalars().first()

        name = names[until(stack, held, "nothing is drawn")]

        # When the person in its hands is forgotten
        told = privacy.forget(name, settings=stack.settings)

        # Then the others are drawn, the worker says that it holds nothing of the person, and nothing is left anywhere
        stack.wait(lambda status: status.job["waiting"] == 0)
        until(stack, lambda: obeyed(stack), "the worker does not obey")
        sought = privacy.Sought.of(told.tenant, names=[name], receipt=told.receipt)

        def left() -> list[privacy.Remain]:
            return list(privacy.remains(sought, settings=stack.settings))

        until(stack, lambda: sweep(stack.settings, older_than_seconds=0).orphans == 0, "an object came late")
        until(stack, lambda: left() == [], f"something is left: {left()}")
    with stack.database.reading() as tx:
        assert name not in tx.execute(select(Identity.external_id)).scalars().all()
    stack.database.dispose()

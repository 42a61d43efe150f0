"""Workers of earlier versions, as real processes, on the schema of this one.

0.1.0 looks at the schema when it is started and refuses any that it does not know; one that runs while the schema is
upgraded goes on. 0.2.0 and later also start on a later schema.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from old_worker import Fleet
from PIL import Image
from sqlalchemy import func, select, text

from jobs import enqueue
from jobs.database import Database
from jobs.models import Candidate, Render, Unit

MOST_JOBS = 6


@pytest.fixture
def fleet(database_url: str, tmp_path: Path) -> Iterator[Fleet]:
    """An installation without a schema yet."""
    made = Fleet(tmp_path, database_url)
    yield made
    made.database.dispose()


def manifest(folder: Path, people: int, key: str) -> dict[str, Any]:
    """So many people with a photo each, two pictures of each."""
    for n in range(people):
        Image.new("RGB", (64, 64), (n, 90, 120)).save(folder / f"{n}.png")
    return {
        "key": key,
        "profile": "fake",
        "defaults": {"size": 64, "steps": 4},
        "prompts": [{"name": "a", "text": "portrait of {subject}"}, {"name": "b", "text": "{subject} in a garden"}],
        "identities": [{"id": f"p{n}", "subject": "a person", "photos": [f"{n}.png"]} for n in range(people)],
    }


def is_done(fleet: Fleet, key: str) -> bool:
    """No render of the job waits; as SQL, which holds for every schema."""
    waiting = text("SELECT count(*) FROM job_status WHERE key = :key AND state = 'done'")
    with fleet.database.reading() as tx:
        return bool(tx.execute(waiting, {"key": key}).scalar_one())


def require_every_render_once(database: Database, job_id: uuid.UUID, home: Path) -> set[str | None]:
    """Each render has one chosen picture, which lies in the store, and there are no others; returns who drew."""
    with database.reading() as tx:
        drawn = tx.execute(select(Render.id, Render.state, Render.storage_key, Render.worker)).all()
        mine = select(Render.id).where(Render.job_id == job_id)
        chosen = select(Candidate.render_id, func.count()).where(Candidate.render_id.in_(mine), Candidate.chosen)
        counted = tx.execute(chosen.group_by(Candidate.render_id)).all()
        attempts = tx.execute(select(Unit.attempts).where(Unit.job_id == job_id)).scalars().all()
        of_job = set(tx.execute(mine).scalars())
    ours = [row for row in drawn if row.id in of_job]
    assert {row.state for row in ours} == {"done"}
    assert sorted(row.render_id for row in counted) == sorted(of_job)
    assert {row[1] for row in counted} == {1}
    assert set(attempts) == {1}
    stored = {str(path.relative_to(home / "objects")) for path in (home / "objects").rglob("*.png")}
    assert {key for key in stored if str(job_id) in key} == {row.storage_key for row in ours}
    return {row.worker for row in ours}


def group_of(worker: str | None) -> int:
    """The process group of the running child that a render names as its worker: that of its Celery parent."""
    assert worker is not None
    return os.getpgid(int(worker.rsplit(":", 1)[1]))


def test_a_worker_of_0_1_0_goes_on_while_the_schema_is_upgraded_under_it(fleet: Fleet, tmp_path: Path) -> None:
    # Given a worker of 0.1.0 on its own schema, which has drawn a job that 0.1.0 enqueued
    fleet.database.upgrade("0001")
    with fleet.worker("0.1.0"):
        (tmp_path / "old.json").write_text(json.dumps(manifest(tmp_path, 1, "old")))
        told = fleet.run("0.1.0", "enqueue", "old.json")
        assert told.returncode == 0, told.stderr
        fleet.wait(lambda: is_done(fleet, "old"))

        # When the schema is upgraded under it, and a job comes from this version
        fleet.database.upgrade()
        job = enqueue(manifest(tmp_path, 3, "new"), settings=fleet.settings, base=tmp_path)

        # Then it draws and records every picture once
        fleet.wait(lambda: is_done(fleet, "new"))
        require_every_render_once(fleet.database, job.job_id, tmp_path)
    assert "Traceback" not in fleet.log("0.1.0")


def test_0_1_0_refuses_to_start_on_a_schema_that_it_does_not_know(fleet: Fleet) -> None:
    # Given the newest schema
    fleet.database.upgrade()
    newest = fleet.database.revisions()[1]
    # When a worker of 0.1.0 is started as its users are told to, then it says what it found and wanted
    told = fleet.run("0.1.0", "worker")
    assert told.returncode != 0
    assert f"is at schema {newest}, wanted 0001" in " ".join(told.stderr.split())


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_an_earlier_version_and_this_one_draw_one_job_side_by_side(fleet: Fleet, tmp_path: Path, version: str) -> None:
    # Given a worker of an earlier version, of 0.1.0 one that ran when the schema was upgraded, and one of this version
    fleet.database.upgrade("0001" if version == "0.1.0" else "head")
    with fleet.worker(version) as early:
        fleet.database.upgrade()
        with fleet.worker("now") as late:
            # When jobs come, until both have drawn of one (whoever is loaded first may draw the first alone)
            drew: set[int] = set()
            for number in range(MOST_JOBS):
                job = enqueue(manifest(tmp_path, 12, f"job-{number}"), settings=fleet.settings, base=tmp_path)
                fleet.wait(lambda key=job.key: is_done(fleet, key))  # type: ignore[misc]
                # Then no picture was drawn twice
                drew = {group_of(name) for name in require_every_render_once(fleet.database, job.job_id, tmp_path)}
                if len(drew) > 1:
                    break
            assert drew == {early.pid, late.pid}
    assert "Traceback" not in fleet.log(version) + fleet.log("now")

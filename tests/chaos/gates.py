"""What must be true when everything has come to rest, whatever was done to the workers meanwhile."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections import Counter
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, func, select, text
from stacks import Stack

from jobs.models import Candidate, Render, Unit, WeightSet
from jobs.storage import Storage, open_storage
from jobs.sweep import sweep

_PICTURE = re.compile(r"(?P<tenant>[^/]+)/(?P<job>[^/]+)/(?P<render>[0-9a-f-]{36})/(?P<token>\d+)[-.].*")


@dataclass(frozen=True)
class Counts:
    """What a gate found: renders, those without a result or a reason, second results, orphans before the sweep, lost
    leases, and weight sets with how often they were generated.
    """

    renders: int
    losses: int
    duplicates: int
    orphans: int
    lost_workers: int
    generations: dict[int, int]


def is_at_rest(stack: Stack) -> bool:
    """Whether nothing waits and nobody holds anything."""
    with stack.database.reading() as tx:
        open_units = tx.execute(select(func.count()).where(Unit.state.in_(("ready", "leased")))).scalar_one()
        waiting = tx.execute(select(func.count()).where(Render.state == "waiting")).scalar_one()
    return open_units == 0 and waiting == 0


def check(
    stack: Stack, *, renders: int, people: int, may_regenerate: int = 0, lost_makers: int | None = None
) -> Counts:
    """Hold a finished stack against every gate; returns what was counted. Raises AssertionError.

    `may_regenerate` is how many weight sets may have been made once more, as whoever made them was killed meanwhile;
    `lost_makers` how many workers may have been lost with one set in their hands, None where nobody can know.
    """
    storage = open_storage(stack.settings.storage_url, stack.settings)
    with stack.database.reading() as tx:
        rows = tx.execute(select(Render)).all()
        losses = [row for row in rows if row.state != "done"]
        assert len(rows) == renders
        assert not losses, [(row.state, row.error_code, row.error) for row in losses][:3]
        duplicates = _one_chosen_each(tx, {row.id: row.storage_key for row in rows})
        _units_hold(tx, stack)
        _counters_hold(tx)
        generations = _generations_hold(tx, people, may_regenerate)
        _makers_hold(tx, lost_makers)
        lost = tx.execute(select(func.sum(Unit.lost_workers))).scalar_one()
        orphans = _orphans_are_old(tx, storage, {row.storage_key for row in rows})
    _swept_is_named(stack, storage, rows)
    return Counts(len(rows), len(losses), duplicates, orphans, lost, generations)


def _one_chosen_each(tx: Connection, key_of: dict[uuid.UUID, str | None]) -> int:
    """Each render's row has one chosen candidate, the one it names. Returns how many more there are."""
    chosen = tx.execute(select(Candidate.render_id, Candidate.storage_key).where(Candidate.chosen)).all()
    counted = Counter(row.render_id for row in chosen)
    assert set(counted.values()) == {1}, counted.most_common(3)
    assert {row.render_id: row.storage_key for row in chosen} == key_of
    assert len(set(key_of.values())) == len(key_of)
    return counted.total() - len(counted)


def _units_hold(tx: Connection, stack: Stack) -> None:
    """Every unit is done, nobody holds it, it was tried within its cap, and it has no fault left."""
    for unit in tx.execute(select(Unit)).all():
        assert (unit.state, unit.lease_until, unit.error_code) == ("done", None, None), unit
        # 0: whoever put its pictures aside gave the attempt back, and they were recorded later
        assert 0 <= unit.attempts <= stack.settings.max_attempts
        assert unit.lost_workers < stack.settings.max_lost_workers


def _counters_hold(tx: Connection) -> None:
    """What units and the job's view count is what there is."""
    states = ("done", "failed", "cancelled")
    grouped = select(Render.unit_id, Render.state, func.count()).group_by(Render.unit_id, Render.state)
    found = {(unit, state): count for unit, state, count in tx.execute(grouped)}
    for unit in tx.execute(select(Unit)).all():
        counted = {state: found.get((unit.id, state), 0) for state in (*states, "waiting")}
        assert {state: getattr(unit, f"renders_{state}") for state in states} == {s: counted[s] for s in states}
        assert unit.renders_total == sum(counted.values())
    per_job = select(Render.job_id, func.count()).group_by(Render.job_id)
    recount = {job: count for job, count in tx.execute(per_job)}
    told = tx.execute(text("SELECT renders, done, waiting, running, failed, cancelled FROM job_status")).all()
    assert sorted(tuple(row) for row in told) == sorted((count, count, 0, 0, 0, 0) for count in recount.values())


def _generations_hold(tx: Connection, people: int, may_regenerate: int) -> dict[int, int]:
    """Each person's weight set is ready and was generated once. Returns how many sets were generated how often."""
    sets = tx.execute(select(WeightSet.state, WeightSet.generations)).all()
    assert [row.state for row in sets] == ["ready"] * people
    generations = Counter(row.generations for row in sets)
    extra = sum((times - 1) * count for times, count in generations.items())
    assert 0 <= extra <= may_regenerate, generations
    return dict(generations)


def _makers_hold(tx: Connection, lost_makers: int | None) -> None:
    """Nobody began to make a set that another worker had in hand: each was begun once, and once for each lost maker."""
    most = tx.execute(select(func.max(WeightSet.attempts))).scalar_one()
    assert lost_makers is None or 1 <= most <= 1 + lost_makers, f"a weight set was begun {most} times"


def _orphans_are_old(tx: Connection, storage: Storage, named: set[str | None]) -> int:
    """What no row names was stored under a claim that was lost. Returns how many such pictures there are."""
    tokens: dict[uuid.UUID, int] = {}
    joined = select(Render.id, Unit.lease_token).join(
        Unit, (Unit.tenant_id == Render.tenant_id) & (Unit.id == Render.unit_id)
    )
    tokens = {render: token for render, token in tx.execute(joined)}
    orphans = [found for key in storage.list("") if key not in named and (found := _PICTURE.fullmatch(key))]
    for orphan in orphans:
        assert int(orphan["token"]) < tokens[uuid.UUID(orphan["render"])], orphan[0]
    return len(orphans)


def _swept_is_named(stack: Stack, storage: Storage, rows: list[Row[Any]]) -> None:
    """After a sweep the store holds what the rows name, with the bytes that they tell of, and nothing else."""
    sweep(stack.settings, older_than_seconds=0, delete=True)
    with stack.database.reading() as tx:
        weights = set(tx.execute(select(WeightSet.storage_key)).scalars())
    keys = set(storage.list(""))
    assert {key for key in keys if _PICTURE.fullmatch(key)} == {row.storage_key for row in rows}
    assert {key for key in keys if "/weights/" in key} == weights
    for row in rows:
        assert hashlib.sha256(storage.get(row.storage_key)).hexdigest() == row.sha256

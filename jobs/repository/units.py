"""Leases on units: who may draw what, and until when.

A claim is one conditional UPDATE: it takes units that are ready, or whose lease has run out, and gives each a
token one higher than any before. Every later write names owner and token; a write that changes no row was fenced
out. Attempts are counted by the claim, before any work starts, so that a unit that kills its worker is noticed.

A lease that is found expired is a lost worker. A unit that lost one is suspected: it may be what ended its worker, so
it is claimed alone, by a worker that holds nothing else, and others neither pay for it nor are blamed with it twice.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Literal

from sqlalchemy import Connection, Row, Select, and_, case, func, or_, select, tuple_, update
from sqlalchemy.sql import ColumnElement

from jobs.database import epoch_now
from jobs.models import Render, Unit
from jobs.orm import utcnow
from jobs.repository import shares
from jobs.repository.control import fleet_paused_at, may_claim

Became = Literal["done", "failed", "cancelled", "taken back", "lost"]
"""How a unit that is no longer held has left: over, cancelled, taken back by a pause, or lost, as its lease ran out."""
MOST_LOST_WORKERS = 3
"""A unit that so many workers were lost with is claimed no more: see `jobs.repository.reaping`."""


@dataclass(frozen=True)
class ClaimedUnit:
    """A unit in this worker's hands, with the token that fences its writes.

    `waited_seconds` is for how long it had been due when it was claimed.
    """

    tenant_id: str
    id: uuid.UUID
    job_id: uuid.UUID
    identity_id: uuid.UUID
    photo_set_id: uuid.UUID
    profile: str
    attempts: int
    lease_token: int
    lost_workers: int = 0
    waited_seconds: float = field(default=0.0, compare=False)

    @property
    def is_suspected(self) -> bool:
        """Whether a worker was lost with it, so that it keeps no company."""
        return self.lost_workers > 0

    @property
    def group(self) -> tuple[str, uuid.UUID]:
        """What units must share to be drawn with one weight set."""
        return self.tenant_id, self.photo_set_id


_CLAIMED = (
    Unit.tenant_id,
    Unit.id,
    Unit.job_id,
    Unit.identity_id,
    Unit.photo_set_id,
    Unit.profile,
    Unit.attempts,
    Unit.lease_token,
    Unit.lost_workers,
    (epoch_now() - Unit.ready_at).label("waited_seconds"),
)


def ready(within_seconds: float = 0.0) -> ColumnElement[bool]:
    """Waiting, and due, or due so soon."""
    return and_(Unit.state == "ready", Unit.ready_at <= epoch_now() + within_seconds)


def expired() -> ColumnElement[bool]:
    """Leased by somebody whose lease has run out."""
    return and_(Unit.state == "leased", Unit.lease_until < epoch_now())


def _claimable(within_seconds: float = 0.0) -> ColumnElement[bool]:
    """What may be leased now, or so soon."""
    return or_(ready(within_seconds), expired())


@dataclass(frozen=True)
class Terms:
    """What every claim says: for how long, and which units are past claiming."""

    owner: str
    lease_seconds: float
    max_attempts: int
    max_lost_workers: int = MOST_LOST_WORKERS

    def may_be_tried(self) -> ColumnElement[bool]:
        """Not tried too often, and not with too many workers lost; one that is expired has lost another."""
        lost = Unit.lost_workers + case((Unit.state == "leased", 1), else_=0)
        return and_(Unit.attempts < self.max_attempts, lost < self.max_lost_workers)


def _choose(tx: Connection, wanted: Select[Any], terms: Terms) -> list[Row[Any]]:
    """Lock those of the selected units that may be leased, in their order; one that another claimer locks is passed
    over.
    """
    suspected = or_(Unit.lost_workers > 0, Unit.state == "leased").label("suspected")
    chosen = wanted.add_columns(suspected).where(_claimable(), terms.may_be_tried())
    return list(tx.execute(chosen.with_for_update(skip_locked=True)))


def _lease(tx: Connection, chosen: Sequence[Row[Any]], terms: Terms, *, in_turn: bool = False) -> list[ClaimedUnit]:
    """Lease these units of one profile, which are locked, and count them as their tenant's share."""
    if not chosen:
        return []
    statement = (
        update(Unit)
        .where(Unit.id.in_([row.id for row in chosen]), _claimable())
        .values(
            state="leased",
            lease_owner=terms.owner,
            lease_token=Unit.lease_token + 1,
            lease_until=epoch_now() + terms.lease_seconds,
            attempts=Unit.attempts + 1,
            lost_workers=Unit.lost_workers + case((Unit.state == "leased", 1), else_=0),
        )
        .returning(*_CLAIMED)
    )
    claimed = [ClaimedUnit(**row._mapping) for row in tx.execute(statement)]
    if claimed:
        shares.charge(tx, [(unit.tenant_id, unit.id) for unit in claimed], claimed[0].profile, in_turn=in_turn)
    return sorted(claimed, key=lambda unit: unit.id)


def _in_company(chosen: Sequence[Row[Any]], *, beside_others: bool) -> Sequence[Row[Any]]:
    """Those that may be leased together: a suspected one alone, and not at all beside others; nobody passes it."""
    if chosen and chosen[0].suspected:
        return [] if beside_others else chosen[:1]
    return list(takewhile(lambda row: not row.suspected, chosen))


def claim_unit(tx: Connection, unit_id: uuid.UUID, profile: str, owner: str, **limits: Any) -> list[ClaimedUnit]:
    """Lease the one unit a message names, if it still waits and no other tenant's turn comes before.

    So a tenant that sends many messages has no more of the workers than its share. `limits` are those of `Terms`; the
    worker holds nothing else.
    """
    if not may_claim(tx):
        return []
    named, terms = (Unit.id == unit_id, Unit.profile == profile), Terms(owner, **limits)
    tenant_id, first = tx.execute(select(Unit.tenant_id).where(*named)).scalar_one_or_none(), shares.due(tx, profile)
    if first and first[0] != tenant_id:
        return []
    return _lease(tx, _choose(tx, select(Unit.id).where(*named), terms), terms, in_turn=bool(first))


def claim_same_person(tx: Connection, unit: ClaimedUnit, owner: str, *, limit: int, **limits: Any) -> list[ClaimedUnit]:
    """Lease waiting units, of whichever job, that are drawn with the weight set `unit` needs, but for suspected ones.

    None where `unit` is itself suspected. `limits` are those of `Terms`.
    """
    if unit.is_suspected or limit < 1 or not may_claim(tx):
        return []
    same = (Unit.tenant_id == unit.tenant_id, Unit.photo_set_id == unit.photo_set_id, Unit.profile == unit.profile)
    wanted = select(Unit.id).where(*same, Unit.state == "ready", Unit.lost_workers == 0)
    terms = Terms(owner, **limits)
    return _lease(tx, _choose(tx, wanted.order_by(Unit.sort_key, Unit.id).limit(limit), terms), terms)


def claim_next(
    tx: Connection, profile: str, owner: str, *, limit: int, beside_others: bool = False, **limits: Any
) -> list[ClaimedUnit]:
    """Lease the first waiting units, in claim order, of the tenant whose turn it is; if none waits, one whose lease
    has run out.

    A suspected unit is leased alone; `beside_others`, when the worker holds others, none is, and nothing that would
    come after it: it is asked for again when the worker's hands are empty. `limits` are those of `Terms`.
    A statement for each, so that each walks an index in its order and stops: one with OR would sort all that waits.
    Nothing is leased while the fleet is paused.
    """
    if not may_claim(tx):
        return []
    terms = Terms(owner, **limits)
    for place, tenant_id in enumerate(shares.due(tx, profile)):
        chosen = _choose(tx, next_of(profile, tenant_id, limit), terms)
        if chosen:
            return _lease(tx, _in_company(chosen, beside_others=beside_others), terms, in_turn=place == 0)
    lost = _choose(tx, select(Unit.id).where(Unit.profile == profile, expired()).limit(limit), terms)
    return _lease(tx, _in_company(lost, beside_others=beside_others), terms)


def next_of(profile: str, tenant_id: str, limit: int) -> Select[Any]:
    """The ids of a tenant's first waiting units of a profile."""
    waiting = (Unit.profile == profile, Unit.tenant_id == tenant_id, ready())
    return select(Unit.id).where(*waiting).order_by(Unit.sort_key, Unit.id).limit(limit)


def _held(unit: ClaimedUnit, owner: str) -> ColumnElement[bool]:
    """The fence: this unit is still leased by this owner under this token."""
    return and_(
        Unit.tenant_id == unit.tenant_id,
        Unit.id == unit.id,
        Unit.state == "leased",
        Unit.lease_owner == owner,
        Unit.lease_token == unit.lease_token,
    )


def lock_held(tx: Connection, unit: ClaimedUnit, owner: str) -> bool:
    """Take the unit's row lock if it is still held; every writer locks the unit before its renders."""
    return tx.execute(select(Unit.id).where(_held(unit, owner)).with_for_update()).one_or_none() is not None


def open_renders(tx: Connection, unit: ClaimedUnit) -> int:
    """How many pictures of a unit are not over."""
    over = Unit.renders_done + Unit.renders_failed + Unit.renders_cancelled
    mine = (Unit.tenant_id == unit.tenant_id, Unit.id == unit.id)
    return tx.execute(select(Unit.renders_total - over).where(*mine)).scalar_one_or_none() or 0


def became(tx: Connection, unit: ClaimedUnit) -> Became:
    """How a unit has left that its worker held under this token; one that is gone, erased or archived, is over."""
    mine = (Unit.tenant_id == unit.tenant_id, Unit.id == unit.id)
    row = tx.execute(select(Unit.state, Unit.lost_workers).where(*mine)).one_or_none()
    if row is None:
        return "done"
    if row.lost_workers > unit.lost_workers:
        return "lost"
    found: dict[str, Became] = {"done": "done", "failed": "failed", "cancelled": "cancelled"}
    return found.get(row.state, "taken back")


def heartbeat(
    tx: Connection, owner: str, held: Mapping[uuid.UUID, int], *, lease_seconds: float
) -> dict[uuid.UUID, int]:
    """Prolong the leases `held` (unit to token); returns those that are still held.

    Named one by one: a lease that this process forgot, because an answer was lost or a step raised, must run out.
    """
    if not held:
        return {}
    statement = update(Unit).where(_still(owner, held)).values(lease_until=epoch_now() + lease_seconds)
    return {row.id: row.lease_token for row in tx.execute(statement.returning(Unit.id, Unit.lease_token))}


def still_held(tx: Connection, owner: str, held: Mapping[uuid.UUID, int]) -> dict[uuid.UUID, int]:
    """Those of these leases (unit to token) that are still held; none is prolonged."""
    if not held:
        return {}
    statement = select(Unit.id, Unit.lease_token).where(_still(owner, held))
    return {row.id: row.lease_token for row in tx.execute(statement)}


def _still(owner: str, held: Mapping[uuid.UUID, int]) -> ColumnElement[bool]:
    """Leased by this owner, under one of these tokens."""
    tokens = tuple_(Unit.id, Unit.lease_token).in_(list(held.items()))
    # The ids once more: for pairs alone SQLite reads the whole table.
    return and_(Unit.id.in_(list(held)), tokens, Unit.lease_owner == owner, Unit.state == "leased")


def count_drawn(tx: Connection, unit: ClaimedUnit, owner: str, *, done: int = 0, failed: int = 0) -> bool:
    """Add finished renders to a held unit and settle it when none waits; False when fenced out."""
    open_after = Unit.renders_total - Unit.renders_done - Unit.renders_failed - Unit.renders_cancelled - done - failed
    finished = open_after <= 0
    statement = (
        update(Unit)
        .where(_held(unit, owner))
        .values(
            renders_done=Unit.renders_done + done,
            renders_failed=Unit.renders_failed + failed,
            state=case((finished, case((Unit.renders_done + done > 0, "done"), else_="failed")), else_=Unit.state),
            finished_at=case((finished, utcnow()), else_=None),
            lease_until=case((finished, None), else_=Unit.lease_until),
            # A fault of an earlier try is forgotten when every picture came out in the end.
            error_code=case((and_(finished, Unit.renders_failed + failed == 0), None), else_=Unit.error_code),
            error=case((and_(finished, Unit.renders_failed + failed == 0), None), else_=Unit.error),
        )
    )
    return tx.execute(statement).rowcount == 1


def recount(tx: Connection, unit: ClaimedUnit, owner: str) -> bool:
    """Set a held unit's counters to what its renders say, and settle it when none waits; False when fenced out."""
    if not lock_held(tx, unit, owner):
        return False
    mine = (Render.tenant_id == unit.tenant_id, Render.unit_id == unit.id)
    found = {
        row.state: row.renders
        for row in tx.execute(select(Render.state, func.count().label("renders")).where(*mine).group_by(Render.state))
    }
    counters = {f"renders_{state}": found.get(state, 0) for state in ("done", "failed", "cancelled")}
    tx.execute(update(Unit).where(_held(unit, owner)).values(renders_total=sum(found.values()), **counters))
    return count_drawn(tx, unit, owner)


def note_fault(tx: Connection, unit: ClaimedUnit, owner: str, *, error_code: str, error: str) -> None:
    """Write the reason of one render's failure on its unit, where the person's status shows it."""
    tx.execute(update(Unit).where(_held(unit, owner)).values(error_code=error_code, error=error))


def release(
    tx: Connection,
    unit: ClaimedUnit,
    owner: str,
    *,
    after_seconds: float = 0.0,
    give_attempt_back: bool = False,
    error_code: str | None = None,
    error: str | None = None,
) -> bool:
    """Hand a held unit back: at once on a shut-down, or `after_seconds` later on a transient fault."""
    ready_at = epoch_now() + after_seconds
    statement = (
        update(Unit)
        .where(_held(unit, owner))
        .values(
            state="ready",
            lease_owner=None,
            lease_until=None,
            ready_at=ready_at,
            # The place in the queue is kept: sort_key is not moved by a fault that is not the unit's own.
            attempts=Unit.attempts - 1 if give_attempt_back else Unit.attempts,
            message_sent_at=None,
            error_code=error_code,
            error=error,
        )
    )
    released = tx.execute(statement).rowcount == 1
    if released and give_attempt_back:
        shares.give_back(tx, shares.charged(tx, [(unit.tenant_id, unit.id, unit.profile)]))
    return released


def fail(tx: Connection, unit: ClaimedUnit, owner: str, *, error_code: str, error: str) -> bool:
    """End a held unit: every render that still waits fails with this reason; False when fenced out."""
    if not lock_held(tx, unit, owner):
        return False
    note_fault(tx, unit, owner, error_code=error_code, error=error)
    failed = fail_waiting(tx, unit.tenant_id, unit.id, error_code=error_code, error=error)
    return count_drawn(tx, unit, owner, failed=failed)


def fail_waiting(tx: Connection, tenant_id: str, unit_id: uuid.UUID, *, error_code: str, error: str) -> int:
    """End the waiting renders of a locked unit with this reason. Returns how many there were."""
    statement = (
        update(Render)
        .where(Render.tenant_id == tenant_id, Render.unit_id == unit_id, Render.state == "waiting")
        .values(state="failed", error_code=error_code, error=error, finished_at=utcnow())
    )
    return tx.execute(statement).rowcount


def unsent(tx: Connection, *, resend_seconds: float, limit: int) -> list[uuid.UUID]:
    """Ready units whose message was never sent, or was sent so long ago that it may be lost."""
    stale = or_(Unit.message_sent_at.is_(None), Unit.message_sent_at < epoch_now() - resend_seconds)
    statement = (
        select(Unit.id)
        .where(Unit.state == "ready", Unit.ready_at <= epoch_now(), stale)
        # Never announced first, then the longest silent: an old backlog must not keep a new unit from its message.
        .order_by(Unit.message_sent_at.asc().nulls_first(), Unit.sort_key)
        .limit(limit)
    )
    return list(tx.execute(statement).scalars())


def first_ready(tx: Connection, tenant_id: str, job_id: uuid.UUID, *, limit: int) -> list[uuid.UUID]:
    """The units of a job that wait, those to be drawn first."""
    statement = select(Unit.id).where(Unit.tenant_id == tenant_id, Unit.job_id == job_id, Unit.state == "ready")
    return list(tx.execute(statement.order_by(Unit.sort_key, Unit.id).limit(limit)).scalars())


def mark_sent(tx: Connection, unit_ids: Sequence[uuid.UUID], tenant_id: str | None = None) -> None:
    """Note that the broker has taken the messages of these units: of one tenant, or, for the fleet's reaper, of any."""
    for start in range(0, len(unit_ids), 500):
        sent = Unit.id.in_(unit_ids[start : start + 500])
        mine = sent if tenant_id is None else and_(sent, Unit.tenant_id == tenant_id)
        tx.execute(update(Unit).where(mine).values(message_sent_at=epoch_now()))


def mark_unsent(tx: Connection, unit_id: uuid.UUID) -> None:
    """Let the message of a waiting unit be sent again soon."""
    tx.execute(update(Unit).where(Unit.id == unit_id, Unit.state == "ready").values(message_sent_at=None))


def profile_to_draw(
    tx: Connection, unit_id: uuid.UUID, profiles: Sequence[str], *, within_seconds: float = 0.0
) -> str | None:
    """The profile of a unit that could be claimed now; if it could not, the profile of the first unit that could.

    So a message that comes late or twice still wakes the worker for whatever waits. `profiles` are those that the
    worker knows, the one it holds first. What is due `within_seconds` counts too. None when nothing waits for them, or
    the fleet is paused.
    """
    claimable = _claimable(within_seconds)
    if fleet_paused_at(tx) is not None:
        return None
    known = and_(Unit.profile.in_(profiles), claimable)
    found = tx.execute(select(Unit.profile).where(Unit.id == unit_id, known)).scalar_one_or_none()
    if found is not None or not profiles:
        return found
    for profile in profiles:
        first = select(Unit.profile).where(Unit.profile == profile, claimable).limit(1)
        found = tx.execute(first).scalar_one_or_none()
        if found is not None:
            return found
    return None

"""Pictures that come late: drawn under a lease, kept on a worker's disk, recorded when store and database answer.

The token decides, as for every other write. As long as nobody has claimed the unit anew, its token is the one that the
picture was drawn under, and the picture counts, whether the lease still runs, has run out, or was handed back, and even
where its job was paused since. With a higher token somebody else draws the unit, and the late picture is nobody's.
"""

from __future__ import annotations

import uuid
from typing import Literal

from sqlalchemy import Connection, and_, literal, null, select, update
from sqlalchemy.sql import ColumnElement

from jobs.database import epoch_now
from jobs.models import ARCHIVED_RENDERS, Render, Unit
from jobs.repository import units
from jobs.repository.units import ClaimedUnit

Standing = Literal["wanted", "held", "recorded", "too late"]
FREE = ("ready", "paused")
"""The states of a unit that nobody holds and whose renders wait."""
TAKEN_BACK_SECONDS = 60.0  # it is given back in the same transaction
PUT_ASIDE = "put_aside"
"""The code of a unit that waits because pictures of it wait on a worker's disk."""


def standing(tx: Connection, unit: ClaimedUnit, owner: str, render_id: uuid.UUID, key: str) -> Standing:
    """Whether the render still waits for what was drawn under this token, or its row names this object already.

    `held`: it waits, but its unit is neither free nor this owner's, so nothing can be recorded now.
    """
    statement = (
        select(Render.state, Render.storage_key, Unit.lease_token, Unit.lease_owner, Unit.state.label("unit_state"))
        .join(Unit, and_(Unit.tenant_id == Render.tenant_id, Unit.id == Render.unit_id))
        .where(Render.tenant_id == unit.tenant_id, Render.id == render_id, Render.unit_id == unit.id)
    )
    kept = ARCHIVED_RENDERS.c
    archived = select(kept.state, kept.storage_key, literal(-1), null(), literal("archived")).where(
        kept.tenant_id == unit.tenant_id, kept.id == render_id, kept.unit_id == unit.id
    )
    # One statement, so one moment: a row that moves into the archive is found in one of them.
    row = tx.execute(statement.union_all(archived)).one_or_none()
    if row is None:
        return "too late"  # its person was erased
    if row.storage_key == key:
        return "recorded"
    if row.state != "waiting" or row.lease_token != unit.lease_token:
        return "too late"
    is_ours = row.unit_state == "leased" and row.lease_owner == owner
    return "wanted" if is_ours or row.unit_state in FREE else "held"


def take_back(tx: Connection, unit: ClaimedUnit, owner: str) -> str | None:
    """Lease a unit again, under the same token, that was handed back and that nobody has claimed since. Returns the
    state that it was in; None where it was not free.

    Only to record a picture in this transaction: see `give_back`. No attempt is counted, as nothing is tried.
    """
    was = tx.execute(select(Unit.state).where(_waits(unit)).with_for_update()).scalar_one_or_none()
    if was is not None:
        taken = {"state": "leased", "lease_owner": owner, "lease_until": epoch_now() + TAKEN_BACK_SECONDS}
        tx.execute(update(Unit).where(_waits(unit)).values(**taken))
    return was


def give_back(tx: Connection, unit: ClaimedUnit, owner: str, *, to: str) -> None:
    """Put a unit that was taken back into the state that it was in, unless its last picture has settled it."""
    held = and_(Unit.state == "leased", Unit.lease_owner == owner, Unit.lease_token == unit.lease_token)
    tx.execute(
        update(Unit)
        .where(Unit.tenant_id == unit.tenant_id, Unit.id == unit.id, held)
        .values(state=to, lease_owner=None, lease_until=None)
    )


def put_off(tx: Connection, unit: ClaimedUnit, owner: str, *, after_seconds: float) -> bool:
    """Hand a held unit back of which pictures are put aside: others leave it alone until these are recorded, or for so
    long. No attempt is counted.
    """
    message = "finished pictures of it wait on its worker's disk until store and database answer"
    terms = {"give_attempt_back": True, "error_code": PUT_ASIDE, "error": message}
    return units.release(tx, unit, owner, after_seconds=after_seconds, **terms)  # type: ignore[arg-type]


def free(tx: Connection, unit: ClaimedUnit) -> bool:
    """Let others claim at once a unit that was put off until its late pictures are recorded: they are."""
    # Its lock first: the worker may be putting it off in this moment.
    tx.execute(select(Unit.id).where(Unit.tenant_id == unit.tenant_id, Unit.id == unit.id).with_for_update())
    statement = (
        update(Unit)
        .where(_waits(unit), Unit.ready_at > epoch_now(), Unit.error_code == PUT_ASIDE)
        .values(ready_at=epoch_now(), message_sent_at=None, error_code=None, error=None)
    )
    return tx.execute(statement).rowcount == 1


def _waits(unit: ClaimedUnit) -> ColumnElement[bool]:
    """Handed back, paused or not, and not claimed since."""
    return and_(
        Unit.tenant_id == unit.tenant_id,
        Unit.id == unit.id,
        Unit.state.in_(FREE),
        Unit.lease_token == unit.lease_token,
    )

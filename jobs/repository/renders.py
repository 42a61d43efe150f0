"""The pictures of held units: what is to be drawn, and what became of it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select, update

from jobs.models import Candidate, Render, new_id, utcnow
from jobs.repository import units
from jobs.repository.units import ClaimedUnit


@dataclass(frozen=True)
class WaitingRender:
    """One picture to draw, as it was asked for."""

    unit: ClaimedUnit
    id: uuid.UUID
    ordinal: int
    prompt_name: str
    prompt: str
    negative_prompt: str
    seed: int
    width: int
    height: int
    steps: int
    guidance: float
    scheduler: str
    lora_weight: float


@dataclass(frozen=True)
class Drawn:
    """What a worker records of one finished picture; times in seconds."""

    storage_key: str
    media_type: str
    size_bytes: int
    sha256: str
    final_prompt: str
    id_similarity: float | None
    id_similarity_reason: str | None
    recogniser: str
    model_fingerprint: str
    weight_set_fingerprint: str
    device: str
    worker: str
    batch_size: int
    seconds_weights: float
    seconds_merge: float
    seconds_denoise: float
    seconds_decode: float
    seconds_encode: float
    seconds_upload: float


_ASKED = (
    Render.id,
    Render.ordinal,
    Render.prompt_name,
    Render.prompt,
    Render.negative_prompt,
    Render.seed,
    Render.width,
    Render.height,
    Render.steps,
    Render.guidance,
    Render.scheduler,
    Render.lora_weight,
)


def waiting(tx: Connection, held: Sequence[ClaimedUnit]) -> list[WaitingRender]:
    """The renders of these units that are still to be drawn, in the order they were asked for."""
    found: list[WaitingRender] = []
    for unit in held:
        statement = (
            select(*_ASKED)
            .where(Render.tenant_id == unit.tenant_id, Render.unit_id == unit.id, Render.state == "waiting")
            .order_by(Render.ordinal)
        )
        found += [WaitingRender(unit=unit, **row._mapping) for row in tx.execute(statement)]
    return found


def complete(tx: Connection, render: WaitingRender, owner: str, drawn: Drawn) -> bool:
    """Record a picture that is already stored; False when another worker has taken the unit meanwhile.

    Saying it twice under one lease is harmless, so a caller may try again when a commit's answer was lost.
    """
    values = {name: getattr(drawn, name) for name in Drawn.__dataclass_fields__}
    if not units.lock_held(tx, render.unit, owner) or not _settle(tx, render, state="done", **values):
        return _names(tx, render, drawn.storage_key)
    tx.execute(
        insert(Candidate).values(
            tenant_id=render.unit.tenant_id,
            id=new_id(),
            render_id=render.id,
            lease_token=render.unit.lease_token,
            seed=render.seed,
            storage_key=drawn.storage_key,
            sha256=drawn.sha256,
            size_bytes=drawn.size_bytes,
            id_similarity=drawn.id_similarity,
            chosen=True,
            created_at=utcnow(),
        )
    )
    return units.count_drawn(tx, render.unit, owner, done=1)


def fail(tx: Connection, render: WaitingRender, owner: str, *, error_code: str, error: str) -> bool:
    """Record why a picture could not be drawn; False when fenced out or settled before."""
    if not units.lock_held(tx, render.unit, owner):
        return False
    if not _settle(tx, render, state="failed", error_code=error_code, error=error):
        return False
    units.note_fault(tx, render.unit, owner, error_code=error_code, error=error)
    return units.count_drawn(tx, render.unit, owner, failed=1)


def _settle(tx: Connection, render: WaitingRender, **values: Any) -> bool:
    """End a waiting render; False when it does not wait any more."""
    statement = (
        update(Render)
        .where(Render.tenant_id == render.unit.tenant_id, Render.id == render.id, Render.state == "waiting")
        .values(finished_at=utcnow(), **values)
    )
    return tx.execute(statement).rowcount == 1


def _names(tx: Connection, render: WaitingRender, key: str) -> bool:
    """Whether the render's row already names this object."""
    statement = select(Render.storage_key).where(Render.tenant_id == render.unit.tenant_id, Render.id == render.id)
    return tx.execute(statement).scalar_one_or_none() == key

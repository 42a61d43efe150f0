"""The pictures of held units: what is to be drawn, and what became of it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select, update

from jobs.errors import OptionsInvalid
from jobs.models import Candidate, Output, Render
from jobs.options import ORDINARY, RenderOptions
from jobs.orm import new_id, utcnow
from jobs.repository import units
from jobs.repository.units import ClaimedUnit


@dataclass(frozen=True)
class WaitingRender:
    """One picture to draw, as it was asked for.

    `fault` is there when its options cannot be used by this version; `options` are then the ordinary ones, and nothing
    may be drawn with them.
    """

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
    options: RenderOptions = ORDINARY
    fault: OptionsInvalid | None = None


@dataclass(frozen=True)
class Drawn:
    """What a worker records of one finished picture; times in seconds.

    `drawn_seed` is the seed it was kept under, None for the one that was asked for; `draws` counts the seeds tried.
    """

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
    drawn_seed: int | None = None
    draws: int = 1
    output_width: int | None = None
    output_height: int | None = None
    seconds_detail: float | None = None
    seconds_finish: float | None = None
    detail_faces: int | None = None


@dataclass(frozen=True)
class CandidateRow:
    """A stored picture that was drawn for a render and not chosen."""

    seed: int
    storage_key: str
    sha256: str
    size_bytes: int
    id_similarity: float | None


@dataclass(frozen=True)
class OutputRow:
    """A further file made of a finished picture; width and height in pixels."""

    name: str
    storage_key: str
    media_type: str
    width: int
    height: int
    size_bytes: int
    sha256: str


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
    Render.options,
)


def waiting(tx: Connection, held: Sequence[ClaimedUnit]) -> list[WaitingRender]:
    """The renders of these units that are still to be drawn, in the order they were asked for.

    A render that asks for what this version does not know comes with its fault, so that the others can be drawn.
    """
    found: list[WaitingRender] = []
    for unit in held:
        statement = (
            select(*_ASKED)
            .where(Render.tenant_id == unit.tenant_id, Render.unit_id == unit.id, Render.state == "waiting")
            .order_by(Render.ordinal)
        )
        for row in tx.execute(statement):
            asked = dict(row._mapping)
            options, fault = _options(asked.pop("options"))
            found.append(WaitingRender(unit=unit, options=options, fault=fault, **asked))
    return found


def _options(raw: dict[str, Any] | None) -> tuple[RenderOptions, OptionsInvalid | None]:
    try:
        return RenderOptions.load(raw), None
    except OptionsInvalid as error:
        return ORDINARY, error


def complete(
    tx: Connection,
    render: WaitingRender,
    owner: str,
    drawn: Drawn,
    *,
    others: Sequence[CandidateRow] = (),
    outputs: Sequence[OutputRow] = (),
) -> bool:
    """Record a picture that is already stored; False when another worker has taken the unit meanwhile.

    `others` are the stored pictures of other seeds that were not chosen, `outputs` the further files made of this one.
    Saying it twice under one lease is harmless, so a caller may try again when a commit's answer was lost.
    """
    values = {name: getattr(drawn, name) for name in Drawn.__dataclass_fields__}
    seed = render.seed if drawn.drawn_seed is None else drawn.drawn_seed
    if not units.lock_held(tx, render.unit, owner) or not _settle(
        tx, render, state="done", **{**values, "drawn_seed": seed}
    ):
        return _names(tx, render, drawn.storage_key)
    chosen = CandidateRow(seed, drawn.storage_key, drawn.sha256, drawn.size_bytes, drawn.id_similarity)
    own = {"tenant_id": render.unit.tenant_id, "render_id": render.id, "created_at": utcnow()}
    rows = [
        {**own, **vars(one), "id": new_id(), "lease_token": render.unit.lease_token, "chosen": one is chosen}
        for one in (chosen, *others)
    ]
    tx.execute(insert(Candidate), rows)
    if outputs:
        tx.execute(insert(Output), [{**own, **vars(one), "id": new_id()} for one in outputs])
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

"""A finished picture that waits on this disk: what its rows and objects need, as one self-contained file.

The first line tells the format, the length of the JSON after it and its SHA-256; then the bytes of each object, in the
order of the JSON. Whatever is read back is taken for hostile: lengths and hashes must be right, and the keys must be
those that this very lease would have written, so that a file can neither reach nor overwrite anything else.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from jobs.errors import BadKey
from jobs.repository.renders import CandidateRow, Drawn, OutputRow, WaitingRender
from jobs.repository.units import ClaimedUnit
from jobs.storage import check_key
from worker.errors import SpoolDamaged

MAX_HEAD_BYTES = 1024 * 1024
_MAGIC = re.compile(rb"portraits-spool 1 (\d{1,7}) ([0-9a-f]{64})\n")
_MAX_MAGIC_BYTES = 128


@dataclass(frozen=True)
class SpooledObject:
    """An object that is to lie in the store before the row names it."""

    key: str
    media_type: str
    data: bytes


class _ObjectHead(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    key: str
    media_type: Annotated[str, Field(pattern=r"^image/[a-z0-9.+-]{1,50}$")]
    size_bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Head(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    owner: Annotated[str, Field(max_length=100)]
    unit: ClaimedUnit
    render_id: uuid.UUID
    seed: int
    drawn: Drawn
    others: list[CandidateRow]
    outputs: list[OutputRow]
    objects: list[_ObjectHead]


@dataclass(frozen=True)
class Spooled:
    """A picture as it was drawn under a lease: `owner` and the unit's token fence it, as they do at once.

    `others` are candidates that were not chosen, `outputs` further forms; `objects` all bytes that are not known to
    lie in the store.
    """

    owner: str
    unit: ClaimedUnit
    render_id: uuid.UUID
    seed: int
    drawn: Drawn
    others: tuple[CandidateRow, ...]
    outputs: tuple[OutputRow, ...]
    objects: tuple[SpooledObject, ...]

    @property
    def render(self) -> WaitingRender:
        """As much of the render as settling its row needs."""
        blank = {"prompt_name": "", "prompt": "", "negative_prompt": "", "scheduler": ""}
        numbers = {"ordinal": 0, "width": 0, "height": 0, "steps": 0, "guidance": 0.0, "lora_weight": 0.0}
        return WaitingRender(unit=self.unit, id=self.render_id, seed=self.seed, **blank, **numbers)  # type: ignore[arg-type]

    @property
    def keys(self) -> set[str]:
        """Every object that its rows name."""
        rows: list[CandidateRow | OutputRow] = [*self.others, *self.outputs]
        return {self.drawn.storage_key, *(row.storage_key for row in rows)}

    def dump(self) -> bytes:
        """The file's bytes."""
        head = _Head(
            owner=self.owner,
            unit=self.unit,
            render_id=self.render_id,
            seed=self.seed,
            drawn=self.drawn,
            others=list(self.others),
            outputs=list(self.outputs),
            objects=[
                _ObjectHead(key=one.key, media_type=one.media_type, size_bytes=len(one.data), sha256=_digest(one.data))
                for one in self.objects
            ],
        )
        told = head.model_dump_json().encode()
        first = f"portraits-spool 1 {len(told)} {_digest(told)}\n".encode()
        return b"".join([first, told, *(one.data for one in self.objects)])

    @classmethod
    def load(cls, data: bytes) -> Spooled:
        """Read it back. Raises SpoolDamaged, which says what is wrong and not what was found."""
        head, rest = _head_of(data)
        objects = []
        for one in head.objects:
            part, rest = rest[: one.size_bytes], rest[one.size_bytes :]
            if len(part) != one.size_bytes or _digest(part) != one.sha256:
                raise SpoolDamaged("an object in it is cut short or not what was written")
            objects.append(SpooledObject(one.key, one.media_type, bytes(part)))
        if rest:
            raise SpoolDamaged(f"{len(rest)} bytes too many stand at its end")
        _check_keys(head)
        parts = {name: getattr(head, name) for name in ("owner", "unit", "render_id", "seed", "drawn")}
        return cls(**parts, others=tuple(head.others), outputs=tuple(head.outputs), objects=tuple(objects))


def folder_of(unit: ClaimedUnit, render_id: uuid.UUID) -> str:
    """Where a render's objects lie; their names begin with the lease's token."""
    return f"{unit.tenant_id}/{unit.job_id}/{render_id}"


def _head_of(data: bytes) -> tuple[_Head, memoryview]:
    found = _MAGIC.match(data[:_MAX_MAGIC_BYTES])
    if found is None:
        raise SpoolDamaged("it does not begin as a spooled picture of this version")
    length, view = int(found[1]), memoryview(data)[found.end() :]
    told = bytes(view[:length])
    if length > MAX_HEAD_BYTES or len(told) != length or _digest(told) != found[2].decode():
        raise SpoolDamaged("what it tells of itself is cut short or not what was written")
    try:
        return _Head.model_validate_json(told), view[length:]
    except (ValidationError, RecursionError) as error:
        raise SpoolDamaged(f"what it tells of itself cannot be used ({type(error).__name__})") from error


def _check_keys(head: _Head) -> None:
    """Every key is one that this lease writes, and the rows tell the same of an object as the object itself."""
    prefix = f"{folder_of(head.unit, head.render_id)}/"
    own = re.compile(rf"{head.unit.lease_token}[-.][^/]+")
    rows: list[Drawn | CandidateRow | OutputRow] = [head.drawn, *head.others, *head.outputs]
    for key in [row.storage_key for row in rows] + [one.key for one in head.objects]:
        try:
            check_key(key)
        except BadKey as error:
            raise SpoolDamaged("it names an object outside the store") from error
        if not key.startswith(prefix) or not own.fullmatch(key.removeprefix(prefix)):
            raise SpoolDamaged("it names an object of another render")
    told = {row.storage_key: (row.size_bytes, row.sha256) for row in rows}
    for one in head.objects:
        if told.get(one.key) != (one.size_bytes, one.sha256):
            raise SpoolDamaged("its rows and its objects differ")
    missing = {head.drawn.storage_key, *(row.storage_key for row in head.outputs)} - {one.key for one in head.objects}
    if missing or len(told) != len(rows):
        raise SpoolDamaged("an object that its rows name is not in it")


def _digest(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()

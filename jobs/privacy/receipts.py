"""The receipt of an erasure: under which ids and names somebody was known, for whoever verifies that nothing is left.

It is the one file that still tells of the person: it lies where its operator wants it, and nowhere else.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from jobs.errors import ReceiptInvalid
from jobs.repository.erasure import Erased

MAX_BYTES = 512 * 1024**2
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Receipt(BaseModel):
    """Everything that named a person, or everybody of a tenant."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    version: Annotated[int, Field(ge=1, le=1)] = 1
    tenant: Annotated[str, Field(max_length=64)]
    names: list[Annotated[str, Field(max_length=200)]] = []
    ids: list[uuid.UUID] = []
    photos: list[Hash] = []
    weight_sets: list[Hash] = []
    keys: list[Annotated[str, Field(max_length=1024)]] = []

    @classmethod
    def load(cls, path: Path) -> Receipt:
        """Read it back. Raises ReceiptInvalid, which does not repeat what stands in it."""
        try:
            if path.stat().st_size > MAX_BYTES:
                raise ReceiptInvalid(f"{path} has more than {MAX_BYTES} bytes; wanted what --receipt wrote")
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise ReceiptInvalid(f"{path} cannot be read: {error.strerror}") from error
        except (ValidationError, RecursionError) as error:
            count = error.error_count() if isinstance(error, ValidationError) else 1
            raise ReceiptInvalid(f"{path} is no receipt of this version ({count} faults)") from None


class ReceiptFile:
    """Where a receipt is written to: a new file, readable by this user alone, made before anything is erased.

    It is written as soon as the rows are gone, before the objects: whatever breaks off then, the receipt is there. A
    block that ends without one removes the file.
    """

    def __init__(self, path: Path | None) -> None:
        self._path, self._is_written = path, False

    def __enter__(self) -> ReceiptFile:
        if self._path is not None:
            with _told(self._path):
                os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        return self

    def __exit__(self, *_: object) -> None:
        if self._path is not None and not self._is_written:
            self._path.unlink(missing_ok=True)

    def write(self, receipt: Receipt) -> None:
        """Write it as JSON. Raises ReceiptInvalid."""
        if self._path is None:
            return
        with _told(self._path), self._path.open("w") as file:
            json.dump(receipt.model_dump(mode="json"), file)
            file.write("\n")
            self._is_written = True


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ReceiptInvalid(f"the receipt cannot be written to {path}, a new file: {error.strerror}") from error


@dataclass
class Collected:
    """A receipt in the making: of one erasure, or of one after another."""

    tenant: str
    names: dict[str, None] = field(default_factory=dict)
    ids: dict[uuid.UUID, None] = field(default_factory=dict)
    photos: dict[str, None] = field(default_factory=dict)
    weight_sets: dict[str, None] = field(default_factory=dict)
    keys: dict[str, None] = field(default_factory=dict)

    def add(self, erased: Erased) -> None:
        """Note what went."""
        found = erased.traces
        self.names |= dict.fromkeys(found.people.values())
        self.ids |= dict.fromkeys((*found.people, *found.units, *found.renders, *found.weight_sets, *erased.jobs))
        self.photos |= dict.fromkeys(found.photos)
        self.weight_sets |= dict.fromkeys(found.fingerprints)
        self.keys |= dict.fromkeys(erased.keys)

    def receipt(self) -> Receipt:
        """The receipt of everything that was noted."""
        columns = ("names", "ids", "photos", "weight_sets", "keys")
        return Receipt(tenant=self.tenant, **{name: list(getattr(self, name)) for name in columns})

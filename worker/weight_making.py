"""Makes the weight sets whose rows this worker holds: photos from storage, one pass over the networks, into storage.

Each claimed set ends as ready, failed with its photos' fault, or given back after a fault that was not theirs.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hyperlora.errors import CheckpointMismatch, FaceError
from hyperlora.side_by_side import side_by_side
from jobs.database import Database
from jobs.errors import JobsError, ObjectExists, PhotoRefused
from jobs.repository import weight_sets
from jobs.repository.weight_sets import Source, WeightSetRow
from jobs.storage import Storage
from worker.errors import OutOfMemory, PeopleOutOfMemory, WeightSetDamaged
from worker.lessons import Lessons
from worker.renderer import GeneratedWeights, Order, Person, Renderer

log = logging.getLogger(__name__)
TOGETHER, MOST_TOGETHER = "people in one pass", 8
"""Weight sets in one pass; twice as many gain little, as every network is then busy with the photos of several."""


class WeightSetRefused(JobsError):
    """No weight set can be made from these photos."""

    retryable = False

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Weights:
    """A weight set ready to be merged, and how it was come by."""

    fingerprint: str
    loaded: Any
    reference_embedding: bytes
    seconds: float
    source: str  # memory, storage or generated


@dataclass(frozen=True)
class Recipe:
    """What a weight set is made from: one photo set of a person, or several with weights."""

    kind: str
    branch: str
    people: tuple[tuple[Source, float], ...]


@dataclass(frozen=True)
class Claimed:
    """A weight set that this worker holds the row of."""

    row: WeightSetRow
    recipe: Recipe


@dataclass(frozen=True)
class _Stored:
    """A generated set in storage under `key`, and loaded."""

    made: GeneratedWeights
    key: str
    loaded: Any


class Making:
    """Makes the weight sets of one worker for one profile; used by one thread at a time."""

    def __init__(self, database: Database, storage: Storage, renderer: Renderer, owner: str) -> None:
        self._database, self._storage, self._renderer, self._owner = database, storage, renderer, owner
        self._lessons = Lessons()

    @property
    def most_together(self) -> int:
        """How many go into one pass; fewer for a while when they did not fit."""
        return self._lessons.size(TOGETHER, MOST_TOGETHER)

    def make(self, claimed: Sequence[Claimed]) -> list[Weights | Exception]:
        """Each set, or why there is none: WeightSetRefused, PeopleOutOfMemory, StorageError, DatabaseUnavailable."""
        began = time.perf_counter()
        # 1. Everybody's photos, read side by side.
        orders = side_by_side(self._order, claimed)
        # 2. One pass over the networks.
        able = [order for order in orders if isinstance(order, Order)]
        answers = iter(self._generated(able))
        made = [next(answers) if isinstance(order, Order) else order for order in orders]
        # 3. Into storage, side by side.
        stored = side_by_side(self._stored, list(zip(claimed, made, strict=True)))
        # 4. Into the rows.
        share = (time.perf_counter() - began) / max(1, len(claimed))
        return [self._settled(each, found, share) for each, found in zip(claimed, stored, strict=True)]

    def _order(self, claimed: Claimed) -> Order | Exception:
        recipe, one = claimed.recipe, len(claimed.recipe.people) == 1
        try:
            people = [
                self._person(source, weight, "" if one else f"person {number}, ")
                for number, (source, weight) in enumerate(recipe.people, start=1)
            ]
        except Exception as error:  # noqa: BLE001 - it becomes the set's fault, whatever it was
            return error
        return Order(recipe.kind, people, recipe.branch)

    def _person(self, source: Source, weight: float, prefix: str) -> Person:
        return Person(
            photos=side_by_side(lambda photo: self._storage.get(photo.storage_key), source.photos),
            names=[f"{prefix}photo {photo.position + 1}" for photo in source.photos],
            faces=[photo.face for photo in source.photos],
            weight=weight,
        )

    def _generated(self, orders: Sequence[Order]) -> list[GeneratedWeights | Exception]:
        """What the renderer makes; those that do not fit together, or meet a fault together, in two halves."""
        if not orders:
            return []
        try:
            made = list(self._renderer.generate_many(orders))
            self._lessons.did_fit(TOGETHER, len(orders))
            return made
        except OutOfMemory as error:
            if len(orders) == 1:
                alone = PeopleOutOfMemory()
                alone.__cause__ = error
                return [alone]
            self._lessons.did_not_fit(TOGETHER, len(orders))
            log.warning("out of memory preparing %d people; going on with %d", len(orders), self.most_together)
        except Exception as error:  # noqa: BLE001 - the fault of one of them, whatever it was
            if len(orders) == 1:
                return [error]
            log.warning("%d people could not be prepared together: %s", len(orders), type(error).__name__)
        half = (len(orders) + 1) // 2
        return self._generated(orders[:half]) + self._generated(orders[half:])

    def _stored(self, given: tuple[Claimed, GeneratedWeights | Exception]) -> _Stored | Exception:
        claimed, made = given
        if isinstance(made, Exception):
            return made
        row = claimed.row
        # The token in the name: a slow claimant that was fenced out cannot overwrite its successor's object.
        key = f"{row.tenant_id}/weights/{row.fingerprint}-{row.lease_token}.safetensors"
        try:
            self._put(key, made.lora)
            return _Stored(made, key, self._renderer.load(made.lora) if made.loaded is None else made.loaded)
        except Exception as error:  # noqa: BLE001 - it becomes the set's fault, whatever it was
            return error

    def _put(self, key: str, data: bytes) -> None:
        try:
            self._storage.put(key, data, content_type="application/octet-stream", if_absent=True)
        except ObjectExists:
            if self._storage.get(key) != data:
                raise

    def _settled(self, claimed: Claimed, found: _Stored | Exception, seconds: float) -> Weights | Exception:
        try:
            if isinstance(found, Exception):
                return self._failed(claimed.row, found)
            return self._finished(claimed, found, seconds)
        except Exception as error:  # noqa: BLE001 - it becomes the set's fault, whatever it was
            return error

    def _failed(self, row: WeightSetRow, error: Exception) -> Exception:
        if isinstance(error, FaceError | PhotoRefused | CheckpointMismatch):
            # The photos' own fault: written down, so that nobody tries again until somebody asks to.
            with self._database.transaction() as tx:
                weight_sets.fail(tx, row, self._owner, error_code=error.code, error=str(error))
            refused = WeightSetRefused(error.code, str(error))
            refused.__cause__ = error
            return refused
        # Anybody else's fault, such as the store's: the photos may be tried again at once.
        with self._database.transaction() as tx:
            weight_sets.give_back(tx, row, self._owner)
        return error

    def _finished(self, claimed: Claimed, stored: _Stored, seconds: float) -> Weights:
        row, made = claimed.row, stored.made
        with self._database.transaction() as tx:
            kept = weight_sets.finish(
                tx,
                row,
                self._owner,
                storage_key=stored.key,
                sha256=hashlib.sha256(made.lora).hexdigest(),
                size_bytes=len(made.lora),
                recogniser=self._renderer.recogniser,
                reference_embedding=made.reference_embedding,
                seconds=seconds,
            )
            for (source, _weight), verdicts in zip(claimed.recipe.people, made.verdicts, strict=True):
                told = [(source.photos[v.position].position, v.verdict, v.reason) for v in verdicts]
                weight_sets.record_verdicts(tx, row.tenant_id, source.photo_set_id, told)
        if not kept:
            self._storage.delete(stored.key)
            raise WeightSetDamaged("another worker took over the generation of this weight set; trying again")
        return Weights(row.fingerprint, stored.loaded, made.reference_embedding, seconds, "generated")

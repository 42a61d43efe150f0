"""Weight sets: from memory, from storage, or generated - once in the whole fleet.

The row in `weight_sets` is claimed like a unit. Whoever claims it generates and stores the set; everybody else waits
for the row to become ready, and takes the set over if the claimant goes silent.

What a set is made from is a photo set: a person's photos, a mix of several people, a slider (edited minus original),
or a pinned set that was stored before, such as a refined one.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from hyperlora.errors import CheckpointMismatch, FaceError
from jobs.database import Database
from jobs.errors import JobsError, ObjectExists, ObjectMissing, PhotoRefused
from jobs.repository import weight_sets
from jobs.repository.weight_sets import Source, WeightSetRow
from jobs.storage import Storage
from worker.errors import WeightSetDamaged
from worker.renderer import Person, Renderer

log = logging.getLogger(__name__)
POLL_SECONDS = 0.2


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


def weight_set_fingerprint(tenant: str, photo_set: str, renderer: Renderer, *, branch: str = "id") -> str:
    """The name of the weight set of a photo set under this checkpoint and preprocessing: 64 hex digits."""
    parts = ["weight-set-1", tenant, photo_set, renderer.hyperlora_fingerprint, renderer.conditioning]
    if branch != "id":
        parts.append(branch)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class _Recipe:
    """What a weight set is made from: one photo set of a person, or several with weights."""

    kind: str
    branch: str
    people: tuple[tuple[Source, float], ...]


class WeightSets:
    """The weight sets of one worker for one profile, the last few kept in memory; safe to ask from several threads."""

    def __init__(
        self,
        database: Database,
        storage: Storage,
        renderer: Renderer,
        owner: str,
        *,
        lease_seconds: float,
        keep: int = 16,
    ) -> None:
        self._database, self._storage, self._renderer, self._owner = database, storage, renderer, owner
        self._lease_seconds, self._keep = lease_seconds, keep
        self._memory: OrderedDict[tuple[str, str], Weights] = OrderedDict()
        self._idle = threading.Event()
        self._remembering = threading.Lock()
        # An owner generates one set at a time: the claim in the database rests on it.
        self._making = threading.Lock()
        self._in_hand: WeightSetRow | None = None

    def heartbeat(self, tx: Connection) -> None:
        """Prolong the claim that is being worked on, if there is one."""
        row = self._in_hand
        if row is not None:
            weight_sets.heartbeat(tx, row, self._owner, lease_seconds=self._lease_seconds)

    def source(self, tenant: str, photo_set_id: uuid.UUID) -> Source:
        """What a photo set is made of."""
        with self._database.reading() as tx:
            return weight_sets.source(tx, tenant, photo_set_id)

    def obtain(
        self, tenant: str, source: Source, still_wanted: Callable[[], bool], *, branch: str = "id"
    ) -> Weights | None:
        """The weight set of this source; None when `still_wanted` turned false while waiting.

        Raises: WeightSetRefused when the photos cannot give one; StorageError, DatabaseUnavailable.
        """
        began = time.perf_counter()
        if source.kind == "weights":
            if branch != "id":
                message = (
                    "Base-LoRA is made from photos, and this identity names a stored weight set; leave base_weight out"
                )
                raise WeightSetRefused("weight_set_branch", message)
            return self._pinned(tenant, source, began)
        fingerprint = weight_set_fingerprint(tenant, source.fingerprint, self._renderer, branch=branch)
        people = (
            tuple((self.source(tenant, member.photo_set_id), member.weight) for member in source.members)
            if source.members
            else ((source, 1.0),)
        )
        recipe = _Recipe(source.kind, branch, people)
        with self._database.transaction() as tx:
            weight_sets.begin(
                tx,
                tenant,
                fingerprint,
                kind=recipe.kind,
                branch=branch,
                hyperlora_fingerprint=self._renderer.hyperlora_fingerprint,
                sources=[(person.photo_set_id, weight) for person, weight in people],
            )
        known = self._recall(tenant, fingerprint, began)
        return known or self._wait_or_generate(tenant, fingerprint, recipe, still_wanted, began)

    def _recall(self, tenant: str, fingerprint: str, began: float) -> Weights | None:
        with self._remembering:
            known = self._memory.get((tenant, fingerprint))
            if known is None:
                return None
            self._memory.move_to_end((tenant, fingerprint))
        return Weights(fingerprint, known.loaded, known.reference_embedding, time.perf_counter() - began, "memory")

    def _pinned(self, tenant: str, source: Source, began: float) -> Weights:
        """A stored set that a manifest names by its fingerprint; it is never generated here."""
        fingerprint = source.weight_set_fingerprint or ""
        with self._database.reading() as tx:
            row = weight_sets.find(tx, tenant, fingerprint)
        if row is None or row.state != "ready":
            state = "is not there" if row is None else f"is {row.state}"
            message = f"the weight set {fingerprint[:12]}... {state}; refine it again"
            raise WeightSetRefused("weight_set_missing", message)
        if row.kind == "slider" or row.branch != "id" or row.recogniser != self._renderer.recogniser:
            message = (
                f"the weight set {fingerprint[:12]}... is of kind {row.kind}, branch {row.branch}, measured by "
                f"{row.recogniser}; a person of this profile needs branch id, measured by {self._renderer.recogniser}"
            )
            raise WeightSetRefused("weight_set_mismatch", message)
        try:
            return self._recall(tenant, fingerprint, began) or self._remember(tenant, self._load(row, began))
        except (WeightSetDamaged, ObjectMissing) as error:
            message = f"{error}; it cannot be made again from photos alone, refine it again"
            raise WeightSetRefused("weight_set_missing", message) from error

    def _wait_or_generate(
        self, tenant: str, fingerprint: str, recipe: _Recipe, still_wanted: Callable[[], bool], began: float
    ) -> Weights | None:
        lost_key: str | None = None
        while still_wanted():
            with self._making:
                with self._database.transaction() as tx:
                    mine = weight_sets.claim(
                        tx, tenant, fingerprint, self._owner, lease_seconds=self._lease_seconds, lost_key=lost_key
                    )
                    row = mine or weight_sets.find(tx, tenant, fingerprint)
                if mine is not None:
                    self._in_hand = mine
                    try:
                        return self._remember(tenant, self._generate(mine, recipe, began))
                    finally:
                        self._in_hand = None
            if row is not None and row.state == "failed":
                raise WeightSetRefused(row.error_code or "weight_set_failed", row.error or "no reason was recorded")
            if row is not None and row.state == "ready":
                try:
                    return self._remember(tenant, self._load(row, began))
                except (WeightSetDamaged, ObjectMissing) as error:
                    log.warning("generating a weight set anew: %s", error)
                    lost_key = row.storage_key
                    continue
            self._idle.wait(POLL_SECONDS)
        return None

    def _remember(self, tenant: str, weights: Weights) -> Weights:
        with self._remembering:
            self._memory[tenant, weights.fingerprint] = weights
            while len(self._memory) > self._keep:
                self._memory.popitem(last=False)
        return weights

    def _load(self, row: WeightSetRow, began: float) -> Weights:
        data = self._storage.get(row.storage_key or "")
        found = hashlib.sha256(data).hexdigest()
        if found != row.sha256:
            raise WeightSetDamaged(
                f"{row.storage_key} has SHA-256 {found[:12]}..., recorded is {str(row.sha256)[:12]}..."
            )
        loaded = self._renderer.load(data)
        seconds = time.perf_counter() - began
        return Weights(row.fingerprint, loaded, row.reference_embedding or b"", seconds, "storage")

    def _person(self, source: Source, weight: float, prefix: str) -> Person:
        return Person(
            photos=[self._storage.get(photo.storage_key) for photo in source.photos],
            names=[f"{prefix}photo {photo.position + 1}" for photo in source.photos],
            faces=[photo.face for photo in source.photos],
            weight=weight,
        )

    def _generate(self, row: WeightSetRow, recipe: _Recipe, began: float) -> Weights:
        try:
            one = len(recipe.people) == 1
            people = [
                self._person(source, weight, "" if one else f"person {number}, ")
                for number, (source, weight) in enumerate(recipe.people, start=1)
            ]
            made = self._renderer.generate(recipe.kind, people, branch=recipe.branch)
            # The token in the name: a slow claimant that was fenced out cannot overwrite its successor's object.
            key = f"{row.tenant_id}/weights/{row.fingerprint}-{row.lease_token}.safetensors"
            self._put(key, made.lora)
        except (FaceError, PhotoRefused, CheckpointMismatch) as error:
            # The photos' own fault: written down, so that nobody tries again until somebody asks to.
            with self._database.transaction() as tx:
                weight_sets.fail(tx, row, self._owner, error_code=error.code, error=str(error))
            raise WeightSetRefused(error.code, str(error)) from error
        except Exception:
            # Anybody else's fault, such as the store's: the photos may be tried again at once.
            with self._database.transaction() as tx:
                weight_sets.give_back(tx, row, self._owner)
            raise
        seconds = time.perf_counter() - began
        with self._database.transaction() as tx:
            kept = weight_sets.finish(
                tx,
                row,
                self._owner,
                storage_key=key,
                sha256=hashlib.sha256(made.lora).hexdigest(),
                size_bytes=len(made.lora),
                recogniser=self._renderer.recogniser,
                reference_embedding=made.reference_embedding,
                seconds=seconds,
            )
            for (source, _weight), verdicts in zip(recipe.people, made.verdicts, strict=True):
                told = [(source.photos[v.position].position, v.verdict, v.reason) for v in verdicts]
                weight_sets.record_verdicts(tx, row.tenant_id, source.photo_set_id, told)
        if not kept:
            self._storage.delete(key)
            raise WeightSetDamaged("another worker took over the generation of this weight set; trying again")
        return Weights(row.fingerprint, self._renderer.load(made.lora), made.reference_embedding, seconds, "generated")

    def _put(self, key: str, data: bytes) -> None:
        try:
            self._storage.put(key, data, content_type="application/octet-stream", if_absent=True)
        except ObjectExists:
            if self._storage.get(key) != data:
                raise

"""Weight sets: from memory, from storage, or generated - once in the whole fleet.

The row in `weight_sets` is claimed like a unit. Whoever claims it generates and stores the set; everybody else waits
for the row to become ready, and takes the set over if the claimant goes silent. A set whose stored object is missing,
or has another checksum than was recorded, is claimed and generated anew in the same way: once.

Several people's sets are obtained together: those whose rows this worker wins are generated in one pass over the
networks, in fewer where memory asks for it. Who cannot be had is a fault of that person alone.

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
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from jobs.database import Database
from jobs.errors import ObjectMissing, StorageError
from jobs.repository import weight_sets
from jobs.repository.units import MOST_LOST_WORKERS
from jobs.repository.weight_sets import Source, WeightSetRow
from jobs.storage import Storage
from worker.errors import WeightSetDamaged
from worker.renderer import Renderer
from worker.telemetry.events import NOBODY, Observer
from worker.weight_making import Claimed, Making, Recipe, Weights, WeightSetRefused

log = logging.getLogger(__name__)
POLL_SECONDS = 0.2


def weight_set_fingerprint(tenant: str, photo_set: str, renderer: Renderer, *, branch: str = "id") -> str:
    """The name of the weight set of a photo set under this checkpoint and preprocessing: 64 hex digits."""
    parts = ["weight-set-1", tenant, photo_set, renderer.hyperlora_fingerprint, renderer.conditioning]
    if branch != "id":
        parts.append(branch)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class Request:
    """One weight set that is wanted; `still_wanted` turns false when nobody waits for it any more."""

    tenant: str
    source: Source
    still_wanted: Callable[[], bool]
    branch: str = "id"


@dataclass(frozen=True)
class _Asked:
    """A request whose weight set has a name and a row."""

    request: Request
    fingerprint: str
    recipe: Recipe

    @property
    def key(self) -> tuple[str, str]:
        return self.request.tenant, self.fingerprint


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
        max_lost_workers: int = MOST_LOST_WORKERS,
        observer: Observer = NOBODY,
    ) -> None:
        self._observer = observer
        self._database, self._storage, self._renderer, self._owner = database, storage, renderer, owner
        self._lease_seconds, self._keep, self._max_lost_workers = lease_seconds, keep, max_lost_workers
        self._memory: OrderedDict[tuple[str, str], Weights] = OrderedDict()
        self._idle = threading.Event()
        self._remembering = threading.Lock()
        # One thread of an owner claims and generates at a time: the claim in the database rests on it.
        self._making = threading.Lock()
        self._in_hand: tuple[WeightSetRow, ...] = ()
        self._maker = Making(database, storage, renderer, owner)

    def heartbeat(self, tx: Connection) -> None:
        """Prolong the claims that are being worked on."""
        for row in self._in_hand:
            weight_sets.heartbeat(tx, row, self._owner, lease_seconds=self._lease_seconds)

    def forget(self, fingerprints: Container[str]) -> None:
        """Drop these weight sets from memory; who draws with one at this moment lets go of it with its unit."""
        with self._remembering:
            for place in [place for place in self._memory if place[1] in fingerprints]:
                del self._memory[place]

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
        obtained = self.obtain_many([Request(tenant, source, still_wanted, branch)])[0]
        if isinstance(obtained, Exception):
            raise obtained
        return obtained

    def obtain_many(self, requests: Sequence[Request]) -> list[Weights | Exception | None]:
        """For each request what `obtain` gives, or the error that it raises."""
        began = time.perf_counter()
        found: dict[int, Weights | Exception | None] = {}
        asked: dict[int, _Asked] = {}
        # 1. Those in memory, and those that are stored and pinned.
        for place, request in enumerate(requests):
            try:
                prepared = self._prepared(request, began)
            except Exception as error:  # noqa: BLE001 - it becomes the request's fault, whatever it was
                found[place] = error
                continue
            if isinstance(prepared, _Asked):
                asked[place] = prepared
            else:
                found[place] = prepared
        # 2. Those whose rows are free: generated here, together.
        made = self._generate_together(list({each.key: each for each in asked.values()}.values()))
        # 3. The others: awaited, loaded, or generated after all.
        for place, each in asked.items():
            found[place] = made[each.key] if each.key in made else self._attempt(each, began)
        for place, weights in found.items():
            if isinstance(weights, Weights):
                self._observer.weights_ready(requests[place].tenant, weights)
        return [found[place] for place in range(len(requests))]

    def _generate_together(self, asked: Sequence[_Asked]) -> dict[tuple[str, str], Weights | Exception]:
        """Those that are free; none where a claim could not be made, as each is then tried by itself."""
        try:
            return self._generate_free(asked)
        except Exception as error:  # noqa: BLE001 - each is tried by itself, and told its own fault
            log.warning("people could not be claimed together: %s", type(error).__name__)
            return {}

    def _attempt(self, asked: _Asked, began: float) -> Weights | Exception | None:
        try:
            return self._wait_or_generate(asked, began)
        except Exception as error:  # noqa: BLE001 - it becomes the request's fault, whatever it was
            return error

    def _prepared(self, request: Request, began: float) -> Weights | _Asked:
        """The weights if they are at hand, else the row of what is to be had."""
        tenant, source, branch = request.tenant, request.source, request.branch
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
        recipe = Recipe(source.kind, branch, people)
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
        return self._recall(tenant, fingerprint, began) or _Asked(request, fingerprint, recipe)

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

    def _wait_or_generate(self, asked: _Asked, began: float) -> Weights | None:
        lost_key: str | None = None
        while asked.request.still_wanted():
            made = self._generate_free([asked], lost_key).get(asked.key)
            if isinstance(made, Exception):
                raise made
            if made is not None:
                self._remove(lost_key)
                return made
            with self._database.reading() as tx:
                row = weight_sets.find(tx, *asked.key)
            if row is not None and row.state == "failed":
                raise WeightSetRefused(row.error_code or "weight_set_failed", row.error or "no reason was recorded")
            if row is not None and row.state == "ready":
                try:
                    return self._remember(asked.request.tenant, self._load(row, began))
                except (WeightSetDamaged, ObjectMissing) as error:
                    log.warning("generating a weight set anew: %s", error)
                    lost_key = row.storage_key
                    continue
            self._idle.wait(POLL_SECONDS)
        return None

    def _generate_free(
        self, asked: Sequence[_Asked], lost_key: str | None = None
    ) -> dict[tuple[str, str], Weights | Exception]:
        """Generate those of these weight sets that nobody has or makes; the others are not in the answer.

        A row is claimed only right before its photos are looked at, so that another worker may make the rest meanwhile.
        """
        made: dict[tuple[str, str], Weights | Exception] = {}
        left = list(asked)
        while left:
            with self._making:
                together = self._maker.most_together
                some, left = left[:together], left[together:]
                held = [(each, row) for each in some if (row := self._claimed(each, lost_key, len(asked) > 1))]
                self._in_hand = tuple(row for _, row in held)
                try:
                    answers = self._maker.make([Claimed(row, each.recipe) for each, row in held])
                finally:
                    self._in_hand = ()
            for (each, _), answer in zip(held, answers, strict=True):
                made[each.key] = answer
                if isinstance(answer, Weights):
                    self._remember(each.request.tenant, answer)
        return made

    def _claimed(self, asked: _Asked, lost_key: str | None, beside_others: bool) -> WeightSetRow | None:
        if not asked.request.still_wanted():
            return None
        with self._database.transaction() as tx:
            terms: dict[str, Any] = {"lease_seconds": self._lease_seconds, "lost_key": lost_key}
            terms |= {"beside_others": beside_others, "max_lost_workers": self._max_lost_workers}
            return weight_sets.claim(tx, *asked.key, self._owner, **terms)

    def _remember(self, tenant: str, weights: Weights) -> Weights:
        with self._remembering:
            self._memory[tenant, weights.fingerprint] = weights
            while len(self._memory) > self._keep:
                self._memory.popitem(last=False)
        return weights

    def _load(self, row: WeightSetRow, began: float) -> Weights:
        data = self._read(row)
        loaded = self._renderer.load(data)
        seconds = time.perf_counter() - began
        return Weights(row.fingerprint, loaded, row.reference_embedding or b"", seconds, "storage")

    def _read(self, row: WeightSetRow) -> bytes:
        """The stored set; what is not what was recorded is read once more, as the way here may have changed it.

        Raises: WeightSetDamaged, StorageError.
        """
        found = ""
        for _ in range(2):
            data = self._storage.get(row.storage_key or "")
            found = hashlib.sha256(data).hexdigest()
            if found == row.sha256:
                return data
        raise WeightSetDamaged(f"{row.storage_key} has SHA-256 {found[:12]}..., recorded is {str(row.sha256)[:12]}...")

    def _remove(self, lost_key: str | None) -> None:
        """Remove a damaged object, which no row names since its set was generated anew."""
        if lost_key is None:
            return
        try:
            self._storage.delete(lost_key)
        except StorageError as error:
            log.warning("the damaged weight set %s stays in the store: %s", lost_key, error)

"""Weight sets in a tenant's store: one is read to begin with, a refined one is added for jobs to use."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from hyperlora.lora import LoRA
from jobs.database import Database
from jobs.errors import UnknownWeightSet
from jobs.repository import weight_sets
from jobs.repository.weight_sets import WeightSetRow
from jobs.settings import Settings
from jobs.storage import Storage, open_storage
from worker.errors import WeightSetDamaged

CHECKPOINT = "hyperlora_fingerprint"  # the entry of a LoRA's metadata that names its checkpoint


@dataclass(frozen=True, eq=False)
class StoredSet:
    """A weight set that is ready: its row, and the LoRA that was stored for it."""

    row: WeightSetRow
    lora: LoRA


class WeightSetShelf:
    """One tenant's weight sets, in the database and the store of the settings."""

    def __init__(self, settings: Settings, tenant: str) -> None:
        self._settings, self._tenant = settings, tenant
        self._storage: Storage = open_storage(settings.storage_url, settings)

    def get(self, fingerprint: str) -> StoredSet:
        """Read one. Raises UnknownWeightSet, WeightSetDamaged, StorageError, DatabaseUnavailable, DatabaseOutdated."""
        database = Database.from_settings(self._settings)
        try:
            database.require_current()
            with database.reading(self._tenant) as tx:
                row = weight_sets.find(tx, self._tenant, fingerprint)
        finally:
            database.dispose()
        if row is None:
            raise UnknownWeightSet(f"tenant {self._tenant!r} has no weight set {fingerprint}")
        if row.state != "ready" or row.storage_key is None:
            raise UnknownWeightSet(f"weight set {fingerprint} is {row.state}, wanted a ready one; draw with it first")
        data = self._storage.get(row.storage_key)
        found = hashlib.sha256(data).hexdigest()
        if found != row.sha256:
            raise WeightSetDamaged(
                f"{row.storage_key} has SHA-256 {found[:12]}..., recorded is {str(row.sha256)[:12]}..."
            )
        return StoredSet(row, LoRA.from_bytes(data))

    def add_refined(self, source: StoredSet, lora: LoRA, *, seconds: float) -> tuple[str, bool]:
        """Store what was refined from `source` and record it; its fingerprint, and False if it was there already.

        The fingerprint follows from tenant, source and content, so the same refinement is one weight set. Likeness is
        measured against the source's reference: it is the same person.
        """
        data = lora.to_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        parts = ("weight-set-refined-1", self._tenant, source.row.fingerprint, sha256)
        fingerprint = hashlib.sha256("\n".join(parts).encode()).hexdigest()
        key = f"{self._tenant}/weights/{fingerprint}-refined.safetensors"
        database = Database.from_settings(self._settings)
        try:
            self._put(database, fingerprint, key, data)
            with database.transaction(self._tenant) as tx:
                added = weight_sets.add_refined(
                    tx,
                    self._tenant,
                    fingerprint=fingerprint,
                    source_weight_set_fingerprint=source.row.fingerprint,
                    hyperlora_fingerprint=source.lora.metadata.get(CHECKPOINT, ""),
                    storage_key=key,
                    sha256=sha256,
                    size_bytes=len(data),
                    recogniser=source.row.recogniser or "",
                    reference_embedding=source.row.reference_embedding or b"",
                    seconds=seconds,
                )
        finally:
            database.dispose()
        return fingerprint, added

    def _put(self, database: Database, fingerprint: str, key: str, data: bytes) -> None:
        """Store a refined set. What no row names yet is written even if it is there, as an earlier call may have ended
        before its row: so it is young, and no sweep takes it before its row.
        """
        with database.reading(self._tenant) as tx:
            is_named = weight_sets.find(tx, self._tenant, fingerprint) is not None
        if not is_named or not self._storage.exists(key) or self._storage.get(key) != data:
            self._storage.put(key, data, content_type="application/octet-stream")

"""When tokens were used last, written down now and then by a thread of its own: no request waits for it."""

from __future__ import annotations

import datetime as dt
import logging
import threading
import uuid

from jobs.database import Database
from jobs.errors import JobsError
from jobs.orm import utcnow
from jobs.repository import tokens

log = logging.getLogger(__name__)
EVERY_SECONDS = 15.0


class LastUsed:
    """Collects uses and writes the latest of each token; what cannot be written is written with the next."""

    def __init__(self, database: Database, every_seconds: float = EVERY_SECONDS) -> None:
        self._database, self._every = database, every_seconds
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._uses: dict[tuple[str, uuid.UUID], dt.datetime] = {}
        self._thread: threading.Thread | None = None

    def note(self, tenant_id: str, token_id: uuid.UUID) -> None:
        """The token was used now."""
        with self._lock:
            self._uses[tenant_id, token_id] = utcnow()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="token uses", daemon=True)
                self._thread.start()

    def flush(self) -> None:
        """Write down what was noted. Raises DatabaseUnavailable; nothing is lost by it."""
        with self._lock:
            uses, self._uses = self._uses, {}
        try:
            for (tenant_id, token_id), at in list(uses.items()):
                with self._database.transaction(tenant_id) as tx:
                    tokens.used(tx, tenant_id, token_id, at)
                del uses[tenant_id, token_id]
        finally:
            with self._lock:
                self._uses = {**uses, **self._uses}

    def close(self) -> None:
        """Stop, and write what is left."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._try()

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            self._try()

    def _try(self) -> None:
        try:
            self.flush()
        except JobsError as error:
            log.warning("when tokens were used is written down later: %s", error.code)

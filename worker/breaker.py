"""Whether the object store answers: a breaker that opens after a few faults, and closes when one probe goes through.

While it is open the worker claims nothing. Uploads that are due take turns: one of them is the probe, the others wait
for its outcome. Where nothing is to be uploaded, whoever wants to claim asks the store to check itself. A store that
refuses one key, and answers its check, is not away: what is refused there again and again is that one picture's fault.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jobs.errors import BucketMissing, ObjectDenied, StorageDenied, StorageError, StorageFull, StorageUnavailable

log = logging.getLogger(__name__)
AWAY = (StorageUnavailable, StorageFull, StorageDenied, BucketMissing)
"""What is the store's fault or its configuration's, whichever object was asked for."""
REFUSALS = (StorageDenied, BucketMissing)
"""Those of them that may hold for one key alone: the store's own check tells."""
FAULTS = 3
FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 15.0
LOOK_SECONDS = 0.5
MOST_DOUBLINGS = 10
TRIES = 4  # of one upload while others go through


class Breaker:
    """Closed while the store answers; safe to use from several threads."""

    def __init__(
        self,
        probe: Callable[[], None],
        *,
        first_wait_seconds: float = FIRST_WAIT_SECONDS,
        on_change: Callable[[], None] = lambda: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`probe` raises where the store does not answer; `on_change` is called when it went away or came back."""
        self._probe, self._first_wait, self._on_change, self._now = probe, first_wait_seconds, on_change, now
        self._changed = threading.Condition()
        self._faults = 0
        self._reason: str | None = None
        self._opened_at = self._due_at = 0.0
        self._is_trying = False

    @property
    def reason(self) -> str | None:
        """Why the store is held to be away; None while it answers."""
        with self._changed:
            return self._reason

    def seconds_open(self) -> float:
        """How long the store has been away; 0 while it answers."""
        with self._changed:
            return 0.0 if self._reason is None else self._now() - self._opened_at

    def wait(self, is_over: Callable[[], bool]) -> bool:
        """Wait until the store answers, asking it now and then; False when `is_over` turned true before."""
        while self.reason is not None:
            if is_over():
                return False
            if self._take_turn():
                self._ask()
            else:
                self._wait_a_little(LOOK_SECONDS)
        return True

    def suspect(self, error: Exception) -> None:
        """Something else than an upload met this fault: if it is the store's, ask the store whether it is away."""
        if isinstance(error, AWAY) and self.reason is None:
            try:
                self._probe()
            except StorageError as away:
                self._is_away(away)

    def patiently(self, act: Callable[[], None], *, patience_seconds: float, is_over: Callable[[], bool]) -> None:
        """Try to store something, again and again with growing waits, until the store has been away for so long.

        Raises: what the store said last; ObjectDenied where it refuses this alone; whatever else is not the store's
        fault, at once.
        """
        tries = refusals = 0
        while True:
            self._await_turn(patience_seconds, is_over)
            try:
                with self._told():
                    self._try(act)
                return
            except ObjectDenied as error:
                refusals += 1
                log.warning("storing a picture again after: %s", error)
                if is_over():
                    raise StorageDenied(str(error)) from error  # not tried often enough to be sure
                if refusals >= TRIES:
                    raise
                self._wait_a_little(self._first_wait * 2.0**refusals)
            except AWAY as error:
                tries += 1
                log.warning("storing a picture again after: %s", error)
                if is_over() or (self.reason is None and tries >= TRIES):
                    raise
                if self.reason is None:
                    self._wait_a_little(self._first_wait * 2.0**tries)

    def _try(self, act: Callable[[], None]) -> None:
        """Raises: ObjectDenied where the store refuses this and yet answers its check; what `act` raises."""
        try:
            act()
        except REFUSALS as error:
            if not self._answers():
                raise
            told = f"{error}; the store answers otherwise: allow writing there, then `portraits retry`"
            raise ObjectDenied(told) from error

    def _answers(self) -> bool:
        try:
            self._probe()
        except StorageError:
            return False
        return True

    def _await_turn(self, patience_seconds: float, is_over: Callable[[], bool]) -> None:
        while not self._take_turn():
            reason = self.reason
            if reason is not None and (is_over() or self.seconds_open() >= patience_seconds):
                raise StorageUnavailable(reason)
            self._wait_a_little(LOOK_SECONDS)

    def _take_turn(self) -> bool:
        """Whether the caller may try now: always while closed, else one at a time when it is due."""
        with self._changed:
            if self._reason is None:
                return True
            if self._is_trying or self._now() < self._due_at:
                return False
            self._is_trying = True
            return True

    def _wait_a_little(self, seconds: float) -> None:
        with self._changed:
            if self._reason is not None and not self._is_trying:
                seconds = min(seconds, max(0.0, self._due_at - self._now()))
            self._changed.wait(seconds)

    def _ask(self) -> None:
        try:
            with self._told():
                self._probe()
        except StorageError as error:
            log.debug("the store is still away: %s", error)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """One try, whose outcome is noted; an answer that is not to our liking is an answer too."""
        try:
            yield
        except AWAY as error:
            self._met(error)
            raise
        except StorageError:
            self._answered()
            raise
        except BaseException:
            self._end_turn()
            raise
        else:
            self._answered()

    def _end_turn(self) -> None:
        with self._changed:
            self._is_trying = False
            self._changed.notify_all()

    def _met(self, error: StorageError) -> None:
        with self._changed:
            self._faults = min(self._faults + 1, FAULTS + MOST_DOUBLINGS)
            opens = self._reason is not None or self._faults >= FAULTS
        if opens:
            self._is_away(error)

    def _is_away(self, error: StorageError) -> None:
        with self._changed:
            was, self._reason, self._is_trying = self._reason, str(error), False
            self._faults = max(FAULTS, self._faults)
            wait = min(LONGEST_WAIT_SECONDS, self._first_wait * 2.0 ** (self._faults - FAULTS))
            self._due_at = self._now() + wait * random.uniform(0.75, 1.25)
            if was is None:
                self._opened_at = self._now()
            self._changed.notify_all()
        if was is None:
            log.error("the store is away, nothing is claimed until it answers: %s", error)
            self._on_change()

    def _answered(self) -> None:
        with self._changed:
            was, self._reason, self._faults, self._is_trying = self._reason, None, 0, False
            self._changed.notify_all()
        if was is not None:
            log.warning("the store answers again")
            self._on_change()

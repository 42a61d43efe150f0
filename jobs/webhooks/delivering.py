"""Delivering: what waits is told to endpoints, several side by side, each by one of us at a time.

At least once: outcomes are written after the answers, a few together, so whoever is killed between them has these
messages sent again, under the same ids. An endpoint that does not answer is left alone for a while as a whole, longer
each time, and one that has taken nothing for days is disabled; so a dead one costs a try now and then, and nobody else
anything.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from sqlalchemy import Connection as Transaction

from jobs.database import Database
from jobs.errors import WebhookRefused, WebhookSilent
from jobs.repository import deliveries, webhooks
from jobs.repository.deliveries import Due
from jobs.repository.webhooks import Endpoint
from jobs.settings import Settings
from jobs.webhooks.addresses import Resolver, Rules, system_resolver
from jobs.webhooks.connection import Connection
from jobs.webhooks.signing import message

log = logging.getLogger(__name__)
LONGEST_WAIT_SECONDS = 3600.0
GRACE_SECONDS = 30.0  # of a lease, beyond the longest try
READ_AT_ONCE, TOLD_AT_ONCE = 50, 200
IDLE_SECONDS, WRITTEN_SECONDS = 0.2, 1.0
DAY_SECONDS = 86_400.0
GONE = 410
# What says that this one message is refused, not that the endpoint takes none.
_OF_THE_MESSAGE = frozenset({400, 413, 415, 422})


@dataclass(frozen=True)
class Outcome:
    """What came of one try: whether it was taken, what the endpoint said, and whether the endpoint is to be let be."""

    taken: bool
    status: int | None = None
    error: str = ""
    of_the_endpoint: bool = False
    retry_after: float | None = None


def try_once(connection: Connection, endpoint: Endpoint, due: Due) -> Outcome:
    """Send one message; a fault becomes the outcome, in words that repeat nothing of the answer."""
    body, headers = message(due.id, due.payload, endpoint.secret)
    try:
        answer = connection.post(body, headers)
    except WebhookRefused as error:  # under its code, by which others tell it from silence
        return Outcome(False, None, f"{error.code}: {error}", of_the_endpoint=True)
    except WebhookSilent as error:
        return Outcome(False, None, str(error), of_the_endpoint=True)
    if 200 <= answer.status < 300:
        return Outcome(True, answer.status)
    redirected = " and names another address, which is not followed" if 300 <= answer.status < 400 else ""
    told = f"the endpoint answered {answer.status}{redirected}"
    alone = answer.status in _OF_THE_MESSAGE
    return Outcome(False, answer.status, told, of_the_endpoint=not alone, retry_after=answer.retry_after)


def wait_seconds(failures: int, first_seconds: float) -> float:
    """How long to wait after so many failures before: doubling, an hour at most, and a fifth more or less, so that many
    who failed together do not come back together.
    """
    wait = min(first_seconds * 2.0 ** min(failures, 30), LONGEST_WAIT_SECONDS)
    return wait * random.uniform(0.8, 1.2)


class Round:
    """Delivers what is due, on several threads, until nothing is or it is told to end."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        owner: str,
        is_over: Callable[[], bool],
        resolver: Resolver = system_resolver,
    ) -> None:
        self._database, self._owner, self._is_over, self._resolver = database, owner, is_over, resolver
        self._rules, self._settings = Rules.from_settings(settings), settings
        self._lease_seconds = settings.webhook_timeout_seconds + GRACE_SECONDS
        self._busy, self._changed = 0, threading.Condition()

    def run(self, threads: int) -> int:
        """How many messages were taken. Raises the first fault of ours, when all threads have ended."""
        with ThreadPoolExecutor(threads, thread_name_prefix="webhook") as pool:
            counts = [pool.submit(self._work, f"{self._owner}/{n}") for n in range(threads)]
        return sum(count.result() for count in counts)

    def _work(self, owner: str) -> int:
        """Take one endpoint after the other. As long as another thread is at one, more may become due: a slow endpoint
        must not keep others waiting for the next round.
        """
        taken = 0
        while not self._is_over():
            endpoint = self._claim(owner)
            if endpoint is None:
                with self._changed:
                    if not self._busy:
                        return taken
                    self._changed.wait(IDLE_SECONDS)
                continue
            try:
                taken += self._serve(endpoint, owner)
            finally:
                with self._changed:
                    self._busy -= 1
                    self._changed.notify_all()
        return taken

    def _claim(self, owner: str) -> Endpoint | None:
        with self._database.reading() as tx:
            if not webhooks.any_claimable(tx):
                return None
        with self._database.transaction() as tx:
            endpoint = webhooks.claim(tx, owner, lease_seconds=self._lease_seconds)
        if endpoint is not None:
            with self._changed:
                self._busy += 1
        return endpoint

    def _serve(self, endpoint: Endpoint, owner: str) -> int:
        """Tell one endpoint what waits for it, up to a number, so that others have their turn; then let it go."""
        taken, tried = 0, 0
        try:
            with self._connect(endpoint) as connection:
                while tried < TOLD_AT_ONCE and (batch := self._due(endpoint)):
                    told, goes_on = self._tell(connection, endpoint, owner, batch)
                    taken, tried = taken + told, tried + len(batch)
                    if not goes_on:
                        break
        finally:
            with self._database.transaction() as tx:
                webhooks.release(tx, endpoint, owner)
        return taken

    def _tell(self, connection: Connection, endpoint: Endpoint, owner: str, batch: Sequence[Due]) -> tuple[int, bool]:
        """Send some messages; how many were taken, and whether to go on with this endpoint.

        What was taken is written down together, after a second at the latest. Each row is looked at again right before
        its try: of somebody who was forgotten since these were read, nobody is told any more.
        """
        taken, unwritten, began, goes_on = 0, list[tuple[Due, Outcome]](), time.monotonic(), True
        for due in batch:
            if not self._waits(endpoint, due):
                continue
            outcome = try_once(connection, endpoint, due)
            taken += outcome.taken
            unwritten.append((due, outcome))
            if not outcome.taken or time.monotonic() - began >= WRITTEN_SECONDS:
                goes_on = self._record(endpoint, owner, unwritten)
                unwritten, began = [], time.monotonic()
            if not goes_on or self._is_over():
                break
        return taken, self._record(endpoint, owner, unwritten) and goes_on and not self._is_over()

    def _connect(self, endpoint: Endpoint) -> Connection:
        timeout = self._settings.webhook_timeout_seconds
        return Connection(endpoint.url, self._rules, timeout_seconds=timeout, resolver=self._resolver)

    def _due(self, endpoint: Endpoint) -> list[Due]:
        with self._database.reading() as tx:
            return deliveries.due(tx, endpoint.tenant_id, endpoint.id, limit=READ_AT_ONCE)

    def _waits(self, endpoint: Endpoint, due: Due) -> bool:
        with self._database.reading() as tx:
            return deliveries.waits(tx, endpoint.tenant_id, due.id)

    def _record(self, endpoint: Endpoint, owner: str, tried: Sequence[tuple[Due, Outcome]]) -> bool:
        """Write down what came of some tries, of which the last may be a failure; whether to go on."""
        if not tried:
            return True
        done = {due.id: outcome.status or 0 for due, outcome in tried if outcome.taken}
        due, outcome = tried[-1]
        with self._database.transaction() as tx:
            is_ours = webhooks.prolong(tx, endpoint, owner, lease_seconds=self._lease_seconds)
            if done:
                deliveries.done(tx, endpoint.tenant_id, done)
                webhooks.answered(tx, endpoint, owner)
            if outcome.taken:
                return is_ours
            self._record_failure(tx, endpoint.tenant_id, due, outcome)
            if not outcome.of_the_endpoint or not is_ours:
                return is_ours
            failures = 0 if done else endpoint.failures
            consequence = self._let_be(tx, endpoint, owner, outcome, failures)
        log.warning("webhook %s: %s; %s", endpoint.id, outcome.error, consequence)
        return False

    def _record_failure(self, tx: Transaction, tenant_id: str, due: Due, outcome: Outcome) -> None:
        if due.age_seconds >= self._settings.webhook_days * DAY_SECONDS:
            deliveries.give_up(tx, tenant_id, due.id, status=outcome.status, error=outcome.error)
        else:
            wait = self._wait(due.attempts, outcome)
            deliveries.again(tx, tenant_id, due.id, after_seconds=wait, status=outcome.status, error=outcome.error)

    def _let_be(self, tx: Transaction, endpoint: Endpoint, owner: str, outcome: Outcome, failures: int) -> str:
        """Leave the whole endpoint alone for a while, or for good; in words which."""
        wait = self._wait(failures, outcome)
        failing = webhooks.failed(tx, endpoint, owner, after_seconds=wait)
        reason = self._reason_to_disable(outcome, failing or 0.0)
        if reason:
            webhooks.disable(tx, endpoint.tenant_id, endpoint.id, reason=reason)
        return reason or f"left alone for {wait:.0f} s"

    def _wait(self, failures: int, outcome: Outcome) -> float:
        return max(wait_seconds(failures, self._settings.webhook_retry_seconds), outcome.retry_after or 0.0)

    def _reason_to_disable(self, outcome: Outcome, failing_seconds: float) -> str:
        if outcome.status == GONE:
            return "disabled: the endpoint answered 410, which asks to be told nothing more"
        days = self._settings.webhook_days
        if failing_seconds >= days * DAY_SECONDS:
            return f"disabled: it has taken nothing for {days:g} days; the last try: {outcome.error}"
        return ""


def deliver_due(
    database: Database,
    settings: Settings,
    *,
    owner: str,
    limit: int = 8,
    is_over: Callable[[], bool] = lambda: False,
    resolver: Resolver = system_resolver,
) -> int:
    """Deliver what is due, to `limit` endpoints side by side; how many messages were taken.

    Where nothing is due, nothing is locked. Raises SettingsInvalid, DatabaseUnavailable.
    """
    with database.reading() as tx:
        if not deliveries.any_due(tx) or not webhooks.any_claimable(tx):
            return 0
    return Round(database, settings, owner, is_over, resolver).run(limit)

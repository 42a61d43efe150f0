"""Delivering to a real server: signed, at least once under one id, and nobody waits for a dead or hostile one."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from queue_world import TENANT, settings
from sqlalchemy import delete, select, update
from standardwebhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError
from webhook_receiver import Receiver, certificate, drip, flood, hang, receiving, status

from jobs import webhooks
from jobs.database import Database, epoch_now
from jobs.errors import UnknownWebhook, WebhookRefused
from jobs.models_outside import Delivery, Webhook
from jobs.orm import utcnow
from jobs.repository import deliveries
from jobs.repository.deliveries import JOB_ENDED, UNIT_ENDED, Ended
from jobs.settings import Settings
from jobs.webhooks.connection import _retry_after
from jobs.webhooks.delivering import LONGEST_WAIT_SECONDS, wait_seconds

BUDGET_SECONDS = 0.6


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


@pytest.fixture
def chosen(tmp_path: Path, database_url: str, receiver: Receiver) -> Settings:
    return allowing(tmp_path, database_url, receiver)


def allowing(tmp_path: Path, url: str, *receivers: Receiver, **changes: Any) -> Settings:
    """Settings that allow this machine and these receivers' ports, with short times."""
    ports = ",".join(str(one.port) for one in receivers)
    allowed: dict[str, Any] = {"webhook_allow_http": True, "webhook_networks": "127.0.0.0/8", "webhook_ports": ports}
    allowed["webhook_timeout_seconds"] = BUDGET_SECONDS
    return settings(tmp_path, url, tenant=TENANT, **{**allowed, **changes})


def hook(chosen: Settings, url: str, *kinds: str) -> webhooks.manage.Added:
    return webhooks.add(url, kinds=kinds or (JOB_ENDED,), settings=chosen)


def queue(database: Database, count: int = 1, kind: str = JOB_ENDED) -> None:
    """So many ends, for every webhook that wants them."""
    with database.transaction() as tx:
        deliveries.add(tx, TENANT, kind, lambda: [Ended(utcnow(), {"n": n}) for n in range(count)])


def deliver(database: Database, chosen: Settings, **more: Any) -> int:
    return webhooks.deliver_due(database, chosen, owner="clerk", limit=4, **more)


def rows(database: Database) -> list[Any]:
    with database.reading() as tx:
        return list(tx.execute(select(Delivery).order_by(Delivery.id)).all())


def endpoint(database: Database, webhook_id: uuid.UUID) -> Any:
    with database.reading() as tx:
        return tx.execute(select(Webhook).where(Webhook.id == webhook_id)).one()


def make_due(database: Database) -> None:
    """As if every wait were over."""
    with database.transaction() as tx:
        tx.execute(update(Delivery).where(Delivery.state == "waiting").values(due_at=epoch_now() - 1))
        tx.execute(update(Webhook).values(retry_at=0.0, lease_until=None))


def test_a_message_is_signed_so_that_the_library_takes_it(
    database: Database, chosen: Settings, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an end that waits, and a proxy in the environment that must not be asked
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    added = hook(chosen, receiver.url)
    queue(database)

    # When it is delivered
    assert deliver(database, chosen) == 1

    # Then the library verifies it with the secret, and not with another or when a byte was changed
    (message,) = receiver.messages
    payload = Verifier(added.secret).verify(message.body, message.headers)
    assert payload["type"] == "job.ended" and payload["data"] == {"n": 0} and "timestamp" in payload
    for secret, body in ((webhooks.signing.new_secret(), message.body), (added.secret, message.body + b" ")):
        with pytest.raises(WebhookVerificationError):
            Verifier(secret).verify(body, message.headers)
    assert message.path == "/hook" and message.headers["content-type"] == "application/json"
    # And it is done, and not sent again
    (row,) = rows(database)
    assert (row.state, row.last_status, row.attempts) == ("done", 204, 1)
    assert message.id == f"msg_{row.id.hex}"
    make_due(database)
    assert deliver(database, chosen) == 0 and len(receiver.messages) == 1


@pytest.mark.parametrize("code", [500, 503, 429, 404, 301])
def test_what_was_not_taken_is_sent_again_under_the_same_id(
    database: Database, chosen: Settings, receiver: Receiver, code: int
) -> None:
    # Given an endpoint that fails twice, and two ends
    receiver.answers = [status(code), status(code)]
    added = hook(chosen, receiver.url)
    queue(database, 2)

    # When it is told, then only once: the endpoint as a whole is left alone
    assert deliver(database, chosen) == 0
    assert deliver(database, chosen) == 0
    assert len(receiver.messages) == 1
    first = rows(database)[0]
    assert (first.state, first.attempts, first.last_status) == ("waiting", 1, code)
    assert str(code) in first.last_error
    assert endpoint(database, added.id).failures == 1 and endpoint(database, added.id).failing_since
    # And later again, until it takes them, each under one id
    make_due(database)
    assert deliver(database, chosen) == 0
    make_due(database)
    assert deliver(database, chosen) == 2
    assert {row.state for row in rows(database)} == {"done"}
    assert len(receiver.messages) == 4 and len({one.id for one in receiver.messages}) == 2
    assert endpoint(database, added.id).failures == 0 and endpoint(database, added.id).failing_since is None


def test_one_message_that_is_refused_does_not_hold_up_the_next(
    database: Database, chosen: Settings, receiver: Receiver
) -> None:
    # Given an endpoint that finds fault with the first of three messages
    receiver.answers = [status(422)]
    hook(chosen, receiver.url)
    queue(database, 3)
    # When it is told, then the others arrive
    assert deliver(database, chosen) == 2
    assert [row.state for row in rows(database)] == ["waiting", "done", "done"]


def test_an_endpoint_that_is_gone_is_told_nothing_more(
    database: Database, chosen: Settings, receiver: Receiver
) -> None:
    # Given an endpoint that answers 410
    receiver.answers = [status(410)]
    added = hook(chosen, receiver.url)
    queue(database, 3)
    # When it is told, then it is disabled, and what waited has failed with the reason
    assert deliver(database, chosen) == 0
    assert "410" in endpoint(database, added.id).disabled_reason
    assert {row.state for row in rows(database)} == {"failed"}
    # And nothing more is queued for it
    queue(database)
    assert len(rows(database)) == 3
    # And when somebody enables it, then all of it is sent
    assert webhooks.retry(added.id, settings=chosen) == 3
    assert deliver(database, chosen) == 3


def test_retry_after_is_honoured_within_bounds(database: Database, chosen: Settings, receiver: Receiver) -> None:
    # Given an endpoint that wants to be left alone for an hour and a half
    receiver.answers = [status(429, Retry_After="5400")]
    added = hook(chosen, receiver.url)
    queue(database)
    # When it was tried, then it is left alone for so long
    deliver(database, chosen)
    left = endpoint(database, added.id).retry_at - time.time()
    assert 5300 < left <= 5401
    # And what cannot be a time is none, and a day is the most
    told = {b"5": 5.0, b"0": 0.0, b"999999999": 86400.0, b"9" * 400: None, b"-5": None, b"soon": None, b"\xff": None}
    told[b"Wed, 21 Oct 2015 07:28:00 GMT"] = 0.0
    for text, wanted in told.items():
        assert _retry_after([(b"Retry-After", text)]) == wanted, text


def test_a_redirect_is_not_followed(database: Database, chosen: Settings, receiver: Receiver, tmp_path: Path) -> None:
    # Given an endpoint that sends on to a server inside, which would be allowed
    with receiving() as inside:
        receiver.answers = [status(307, Location=inside.url)]
        hook(chosen, receiver.url)
        queue(database)
        # When it is told, then that server hears nothing
        assert deliver(database, allowing(tmp_path, chosen.database_url.get_secret_value(), receiver, inside)) == 0
        assert inside.messages == [] and inside.connections == 0
    assert "not followed" in rows(database)[0].last_error


@pytest.mark.parametrize("slowly", [hang, drip])
def test_a_slow_endpoint_ends_by_its_deadline_and_holds_up_nobody(
    database: Database, chosen: Settings, receiver: Receiver, tmp_path: Path, slowly: Any
) -> None:
    # Given an endpoint that says nothing, or something every now and then without an end, and a good one
    with receiving() as good:
        both = allowing(tmp_path, chosen.database_url.get_secret_value(), receiver, good)
        receiver.answers = [slowly]
        bad_hook, _ = hook(both, receiver.url), hook(both, good.url)
        queue(database, 20)
        # When both are told
        began = time.monotonic()
        assert deliver(database, both) == 20
        seconds = time.monotonic() - began
        # Then the good one has all, and the other one ended by its deadline, after one try
        assert len(good.messages) == 20 and len(receiver.messages) == 1
        assert seconds < BUDGET_SECONDS + 10
    assert endpoint(database, bad_hook.id).failures == 1
    assert "no answer within 0.6 s" in next(row.last_error for row in rows(database) if row.attempts and row.last_error)


def test_of_somebody_who_is_forgotten_meanwhile_nobody_is_told(
    database: Database, chosen: Settings, receiver: Receiver
) -> None:
    # Given three ends, and an endpoint that has the third one's row removed while it takes the first
    hook(chosen, receiver.url)
    queue(database, 3)
    *_, third = rows(database)
    taken = status(204)

    def forgets(handler: Any) -> None:
        with database.transaction() as tx:
            tx.execute(delete(Delivery).where(Delivery.id == third.id))
        taken(handler)

    receiver.answers = [forgets]
    # When they are told, which were all read at once, then the third is not sent any more, and the second is
    assert deliver(database, chosen) == 2
    assert third.id.hex not in {one.id.removeprefix("msg_") for one in receiver.messages}
    assert [row.state for row in rows(database)] == ["done", "done"]


def test_a_name_that_hangs_ends_by_the_deadline_of_its_endpoint(
    database: Database, chosen: Settings, receiver: Receiver
) -> None:
    # Given an endpoint whose name is not answered
    over = threading.Event()

    def hangs(_host: str, _port: int) -> list[str]:
        over.wait(60)
        return ["127.0.0.1"]

    added = webhooks.add(
        f"http://hook.test:{receiver.port}/", kinds=(JOB_ENDED,), settings=chosen, resolver=lambda *_: ["127.0.0.1"]
    )
    queue(database)
    try:
        # When it is told, then the try ends by the deadline, and the endpoint is let go of
        began = time.monotonic()
        assert deliver(database, chosen, resolver=hangs) == 0
        assert time.monotonic() - began < BUDGET_SECONDS + 10
    finally:
        over.set()
    assert "cannot be resolved: no answer within" in rows(database)[0].last_error
    assert endpoint(database, added.id).failures == 1 and endpoint(database, added.id).lease_until is None


def test_what_becomes_due_while_a_slow_one_hangs_is_told_in_the_same_round(
    database: Database, chosen: Settings, receiver: Receiver, tmp_path: Path
) -> None:
    # Given a round in which an endpoint hangs for long
    with receiving() as good:
        url = chosen.database_url.get_secret_value()
        both = allowing(tmp_path, url, receiver, good, webhook_timeout_seconds=30.0)
        receiver.answers = [hang]
        hook(both, receiver.url, JOB_ENDED), hook(both, good.url, UNIT_ENDED)
        queue(database)
        round_ = threading.Thread(target=lambda: deliver(database, both, is_over=receiver.over.is_set))
        round_.start()
        receiver.wait(1)
        # When something else ends meanwhile, then the good one is told at once
        queue(database, 1, UNIT_ENDED)
        good.wait(1)
        receiver.over.set()
        round_.join(timeout=60)
    assert not round_.is_alive()


def test_an_endless_answer_is_not_read(database: Database, chosen: Settings, receiver: Receiver) -> None:
    # Given an endpoint that says 200 and then does not stop
    receiver.answers = [flood]
    hook(chosen, receiver.url)
    queue(database)
    # When it is told, then the message counts as taken
    began = time.monotonic()
    assert deliver(database, chosen) == 1
    assert time.monotonic() - began < BUDGET_SECONDS + 10


def test_a_dead_endpoint_costs_one_try_however_much_waits(
    database: Database, tmp_path: Path, database_url: str, receiver: Receiver
) -> None:
    # Given an endpoint where nobody listens, with a hundred messages
    with receiving() as dead:
        pass
    chosen = allowing(tmp_path, database_url, receiver, dead)
    added, _ = hook(chosen, dead.url), hook(chosen, receiver.url)
    queue(database, 100)
    # When all are told, then the good one has all, and the dead one was tried once
    assert deliver(database, chosen) == 100
    tried = [row for row in rows(database) if row.webhook_id == added.id and row.attempts]
    assert len(tried) == 1 and "ConnectError" in tried[0].last_error
    assert endpoint(database, added.id).retry_at > time.time()
    # And when it has been silent for days, then it is disabled with what it said last
    with database.transaction() as tx:
        tx.execute(update(Webhook).where(Webhook.id == added.id).values(failing_since=epoch_now() - 4 * 86_400))
    make_due(database)
    deliver(database, chosen)
    assert "taken nothing for 3 days" in endpoint(database, added.id).disabled_reason


def test_a_message_is_given_up_after_days(database: Database, chosen: Settings, receiver: Receiver) -> None:
    # Given a message that has been tried for days
    receiver.answers = [status(400)]
    hook(chosen, receiver.url)
    queue(database)
    with database.transaction() as tx:
        tx.execute(update(Delivery).values(created_at=utcnow().replace(year=2020)))
    # When it is refused once more, then it is given up
    deliver(database, chosen)
    assert [(row.state, row.last_status) for row in rows(database)] == [("failed", 400)]


def test_a_name_that_points_inside_when_it_counts_is_refused(
    database: Database, tmp_path: Path, database_url: str, receiver: Receiver
) -> None:
    # Given a name that stands for a public address when the webhook is added, and for this machine afterwards
    chosen = allowing(tmp_path, database_url, receiver, webhook_networks="")
    answers = iter([["93.184.216.34"]])
    added = webhooks.add(
        f"http://hook.test:{receiver.port}/", settings=chosen, resolver=lambda *_: next(answers, ["127.0.0.1"])
    )
    queue(database)
    # When it is told, then the number that is connected to was checked: nobody is asked
    assert deliver(database, chosen, resolver=lambda *_: ["127.0.0.1"]) == 0
    assert receiver.connections == 0
    assert "not public" in rows(database)[0].last_error
    assert endpoint(database, added.id).failures == 1


def test_the_connection_goes_to_the_number_that_was_checked(
    database: Database, chosen: Settings, receiver: Receiver
) -> None:
    # Given a name that nobody but our resolver knows, which answers once
    asked: list[str] = []

    def resolver(host: str, _port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    url = f"http://hook.test:{receiver.port}/hook"
    webhooks.add(url, settings=chosen, resolver=resolver)
    queue(database)
    # When it is told, then it was asked once for the connection, and the message names the host
    assert deliver(database, chosen, resolver=resolver) == 1
    assert asked == ["hook.test", "hook.test"]
    assert receiver.messages[0].headers["host"] == f"hook.test:{receiver.port}"


def test_over_tls_the_certificate_must_be_the_names(
    database: Database, tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an endpoint with a certificate for hook.test, which is trusted
    trusted, context = certificate(tmp_path, "hook.test")
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    with receiving(context) as secure:
        chosen = allowing(tmp_path, database_url, secure, webhook_allow_http=False)
        for host in ("hook.test", "other.test"):
            webhooks.add(f"https://{host}:{secure.port}/", settings=chosen, resolver=lambda *_: ["127.0.0.1"])
        queue(database)
        # When it is told under its name and under another one, then only the first hears it
        assert deliver(database, chosen, resolver=lambda *_: ["127.0.0.1"]) == 1
        assert [one.headers["host"] for one in secure.messages] == [f"hook.test:{secure.port}"]
    assert "CERTIFICATE_VERIFY_FAILED" in next(row.last_error for row in rows(database) if row.last_error)


def test_thousands_of_messages_go_over_few_connections(
    database: Database, chosen: Settings, receiver: Receiver, record_property: Any
) -> None:
    # Given as many ends of units as a large job has in a minute
    hook(chosen, receiver.url, UNIT_ENDED)
    queue(database, 2_000, UNIT_ENDED)
    # When they are delivered
    began = time.monotonic()
    assert deliver(database, chosen) == 2_000
    seconds = time.monotonic() - began
    # Then each arrived once, over a connection that is kept
    assert len({one.id for one in receiver.messages}) == len(receiver.messages) == 2_000
    assert receiver.connections <= 2_000 / 100
    record_property("measured", f"2,000 messages to one endpoint in {seconds:.1f} s")


def test_a_ping_is_sent_at_once_and_told(database: Database, chosen: Settings, receiver: Receiver) -> None:
    # Given a webhook that takes the first ping and not the second
    added = hook(chosen, receiver.url)
    receiver.answers = [status(200), status(500)]
    # When it is pinged
    first, second = webhooks.ping(added.id, settings=chosen), webhooks.ping(added.id, settings=chosen)
    # Then each outcome is told, and nothing is left to be sent
    assert (first.taken, first.status) == (True, 200)
    assert (second.taken, second.status) == (False, 500) and "500" in second.error
    assert json.loads(receiver.messages[0].body)["type"] == "ping"
    assert [row["state"] for row in webhooks.latest(added.id, settings=chosen)] == ["failed", "done"]


def test_a_tenants_webhooks_are_its_own(database: Database, chosen: Settings, receiver: Receiver) -> None:
    # Given a webhook of one tenant
    added = hook(chosen, receiver.url)
    queue(database)
    (row,) = webhooks.every(settings=chosen)
    assert row["url"] == receiver.url and row["waiting"] == 1 and "secret" not in row
    # When another one asks for it, tries it or removes it, then there is none
    assert webhooks.every(tenant="globex", settings=chosen) == []
    for ask in (webhooks.remove, webhooks.retry, webhooks.ping, webhooks.latest):
        with pytest.raises(UnknownWebhook, match=str(added.id)):
            ask(added.id, tenant="globex", settings=chosen)
    # And when its own tenant removes it, then nothing is left of it
    webhooks.remove(added.id, settings=chosen)
    assert webhooks.every(settings=chosen) == [] and rows(database) == []


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "whsec_c2hvcnQ=", "secret", "whsec_" + "!" * 40, "whsec_" + "A" * 200]
)
def test_a_secret_that_is_none_is_refused_and_not_repeated(
    database: Database, chosen: Settings, receiver: Receiver, secret: str
) -> None:
    with pytest.raises(WebhookRefused, match="24 to 64 bytes in base64") as caught:
        webhooks.add(receiver.url, secret=secret, settings=chosen)
    assert len(secret) < 8 or secret not in str(caught.value)


def test_waits_double_up_to_an_hour() -> None:
    for failures in (0, 1, 5, 20, 10**6):
        wanted = min(5.0 * 2.0 ** min(failures, 30), LONGEST_WAIT_SECONDS)
        waits = [wait_seconds(failures, 5.0) for _ in range(50)]
        assert all(0.8 * wanted <= wait <= 1.2 * wanted for wait in waits)
        assert len(set(waits)) > 1

"""A clerk that is killed while a webhook has its message: it is sent again, under the same id."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from queue_world import TENANT
from sqlalchemy import select, update
from standardwebhooks import Webhook as Verifier
from test_delivering import allowing, queue
from webhook_receiver import hang, receiving

from jobs import webhooks
from jobs.database import Database, epoch_now
from jobs.models_outside import Delivery, Webhook

ROOT = Path(__file__).resolve().parents[3]


def test_a_message_of_a_killed_clerk_is_sent_again_under_its_id(
    database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a clerk's process in the middle of telling an endpoint, which has the message and has not answered
    with receiving() as receiver:
        receiver.answers = [hang]
        chosen = allowing(tmp_path, database_url, receiver, webhook_timeout_seconds=60.0)
        added = webhooks.add(receiver.url, settings=chosen)
        queue(database)
        told = {
            "DATABASE_URL": database_url,
            "HOME": str(tmp_path),
            "TENANT": TENANT,
            "WEBHOOK_ALLOW_HTTP": "true",
            "WEBHOOK_NETWORKS": chosen.webhook_networks,
            "WEBHOOK_PORTS": chosen.webhook_ports,
            "WEBHOOK_TIMEOUT_SECONDS": "60",
        }
        for name, value in told.items():
            monkeypatch.setenv(f"PORTRAITS_{name}", value)
        with subprocess.Popen(
            [sys.executable, "-m", "worker.cli", "clerk"], env={**os.environ, "PYTHONPATH": str(ROOT)}
        ) as clerk:
            receiver.wait(1)
            # When it is killed
            clerk.send_signal(signal.SIGKILL)
        # Then its lease keeps others off as long as it might still be at it
        assert webhooks.deliver_due(database, chosen, owner="another") == 0
        # And when that has run out, another one sends the message again, under the same id, signed anew
        with database.transaction() as tx:
            tx.execute(update(Webhook).values(lease_until=epoch_now() - 1))
        assert webhooks.deliver_due(database, chosen, owner="another") == 1
        first, second = receiver.messages
        assert first.id == second.id and first.body == second.body
        for message in receiver.messages:
            Verifier(added.secret).verify(message.body, message.headers)
    with database.reading() as tx:
        assert tx.execute(select(Delivery.state)).scalar_one() == "done"

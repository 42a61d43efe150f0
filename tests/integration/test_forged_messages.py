"""Whoever can write to the broker can wake workers, and nothing else: no message makes a worker do anything unasked."""

from __future__ import annotations

import base64
import json
import pickle
import uuid
from pathlib import Path
from typing import Any

import kombu
from sqlalchemy import select
from stacks import PHOTOS, Stack, people_manifest

from jobs import enqueue
from jobs.broker import SHIFT_TASK, Broker, make_app
from jobs.models import Identity, Render


class Touch:
    """What a pickle would run when it is read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


def task(name: str, args: Any, **headers: Any) -> tuple[str, dict[str, Any]]:
    """A message as Celery writes it: the body in JSON, and its headers."""
    body = json.dumps([args, {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    own = {"lang": "py", "task": name, "id": str(uuid.uuid4()), "root_id": None, "parent_id": None, "group": None}
    return body, {**own, "retries": 0, "timelimit": [None, None], "argsrepr": "", "kwargsrepr": "", **headers}


def test_forged_and_odd_messages_do_nothing_and_the_worker_goes_on(tmp_path: Path) -> None:
    # Given a worker, a job, and before it in the queue messages of somebody who must not be trusted
    stack = Stack(tmp_path / "home", {"PORTRAITS_RETENTION_DAYS": "30"})
    marker = tmp_path / "was-run"
    app = make_app(stack.settings)
    queue = stack.settings.queue
    odd: list[tuple[str, dict[str, Any]]] = [
        task(SHIFT_TASK, ["not-an-id"]),
        task(SHIFT_TASK, [{"unit": "'; DROP TABLE units; --"}]),
        task(SHIFT_TASK, []),
        task(SHIFT_TASK, [str(uuid.uuid4())]),
        task("os.system", [f"touch {marker}"]),
        task("portraits.forget", ["ada"]),
        task("portraits.retention", ["acme", 0]),
    ]
    with app.connection_for_write() as connection, connection.channel() as channel:
        producer = kombu.Producer(channel, routing_key=queue)
        kombu.Queue(queue, channel=channel).declare()
        for body, headers in odd:
            producer.publish(
                body, content_type="application/json", content_encoding="utf-8", headers=headers, serializer=None
            )
        hostile = base64.b64encode(pickle.dumps(Touch(marker))).decode()
        _, headers = task(SHIFT_TASK, [])
        for body, kind in ((hostile, "application/x-python-serialize"), ("{", "application/json"), ("!", "text/plain")):
            producer.publish(body, content_type=kind, content_encoding="utf-8", headers=headers)
    app.close()
    told = enqueue(people_manifest(), settings=stack.settings, base=PHOTOS)

    # When the worker takes all of them
    with stack.worker():
        found = stack.wait(lambda status: status.job["waiting"] == 0)
        for said in ("a message names no unit", "os.system", "Refusing to deserialize"):
            stack.wait(lambda _, said=said: said in stack.log())  # type: ignore[misc]
        broker = Broker(stack.settings)
        stack.wait(lambda _: not broker.counts().get(queue))
        broker.close()

    # Then it has said what it refused, the job is drawn as it was asked for, nobody is gone, and nothing was run
    assert (found.job["job_id"], found.job["done"]) == (told.job_id, 12)
    assert not marker.exists()
    with stack.database.reading() as tx:
        assert len(tx.execute(select(Identity.id)).all()) == 3 and len(tx.execute(select(Render.id)).all()) == 12
    stack.database.dispose()

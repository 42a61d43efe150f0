"""The way of an end: a real worker minds a clerk, which tells a real endpoint and makes the gallery."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

from sqlalchemy import select
from stacks import PHOTOS, people_manifest, serverless
from standardwebhooks import Webhook as Verifier
from webhook_receiver import receiving

from jobs import enqueue, webhooks
from jobs.database import Database
from jobs.models_outside import Gallery


def test_a_worker_with_its_clerk_tells_of_the_end_and_makes_the_gallery(tmp_path: Path) -> None:
    # Given an endpoint that wants to be told of everything, and a job
    with receiving() as receiver:
        told = {
            "PORTRAITS_CLERK": "auto",
            "PORTRAITS_WEBHOOK_ALLOW_HTTP": "true",
            "PORTRAITS_WEBHOOK_NETWORKS": "127.0.0.0/8",
            "PORTRAITS_WEBHOOK_PORTS": str(receiver.port),
        }
        with serverless(tmp_path / "home", lambda: None, **told) as stack:  # type: ignore[arg-type, return-value]
            added = webhooks.add(receiver.url, kinds=("unit.ended", "job.ended"), settings=stack.settings)
            job = enqueue(people_manifest(), settings=stack.settings, base=PHOTOS)
            # When a worker draws it
            with stack.worker() as worker:
                stack.wait(lambda found: found.finished)
                # Then the endpoint hears of three units and then of the job, signed with its secret
                receiver.wait(4)
                with receiver.changed:
                    messages = list(receiver.messages)
                # And the gallery is made without anybody having asked for it
                stack.wait(lambda _: _built(stack.database, job.job_id))
            assert worker.returncode == 0, stack.log()
        kinds = [json.loads(message.body)["type"] for message in messages]
        assert kinds == ["unit.ended"] * 3 + ["job.ended"]
        end = Verifier(added.secret).verify(messages[-1].body, messages[-1].headers)
        counts = {name: end["data"]["job"][name] for name in ("key", "state", "renders", "done")}
        assert counts == {"key": job.key, "state": "done", "renders": 12, "done": 12}
        assert "is started again" not in stack.log() and "Traceback" not in stack.log()


def _built(database: Database, job_id: uuid.UUID) -> bool:
    with database.reading() as tx:
        return tx.execute(select(Gallery.built_at).where(Gallery.job_id == job_id)).scalar_one_or_none() is not None

"""Webhooks behind row-level security: a tenant manages its own, the clerk delivers as a worker, nobody sees others'."""

from __future__ import annotations

from pathlib import Path

import pytest
from queue_world import TENANT, add_job, only_postgres, person, settings
from sqlalchemy import text, update
from test_row_security import Roles, roles
from webhook_receiver import receiving

from jobs import webhooks
from jobs.clerk.process import once
from jobs.database import Database
from jobs.errors import UnknownWebhook
from jobs.models import Unit
from jobs.orm import utcnow

__all__ = ["roles"]


@only_postgres
def test_a_tenant_manages_its_own_and_the_clerk_delivers_as_a_worker(
    database: Database,
    database_url: str,
    tmp_path: Path,
    roles: Roles,
) -> None:
    # Given a tenant under the tenants' role with a webhook, another tenant's, and a job that is over
    with receiving() as receiver:
        told = {"webhook_allow_http": True, "webhook_networks": "127.0.0.0/8", "webhook_ports": str(receiver.port)}
        chosen = settings(tmp_path, database_url, tenant=TENANT, database_tenant_role=roles.tenant, **told)
        mine = webhooks.add(receiver.url, kinds=("job.ended", "unit.ended"), settings=chosen)
        theirs = webhooks.add(receiver.url, tenant="globex", settings=chosen)
        assert [row["id"] for row in webhooks.every(settings=chosen)] == [mine.id]
        with pytest.raises(UnknownWebhook):
            webhooks.remove(theirs.id, settings=chosen)
        add_job(database, [person("ada", [1], chosen)])
        with database.transaction() as tx:
            tx.execute(update(Unit).values(state="done", renders_done=1, finished_at=utcnow()))

        # When a clerk that logs in as a worker has its turns
        url = f"{database_url}?options=-c%20role%3D{roles.worker}"
        done = {one.errand: one for one in once(settings(tmp_path, url, **told))}

        # Then it may do all of it, and the tenant sees what came of it
        assert {name: one.fault for name, one in done.items()} == dict.fromkeys(done, "")
        assert (done["ends"].done, done["webhooks"].done, done["galleries"].done) == (1, 2, 1)
        assert len(receiver.messages) == 2
        assert [row["state"] for row in webhooks.latest(settings=chosen)] == ["done", "done"]
        # And it may try, enable and remove its own
        assert webhooks.ping(mine.id, settings=chosen).taken
        assert webhooks.retry(mine.id, settings=chosen) == 0
        webhooks.remove(mine.id, settings=chosen)
    with database.reading() as tx:
        assert tx.execute(text("SELECT count(*) FROM webhooks")).scalar_one() == 1

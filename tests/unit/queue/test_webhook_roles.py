"""Webhooks behind row-level security: a tenant manages its own, the clerk delivers as a worker, nobody sees others'."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from queue_world import TENANT, add_job, only_postgres, person, settings
from sqlalchemy import select, text, update
from test_row_security import Roles, roles
from webhook_receiver import receiving

from jobs import webhooks
from jobs.clerk.errands import tell_ends
from jobs.clerk.process import once
from jobs.database import Database
from jobs.errors import UnknownWebhook
from jobs.models import Unit
from jobs.models_outside import Delivery
from jobs.orm import utcnow
from jobs.repository import erasure, security
from jobs.repository import webhooks as webhooks_rows

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


@only_postgres
def test_who_erases_tells_of_the_job_that_ended_by_it(database: Database, database_url: str, tmp_path: Path) -> None:
    # Given a job of two, one of whom is drawn and told of, a webhook, and a login that may erase and little else
    chosen = settings(tmp_path, database_url)
    end = uuid.uuid4().hex[:10]
    names = [f"portraits_{kind}_{end}" for kind in ("t", "w", "p")]
    with database.transaction() as tx:
        webhooks_rows.add(tx, TENANT, url="https://x.example/", secret="whsec_x", kinds=["job.ended"])
    add_job(database, [person("ada", [1], chosen), person("alan", [1], chosen)])
    with database.transaction() as tx:
        ids = list(tx.execute(select(Unit.id, Unit.identity_id).order_by(Unit.id)))
        done = {"state": "done", "renders_done": 1, "finished_at": utcnow()}
        tx.execute(update(Unit).where(Unit.id == ids[0].id).values(**done))
    assert tell_ends(database) == 1
    try:
        with database.transaction() as tx:
            security.apply(tx, *names)
        # When the other one is erased under that login
        desk = Database(f"{database_url}?options=-c%20role%3D{names[2]}")
        with desk.transaction() as tx:
            assert erasure.erase(tx, TENANT, ids[1].identity_id)
        desk.dispose()
        # Then the job's end is queued
        with database.reading() as tx:
            assert tx.execute(select(Delivery.kind)).scalars().all() == ["job.ended"]
    finally:
        with database.transaction() as tx:
            for name in names:
                tx.exec_driver_sql(f"DROP OWNED BY {name}")
                tx.exec_driver_sql(f"DROP ROLE {name}")

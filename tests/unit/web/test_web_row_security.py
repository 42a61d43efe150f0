"""Behind row-level security: all of it works under the tenants' role, and a forgotten WHERE tells nothing."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from queue_world import only_postgres
from queue_world import settings as queue_settings
from sqlalchemy import select
from web_world import ACME, GLOBEX, Site, manifest, photo_bytes, sha256

from jobs.database import Database
from jobs.models import Job
from jobs.repository import security


@pytest.fixture
def walled(database: Database, database_url: str, tmp_path: Path) -> Iterator[Site]:
    """The application, whose transactions of one tenant run under a role that sees that tenant's rows."""
    end = uuid.uuid4().hex[:10]
    tenant_role, worker_role = f"portraits_t_{end}", f"portraits_w_{end}"
    with database.transaction() as tx:
        security.apply(tx, tenant_role, worker_role)
    folder = tmp_path / "people"
    folder.mkdir()
    settings = queue_settings(tmp_path / "home", database_url, database_tenant_role=tenant_role, serve_metrics=True)
    site = Site(settings, database, folder)
    with site.client:
        yield site
    with database.transaction() as tx:
        for role in (tenant_role, worker_role):
            tx.exec_driver_sql(f"DROP OWNED BY {role}")
            tx.exec_driver_sql(f"DROP ROLE {role}")


@only_postgres
def test_all_of_it_works_behind_the_wall(walled: Site) -> None:
    # Given photos that are sent and jobs that are enqueued, cancelled and drawn, all under the tenant's role
    source = walled.send(photo_bytes("green"))
    answer = walled.ask("POST", "/jobs", json=manifest("ada", photo=source))
    assert answer.status_code == 201, answer.text
    walled.draw()
    other = walled.ask("POST", "/jobs", json=manifest("ben", key="other", photo=source)).json()["job_id"]
    assert walled.ask("POST", f"/jobs/{other}/cancel").json()["cancelled"] == 2

    # Then everything can be read, on pages too
    assert walled.get("/jobs/spring")["state"] == "done"
    picture = walled.get("/jobs/spring/pictures")["pictures"][0]["render_id"]
    walled.log_in()
    for path in ("/jobs", "/jobs/spring", "/jobs/spring/pictures", f"/pictures/{picture}", "/workers", "/api"):
        assert walled.client.get(path).status_code == 200, path
    assert walled.ask("GET", f"/pictures/{picture}", tenant=GLOBEX).status_code == 404
    assert walled.client.get("/metrics").status_code == 200
    shown = {"Cookie": "; ".join(f"{name}={value}" for name, value in walled.client.cookies.items())}
    assert walled.client.post("/logout").headers["location"] == "/login"
    assert walled.client.get("/jobs", headers=shown).status_code == 303


@only_postgres
def test_a_statement_that_forgot_its_tenant_tells_nothing(walled: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a job of one tenant, and a query of ours that forgot whose jobs it lists
    walled.send(photo_bytes("green"))
    walled.ask("POST", "/jobs", json=manifest("ada", photo=f"sha256:{sha256(photo_bytes('green'))}"))
    from jobs.repository import queries

    def forgot(tenant_id: str, *, limit: int, after: Any) -> Any:
        return select(Job.id).limit(limit)

    monkeypatch.setattr(queries, "jobs_page", forgot)

    # Then its own tenant sees it, and another one does not
    assert [job["key"] for job in walled.get("/jobs", tenant=ACME)["jobs"]] == ["spring"]
    assert walled.get("/jobs", tenant=GLOBEX)["jobs"] == []

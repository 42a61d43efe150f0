"""Who may erase: the privacy role can forget and keep nobody too long, and no other role can, nor more than that."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from privacy_world import PEOPLE, PrivacyWorld
from queue_world import TENANT, World, add_job, only_postgres, person
from sqlalchemy import make_url, select, text

from jobs import privacy
from jobs.database import Database
from jobs.errors import SettingsInvalid
from jobs.models import Unit
from jobs.privacy import retention
from jobs.privacy.verifying import Sought
from jobs.repository import security
from jobs.settings import Settings
from worker.process import WorkerProcess


@dataclass
class Logins:
    """Three logins of one database, each a member of one role."""

    database: Database
    names: dict[str, str]

    def url(self, role: str) -> str:
        url = make_url(self.database.engine.url).set(username=self.names[role])
        return url.render_as_string(hide_password=False)

    def settings(self, role: str, settings: Settings) -> Settings:
        """The same installation, logged in under a role."""
        fields = {**settings.model_dump(), "database_url": self.url(role)}
        return Settings(**fields)


@pytest.fixture
def logins(database: Database) -> Iterator[Logins]:
    """The wall and the roles, as `portraits db roles --apply` makes them, and a login for each."""
    end = uuid.uuid4().hex[:10]
    names = {role: f"portraits_{role}_{end}" for role in ("tenant", "worker", "privacy")}
    with database.transaction() as tx:
        security.apply(tx, names["tenant"], names["worker"], names["privacy"])
        for name in names.values():
            tx.exec_driver_sql(f"ALTER ROLE {name} LOGIN")
    yield Logins(database, names)
    with database.transaction() as tx:
        for name in names.values():
            tx.exec_driver_sql(f"DROP OWNED BY {name}")
            tx.exec_driver_sql(f"DROP ROLE {name}")


@only_postgres
def test_the_privacy_role_forgets_verifies_and_sweeps(people: PrivacyWorld, world: World, logins: Logins) -> None:
    # Given a login that is only a member of the privacy role
    mine = logins.settings("privacy", world.settings)

    # When it forgets somebody, verifies that, and does the day's sweep, then nothing is refused, and nothing is left
    told = privacy.forget(PEOPLE[0], settings=mine)
    sought = Sought.of(TENANT, names=[PEOPLE[0]], receipt=told.receipt)
    assert list(privacy.remains(sought, settings=mine)) == [] and told.removed > 0
    assert retention.sweep(mine).people == 0 and len(privacy.audits(settings=mine)) == 1

    # And a whole tenant
    privacy.forget_tenant(TENANT, settings=mine)
    left = list(privacy.remains(Sought.everything_of(TENANT), settings=mine))
    assert [one for one in left if "audits" not in one.where] == []


@only_postgres
def test_no_other_role_can_erase_and_workers_leave_it_to_one_that_can(
    people: PrivacyWorld, world: World, logins: Logins, caplog: pytest.LogCaptureFixture
) -> None:
    # Given logins of the tenants' and of the workers' role
    for role in ("tenant", "worker"):
        # When one of them wants to forget somebody, then the database refuses, or shows nobody
        with pytest.raises(Exception, match=r"permission denied|knows nobody|is visible"):
            privacy.forget(PEOPLE[0], settings=logins.settings(role, world.settings))
    assert PEOPLE[0] in people.names()

    # And a worker's turn says once that it may not, and goes on clearing up what others have erased
    worker = Database(logins.url("worker"))
    retention._say_once.cache_clear()
    privacy.forget(PEOPLE[1], settings=world.settings)
    for _ in range(2):
        retention.turn(worker, world.storage, world.settings)
    worker.dispose()
    assert caplog.text.count("may not erase anybody") == 1 and "portraits db roles" in caplog.text
    with pytest.raises(SettingsInvalid, match="portraits privacy sweep"):
        retention.sweep(logins.settings("worker", world.settings))


@only_postgres
def test_the_privacy_role_has_no_right_beyond_that(people: PrivacyWorld, logins: Logins) -> None:
    # Given the privacy role, when it wants to enqueue, to draw, to tell the fleet something, or to change an audit
    bound = Database(logins.url("privacy"))
    for statement in (
        "INSERT INTO renders SELECT * FROM renders",
        "UPDATE renders SET state = 'done'",
        "UPDATE tenants SET max_people = 1000",
        "UPDATE workers SET drain_requested_at = 1",
        "UPDATE controls SET paused_at = now()",
        "UPDATE audits SET reason = 'none'",
        "DELETE FROM audits",
        "INSERT INTO tokens SELECT * FROM tokens",
        "CREATE TABLE mine (id int)",
    ):
        # Then the database refuses
        with pytest.raises(SettingsInvalid, match="permission denied"), bound.transaction() as tx:
            tx.execute(text(statement))
    bound.dispose()


@only_postgres
def test_workers_do_not_read_the_audit(people: PrivacyWorld, logins: Logins) -> None:
    # Given the workers' and the tenants' logins, when one reads who erased what, then it is refused
    for role in ("tenant", "worker"):
        bound = Database(logins.url(role))
        with pytest.raises(SettingsInvalid, match="permission denied"), bound.reading() as tx:
            tx.execute(text("SELECT count(*) FROM audits"))
        bound.dispose()


@only_postgres
def test_a_worker_draws_under_the_rights_of_an_earlier_version(
    database: Database,
    world: World,
    logins: Logins,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given a worker's login that was given its rights before there was a table of what to drop, and looks often
    with database.transaction() as tx:
        tx.exec_driver_sql(f"REVOKE ALL ON forgettings FROM {logins.names['worker']}")
    profiles = tmp_path / "profiles.toml"
    profiles.write_text('[profiles.fake]\nrenderer = "fake"\nbatch_size = 1\n')
    changes = {"profiles_file": profiles, "lease_seconds": 3.0}
    mine = logins.settings("worker", world.settings.model_copy(update=changes))
    job = add_job(database, [person("ada-quill", [4], world.settings)])
    with database.reading() as tx:
        unit = tx.execute(select(Unit.id)).scalar_one()

    # When it draws for longer than a lease lives, then it keeps its lease, and warns once that it cannot look
    monkeypatch.setenv("PORTRAITS_FAKE_STEP_SECONDS", "0.6")
    worker = WorkerProcess(mine)
    worker.run_shift(unit, "fake")
    worker.close()
    told = world.job(job)
    assert told["done"] == 4 and [row["state"] for row in world.renders(job)] == ["done"] * 4
    with database.reading() as tx:
        assert tx.execute(select(Unit.attempts)).scalar_one() == 1
    assert caplog.text.count("is looked for again later") == 1

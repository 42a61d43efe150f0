"""Who may do what in the compose file: a login and the store's keys for each kind of process, and the wall stands."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path

from services import fresh_postgres
from sqlalchemy import make_url, text
from test_docker import DOCKER, OURS, ROOT, SERVICES, commands_in, make_secrets, run, secrets_of

from jobs.database import Database
from jobs.repository import security

ROLES = (security.TENANT_ROLE, security.WORKER_ROLE, security.PRIVACY_ROLE)
MEMBERS = """
    SELECT login.rolname::text, string_agg(role.rolname, ' '), bool_or(
      NOT login.rolcanlogin OR login.rolsuper OR login.rolcreaterole OR login.rolcreatedb OR login.rolbypassrls
      OR login.rolpassword NOT LIKE 'SCRAM-SHA-256%' OR login.rolpassword IS NULL)
    FROM pg_auth_members JOIN pg_authid AS login ON login.oid = member JOIN pg_roles AS role ON role.oid = roleid
    WHERE login.rolname LIKE :end GROUP BY 1
"""
RIGHTS = "SELECT has_table_privilege('identities', 'DELETE'), has_table_privilege('audits', 'DELETE')"


def psql(url: str, folder: Path) -> None:
    """Runs the script of `logins` as its container does, on this database."""
    (line,) = SERVICES["logins"]["command"]
    at = make_url(url)
    assert "--set secrets=/run/secrets --file /logins.sql" in line
    words = ["psql", "--no-psqlrc", "--quiet", "--set", f"secrets={folder / 'secrets'}"]
    words += ["--file", str(folder / "logins.sql")]
    run(*words, at.set(drivername="postgresql").render_as_string(hide_password=False))


def test_each_service_has_the_login_and_the_keys_of_its_kind_alone() -> None:
    # Given what each kind of process is given in docs/reference/access.md
    kinds = {
        "producer": ("api_database_url", "producer_aws_credentials"),
        "worker": ("worker_database_url", "worker_aws_credentials"),
        "privacy": ("upkeep_database_url", "privacy_aws_credentials"),
        "owner": ("owner_database_url", None),
    }
    services = {
        **dict.fromkeys(("api", "cli"), "producer"),
        **dict.fromkeys(("clerk", "numbers", "worker-gpu", "worker-mini"), "worker"),
        "upkeep": "privacy",
        **dict.fromkeys(("migrate", "owner"), "owner"),
    }
    assert services.keys() | {"flower"} == OURS.keys() and secrets_of("flower").keys().isdisjoint({"aws_credentials"})

    # Then every service of ours has these and no other's, and who serves one tenant at a time is held to it
    for name, kind in services.items():
        found = secrets_of(name)
        assert (found["portraits_database_url"], found.get("aws_credentials")) == kinds[kind], name
        assert not [one for one in found.values() if one.endswith("_password")], name
        role = OURS[name]["environment"].get("PORTRAITS_DATABASE_TENANT_ROLE")
        assert role == (security.TENANT_ROLE if kind == "producer" else None), name

    # And what runs all day waits until the logins are there, and one of them does the day's sweeps
    assert all("logins" in OURS[name]["depends_on"] for name in services if name != "migrate")
    daily = commands_in(OURS["upkeep"]["command"])
    assert [one[:3] for one in daily] == [["portraits", "privacy", "sweep"], ["portraits", "sweep", "--delete"]]


def test_the_stores_identities_have_the_policies_that_are_documented(tmp_path: Path) -> None:
    # Given the policies of the reference, for the compose file's bucket
    url = OURS["api"]["environment"]["PORTRAITS_STORAGE_URL"]
    bucket, prefix = url.removeprefix("s3://").split("/")
    page = (ROOT / "docs" / "reference" / "access.md").read_text(encoding="utf-8")
    documented = re.findall(r"```json\n(.*?)```", page.replace("BUCKET", bucket).replace("PREFIX", prefix), re.DOTALL)

    # When the store's configuration is written
    found, _ = make_secrets(tmp_path, "rabbitmq")
    made = json.loads(found["store_identities"])

    # Then each identity has its policy, keys of its own and no right beside them
    policies = {one["name"]: json.loads(one["content"]) for one in made["policies"]}
    assert list(policies) == ["producer", "worker", "privacy"]
    assert list(policies.values()) == [json.loads(one) for one in documented]
    for one in made["identities"]:
        (key,) = one["credentials"]
        assert one["policyNames"] == [one["name"]] and "actions" not in one
        assert f"aws_secret_access_key = {key['secretKey']}\n" in found[f"{one['name']}_aws_credentials"]


def test_the_logins_are_members_of_their_roles_and_hold_no_other_right(tmp_path: Path) -> None:
    # Given a database with the roles, all under names of this test's, as names are the whole server's
    end = uuid.uuid4().hex[:10]
    found, _ = make_secrets(tmp_path, "redis")
    sql = (DOCKER / "logins.sql").read_text(encoding="utf-8")
    roles = {kind: f"{name}_{end}" for kind, name in zip(("api", "worker", "upkeep"), ROLES, strict=True)}
    for kind, role in zip(roles, ROLES, strict=True):
        sql = re.sub(rf"{role}\b", roles[kind], sql.replace(f"portraits_{kind}_login", f"in_{kind}_{end}"))
    (tmp_path / "logins.sql").write_text(sql, encoding="utf-8")
    with fresh_postgres() as url:
        owner = Database(url)
        owner.upgrade()
        with owner.transaction() as tx:
            security.apply(tx, *roles.values())
        try:
            # When the script has run twice, as after an upgrade
            for _ in range(2):
                psql(url, tmp_path)

            # Then each login has a password, is a member of its role alone, and nothing more
            with owner.reading() as tx:
                rows = tx.execute(text(MEMBERS), {"end": f"in_%_{end}"}).all()
            found_members = {(login, role) for login, role, is_wrong in rows if not is_wrong}
            assert found_members == {(f"in_{kind}_{end}", role) for kind, role in roles.items()}
            assert len(rows) == 3
            for kind in roles:
                login = make_url(url).set(username=f"in_{kind}_{end}", password=found[f"{kind}_database_password"])
                bound = Database(login.render_as_string(hide_password=False))
                with bound.reading() as tx:
                    deletes, audits = tx.execute(text(RIGHTS)).one()
                bound.dispose()
                assert (deletes, audits) == (kind == "upkeep", False), kind
        finally:
            with owner.transaction() as tx:
                for name in (*(f"in_{kind}_{end}" for kind in roles), *roles.values()):
                    tx.exec_driver_sql(f"DROP OWNED BY {name}")
                    tx.exec_driver_sql(f"DROP ROLE {name}")
            owner.dispose()

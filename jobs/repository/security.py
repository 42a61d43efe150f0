"""The second wall between tenants, on PostgreSQL: roles that may do little, and row-level security under them.

The first wall is that every statement names its tenant. Behind the second one a statement that forgot to would still
see and change the rows of one tenant only: those whose `tenant_id` is the setting `portraits.tenant` of its
transaction; without the setting, none. It stands where `portraits db roles --apply` has been run: an installation whose
processes log in under roles of its own must not lose sight of its rows by an upgrade. The tables' owner is not bound.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sqlalchemy import Connection, Table, text

from jobs.errors import SettingsInvalid
from jobs.migrating import lock_tables
from jobs.models import METADATA
from jobs.repository import planner

SETTING = "portraits.tenant"
TENANT_ROLE, WORKER_ROLE, PRIVACY_ROLE = "portraits_tenant", "portraits_worker", "portraits_privacy"
LEAST_VERSION = 150_000
"""PostgreSQL 15: from then on a view can be read with the rights of who reads it."""
TENANT_VIEWS = ("identity_status", "job_status", "render_metrics", "render_outputs")
FLEET_VIEWS = ("shift_metrics",)
_ROLE = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_READ_BY_TENANTS = ("workers", "controls", "shifts", "alembic_version")
# What enqueueing, status, cancel, pause, retry and rerun write. Of `tenants` a column that nothing reads, as a row can
# be locked only by who may change it.
_WRITTEN_BY_TENANTS = {
    "INSERT": [
        "identities",
        "photos",
        "photo_sets",
        "photo_set_members",
        "photo_set_photos",
        "jobs",
        "job_pictures",
        "units",
        "renders",
        "events",
        "weight_sets",
        "weight_set_sources",
        "galleries",
        "uploads",
        "webhooks",
        "deliveries",
    ],
    "UPDATE": [
        "identities",
        "jobs",
        "units",
        "renders",
        "weight_sets",
        "shares",
        "galleries",
        "uploads",
        "webhooks",
        "deliveries",
    ],
    "DELETE": ["uploads", "webhooks", "deliveries"],
    "UPDATE (last_used_at, ended_sessions)": ["tokens"],
    "INSERT (id, created_at, weight)": ["tenants"],
    "UPDATE (created_at)": ["tenants"],
}
_WRITTEN_BY_WORKERS = {
    "INSERT": [
        "candidates",
        "outputs",
        "events",
        "weight_sets",
        "weight_set_sources",
        "shares",
        "workers",
        "shifts",
        "leaders",
        "galleries",
        "deliveries",
    ],
    "UPDATE": [
        "jobs",
        "units",
        "renders",
        "photo_set_photos",
        "weight_sets",
        "shares",
        "workers",
        "leaders",
        "controls",
        "candidates",
        "outputs",
        "galleries",
        "webhooks",
        "deliveries",
        "forgettings",
    ],
    "DELETE": ["shifts", "workers", "uploads", "forgettings", "deliveries"],
}
_NOT_READ_BY_WORKERS = {"audits"}
# What forgetting and retention write beside what they delete; most of it only to be locked, or to be counted down.
# Erasing may end a job, which is told of: so deliveries and galleries too, and of webhooks a column to lock them by.
_WRITTEN_BY_PRIVACY = {
    "INSERT": ["audits", "deliveries", "events", "forgettings", "galleries", "leaders"],
    "UPDATE (served_at)": ["webhooks"],
    "UPDATE": [
        "jobs",
        "identities",
        "photos",
        "photo_sets",
        "weight_sets",
        "units",
        "shares",
        "galleries",
        "forgettings",
        "leaders",
    ],
}


def enter(tx: Connection, role: str, tenant_id: str) -> None:
    """Bind this transaction to a tenant: its statements run as `role`, and see this tenant's rows."""
    statement = text(f"SELECT set_config('role', :role, true), set_config('{SETTING}', :tenant, true)")
    tx.execute(statement, {"role": role, "tenant": tenant_id})


def tenant_tables() -> dict[str, str]:
    """Every table that holds a tenant's rows, and the column that says whose: of `tenants` its name."""
    found = {table.name: column for table in METADATA.tables.values() if (column := _owner_column(table))}
    return dict(sorted(found.items()))


def _owner_column(table: Table) -> str | None:
    if table.name == "tenants":
        return "id"
    return "tenant_id" if "tenant_id" in table.columns else None


def role_statements(
    tenant_role: str = TENANT_ROLE, worker_role: str = WORKER_ROLE, privacy_role: str | None = None
) -> list[str]:
    """The SQL that makes the roles, if they are missing, gives them their rights, and puts up the wall; to be run by
    the owner of the tables, as often as one likes. Without `privacy_role` only the owner may erase.

    Raises SettingsInvalid for a name that is none, or for one twice.
    """
    roles = [role for role in (tenant_role, worker_role, privacy_role) if role is not None]
    twice = next((role for role in roles if roles.count(role) > 1), None)
    if twice is not None:
        raise SettingsInvalid(
            f"two roles are called {twice!r}; wanted two, as workers see the rows of every tenant, and who erases may "
            "delete them"
        )
    for role in roles:
        if not _ROLE.fullmatch(role):
            raise SettingsInvalid(f"{role!r} is no name of a role; wanted lower case letters, digits and underscores")
    told = [_make_role(role) for role in roles]
    told += [statement for role in roles for statement in _grants(role, tenant_role, worker_role)]
    for table in tenant_tables():
        told += wall_of(table, worker_role, privacy_role)
    told += planner.function_statements(tenant_role)
    return [*told, *(f"ALTER VIEW {view} SET (security_invoker = true)" for view in TENANT_VIEWS)]


def _grants(role: str, tenant_role: str, worker_role: str) -> list[str]:
    """What one of the roles may read and write."""
    fleet = {name for name in METADATA.tables if name not in tenant_tables()} | {"alembic_version"}
    views = (*TENANT_VIEWS, *FLEET_VIEWS)
    if role == tenant_role:
        read, written = (*tenant_tables(), *_READ_BY_TENANTS, *views), _WRITTEN_BY_TENANTS
    elif role == worker_role:
        read, written = (*tenant_tables(), *sorted(fleet - _NOT_READ_BY_WORKERS), *views), _WRITTEN_BY_WORKERS
    else:
        read = (*tenant_tables(), *sorted(fleet), "job_status")
        written = {**_WRITTEN_BY_PRIVACY, "DELETE": [*tenant_tables(), "forgettings"]}
    told = [f"GRANT SELECT ON {', '.join(read)} TO {role}"]
    return told + [f"GRANT {right} ON {', '.join(sorted(tables))} TO {role}" for right, tables in written.items()]


def wall_of(table: str, worker_role: str, privacy_role: str | None = None) -> list[str]:
    """The statements that put the wall up around one table; workers serve every tenant, and who erases any of them."""
    mine = f"{tenant_tables()[table]} = current_setting('{SETTING}', true)"
    told = [
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
        f"DROP POLICY IF EXISTS portraits_tenant ON {table}",
        f"CREATE POLICY portraits_tenant ON {table} USING ({mine}) WITH CHECK ({mine})",
    ]
    for name, role in (("portraits_worker", worker_role), ("portraits_privacy", privacy_role)):
        if role is not None:
            told += [
                f"DROP POLICY IF EXISTS {name} ON {table}",
                f"CREATE POLICY {name} ON {table} TO {role} USING (true) WITH CHECK (true)",
            ]
    return told


def _make_role(role: str) -> str:
    there = f"SELECT FROM pg_roles WHERE rolname = '{role}'"
    return f"DO $$ BEGIN IF NOT EXISTS ({there}) THEN CREATE ROLE {role} NOLOGIN; END IF; END $$"


def apply(tx: Connection, tenant_role: str, worker_role: str, privacy_role: str | None = None) -> None:
    """Run `role_statements`. Raises SettingsInvalid on a database that has no such wall, and for a role that would see
    over it.
    """
    if tx.dialect.name != "postgresql":
        raise SettingsInvalid("roles and row-level security need PostgreSQL; an SQLite file has one user")
    found = int(tx.execute(text("SHOW server_version_num")).scalar_one())
    if found < LEAST_VERSION:
        raise SettingsInvalid(f"row-level security behind views needs PostgreSQL 15 or newer, found {found // 10_000}")
    statements = role_statements(tenant_role, worker_role, privacy_role)
    for role, others in ((tenant_role, worker_role), (worker_role, ""), (privacy_role, "")):
        if role is not None:
            _require_bound(tx, role, others)
    lock_tables(tx, ", ".join((*TENANT_VIEWS, *tenant_tables())))
    for statement in statements:
        tx.exec_driver_sql(statement)


def _require_bound(tx: Connection, role: str, others: str) -> None:
    """Refuse a role that is, or may become, one that no wall holds: a superuser, one that bypasses row security, an
    owner of the tables, or the role `others`. Raises SettingsInvalid.
    """
    owners = (
        "SELECT relowner FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relname = ANY (:tables)"
    )
    statement = text(
        "SELECT free.rolname::text FROM pg_roles AS mine CROSS JOIN pg_roles AS free WHERE mine.rolname = :role "
        f"AND (free.rolsuper OR free.rolbypassrls OR free.rolname = :others OR free.oid IN ({owners})) "
        "AND pg_has_role(mine.oid, free.oid, 'MEMBER') ORDER BY free.rolname <> mine.rolname, free.rolname LIMIT 1"
    )
    asked = {"role": role, "others": others, "tables": list(tenant_tables())}
    found = tx.execute(statement, asked).scalar_one_or_none()
    if found is not None:
        is_or_may = "is" if found == role else f"may act as {found!r}, which is"
        raise SettingsInvalid(
            f"the role {role!r} {is_or_may} a superuser, the tables' owner, or one that row-level security does not "
            "hold; wanted a role without such rights: name another, or one that does not exist yet"
        )


def keep_up(tx: Connection) -> None:
    """After an upgrade: where the wall stands, put it around new tables and views too. The roles' rights on these are
    given by `portraits db roles --apply`.
    """
    if tx.dialect.name != "postgresql":
        return
    worker_role = _role_of(tx, "portraits_worker")
    if worker_role is None:
        return
    privacy_role = _role_of(tx, "portraits_privacy")
    for table in _without_wall(tx):
        for statement in wall_of(table, worker_role, privacy_role):
            tx.exec_driver_sql(statement)
    for view in _views_of_the_owner(tx):
        tx.exec_driver_sql(f"ALTER VIEW {view} SET (security_invoker = true)")


def _role_of(tx: Connection, policy: str) -> str | None:
    """The role that a policy names; None where there is no such policy, as no wall stands or it is an earlier one."""
    statement = text(
        "SELECT roles[1]::text FROM pg_policies WHERE schemaname = current_schema() AND tablename = 'units' "
        "AND policyname = :policy"
    )
    found: str | None = tx.execute(statement, {"policy": policy}).scalar_one_or_none()
    return found


def _without_wall(tx: Connection) -> Sequence[str]:
    statement = text(
        "SELECT relname::text FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r' "
        "AND NOT relrowsecurity"
    )
    found = set(tx.execute(statement).scalars())
    return [table for table in tenant_tables() if table in found]


def _views_of_the_owner(tx: Connection) -> Sequence[str]:
    """The views of tenants' rows that are read with their owner's rights."""
    statement = text(
        "SELECT relname::text FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'v' "
        "AND NOT coalesce('security_invoker=true' = ANY (reloptions), false)"
    )
    found = set(tx.execute(statement).scalars())
    return [view for view in TENANT_VIEWS if view in found]

"""Pausing jobs and the fleet, draining workers, shares and limits of tenants.

Expand only, but for one CHECK that is widened: a unit may be `paused`. A process of 0.2.0 or 0.3.0 that runs or is
started claims only what is `ready`, so it leaves paused jobs alone without knowing of them; it does not know that the
fleet is paused, that it is to be drained, or whose turn it is. A worker of this version needs this schema.
SQLite keeps a CHECK in the table's text and nowhere else; it is changed there, as SQLite's own manual says ("Making
Other Kinds Of Table Schema Changes"), because copying `units` would mean copying everything that refers to it.

Revision: 0004, after 0003.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from jobs import migrating

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

OLD_CHECK = "state IN ('ready', 'leased', 'done', 'failed', 'cancelled')"
NEW_CHECK = "state IN ('ready', 'leased', 'done', 'failed', 'cancelled', 'paused')"
# With its CHECK, which Alembic does not add on SQLite; NaN, greater than all numbers to PostgreSQL, does not pass.
WEIGHT = (
    "ALTER TABLE tenants ADD COLUMN weight {double} DEFAULT '1' NOT NULL "
    "CONSTRAINT ck_tenants_weight CHECK (weight > 0 AND weight <= 1000)"
)
# Views first: whoever reads one locks it before the tables under it.
LOCKED = "job_status, identity_status, tenants, jobs, units, workers"
JOB_STATUS = """
        SELECT j.tenant_id, j.id AS job_id, j.key, j.name, j.profile, j.priority,
               CASE
                 WHEN j.cancelled_at IS NOT NULL AND u.waiting = 0 THEN 'cancelled'
                 WHEN u.waiting = 0 AND u.failed = 0 THEN 'done'
                 WHEN u.waiting = 0 AND u.done = 0 THEN 'failed'
                 WHEN u.waiting = 0 THEN 'partial'{paused}
                 WHEN u.running > 0 OR u.done + u.failed > 0 THEN 'running'
                 ELSE 'waiting'
               END AS state,
               j.identities_total AS identities, j.units_total AS units, j.renders_total AS renders,
               u.waiting, u.running, u.done, u.failed, u.cancelled, j.created_at,
               CASE WHEN u.waiting = 0 THEN u.finished_at END AS finished_at{more}
        FROM jobs j
        JOIN (SELECT tenant_id, job_id,
                     sum(renders_total - renders_done - renders_failed - renders_cancelled) AS waiting,
                     sum(CASE WHEN state = 'leased' THEN renders_total - renders_done - renders_failed ELSE 0 END)
                       AS running,
                     sum(renders_done) AS done, sum(renders_failed) AS failed, sum(renders_cancelled) AS cancelled,
                     max(finished_at) AS finished_at
              FROM units GROUP BY tenant_id, job_id) u
          ON u.tenant_id = j.tenant_id AND u.job_id = j.id"""
IDENTITY_STATUS = """
        SELECT u.tenant_id, u.job_id, u.identity_id, i.external_id,
               CASE
                 WHEN u.waiting = 0 AND u.cancelled > 0 AND u.done + u.failed = 0 THEN 'cancelled'
                 WHEN u.waiting = 0 AND u.failed + u.cancelled = 0 THEN 'done'
                 WHEN u.waiting = 0 AND u.done = 0 THEN 'failed'
                 WHEN u.waiting = 0 THEN 'partial'{paused}
                 WHEN u.leased > 0 OR u.done + u.failed > 0 THEN 'running'
                 ELSE 'waiting'
               END AS state,
               u.renders, u.waiting, u.done, u.failed, u.cancelled,
               (SELECT e.error_code FROM units e
                WHERE e.tenant_id = u.tenant_id AND e.job_id = u.job_id AND e.identity_id = u.identity_id
                  AND e.error_code IS NOT NULL ORDER BY e.id LIMIT 1) AS error_code,
               (SELECT e.error FROM units e
                WHERE e.tenant_id = u.tenant_id AND e.job_id = u.job_id AND e.identity_id = u.identity_id
                  AND e.error_code IS NOT NULL ORDER BY e.id LIMIT 1) AS error,
               CASE WHEN u.waiting = 0 THEN u.finished_at END AS finished_at
        FROM (SELECT tenant_id, job_id, identity_id, sum(renders_total) AS renders,
                     sum(renders_total - renders_done - renders_failed - renders_cancelled) AS waiting,
                     sum(CASE WHEN state = 'leased' THEN 1 ELSE 0 END) AS leased,{count}
                     sum(renders_done) AS done, sum(renders_failed) AS failed, sum(renders_cancelled) AS cancelled,
                     max(finished_at) AS finished_at
              FROM units GROUP BY tenant_id, job_id, identity_id) u
        JOIN identities i ON i.tenant_id = u.tenant_id AND i.id = u.identity_id"""
JOB_PAUSED = "\n                 WHEN j.paused_at IS NOT NULL THEN 'paused'"
PERSON_PAUSED = "\n                 WHEN u.paused > 0 THEN 'paused'"
PERSON_COUNT = "\n                     sum(CASE WHEN state = 'paused' THEN 1 ELSE 0 END) AS paused,"


def _columns() -> dict[str, list[sa.Column[object]]]:
    """The new columns of each table, made anew: a column belongs to one statement."""
    return {
        "jobs": [sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True)],
        "workers": [
            sa.Column("drain_requested_at", sa.Double(), nullable=True),
            sa.Column("busy", sa.Boolean(), nullable=True),
        ],
        "tenants": [
            sa.Column("max_people", sa.BigInteger(), nullable=True),
            sa.Column("max_waiting_renders", sa.BigInteger(), nullable=True),
            sa.Column("max_stored_bytes", sa.BigInteger(), nullable=True),
            sa.Column("max_renders_per_minute", sa.BigInteger(), nullable=True),
        ],
    }


def upgrade() -> None:
    lock_tables(op.get_bind())
    is_postgres = op.get_bind().dialect.name == "postgresql"
    op.execute(WEIGHT.format(double="DOUBLE PRECISION" if is_postgres else "DOUBLE"))
    for table, columns in _columns().items():
        for column in columns:
            op.add_column(table, column)
    controls = op.create_table(
        "controls",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_controls")),
    )
    op.bulk_insert(controls, [{"name": "fleet", "paused_at": None}])
    op.create_table(
        "shares",
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("profile", sa.String(length=100), nullable=False),
        sa.Column("virtual_time", sa.Double(), nullable=False),
        sa.Column("served_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_shares_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", "profile", name=op.f("pk_shares")),
    )
    op.create_index("ix_shares_served", "shares", ["profile", "served_at"], unique=False)
    op.create_index("ix_units_share", "units", ["profile", "state", "tenant_id", "sort_key", "id"], unique=False)
    _change_check(OLD_CHECK, NEW_CHECK)
    bind = op.get_bind()
    migrating.replace_view(bind, "job_status", JOB_STATUS.format(paused=JOB_PAUSED, more=", j.paused_at"))
    migrating.replace_view(
        op.get_bind(), "identity_status", IDENTITY_STATUS.format(paused=PERSON_PAUSED, count=PERSON_COUNT)
    )


def downgrade() -> None:
    lock_tables(op.get_bind())
    op.execute("UPDATE units SET state = 'ready', message_sent_at = NULL WHERE state = 'paused'")
    op.execute("UPDATE workers SET state = 'idle' WHERE state = 'drained'")
    for view in ("job_status", "identity_status"):
        op.execute(f"DROP VIEW {view}")
    _change_check(NEW_CHECK, OLD_CHECK)
    op.drop_index("ix_units_share", table_name="units")
    op.drop_table("shares")
    op.drop_table("controls")
    for table, columns in _columns().items():
        for column in columns:
            op.drop_column(table, column.name)
    op.execute("ALTER TABLE tenants DROP COLUMN weight")
    op.execute(f"CREATE VIEW job_status AS {JOB_STATUS.format(paused='', more='')}")
    op.execute(f"CREATE VIEW identity_status AS {IDENTITY_STATUS.format(paused='', count='')}")


def lock_tables(bind: sa.Connection, tries: int = migrating.LOCK_TRIES) -> None:
    """Lock at once all that is changed here. Raises DatabaseUnavailable when somebody uses it each time."""
    migrating.lock_tables(bind, LOCKED, tries)


def _change_check(old: str, new: str) -> None:
    """Put another CHECK on a unit's state. Raises RuntimeError when the table's text is not what 0001 wrote."""
    bind = op.get_bind()
    if bind.dialect.name == "postgresql":
        op.execute("ALTER TABLE units DROP CONSTRAINT ck_units_state")
        op.execute(f"ALTER TABLE units ADD CONSTRAINT ck_units_state CHECK ({new})")
        return
    version = bind.exec_driver_sql("PRAGMA schema_version").scalar_one()
    bind.exec_driver_sql("PRAGMA writable_schema = ON")
    changed = bind.execute(
        sa.text(
            "UPDATE sqlite_master SET sql = replace(sql, :old, :new) "
            "WHERE type = 'table' AND name = 'units' AND instr(sql, :old) > 0"
        ),
        {"old": f"CHECK ({old})", "new": f"CHECK ({new})"},
    ).rowcount
    bind.exec_driver_sql(f"PRAGMA schema_version = {version + 1}")
    bind.exec_driver_sql("PRAGMA writable_schema = OFF")
    if changed != 1:
        raise RuntimeError(f"the table units of this SQLite database has no CHECK ({old}); was it changed by hand?")

"""What leads out of the queue: galleries, tokens, webhooks, uploads, erasure; what was told of ends; consent.

Expand only. A process of an earlier version goes on: it tells nobody of ends, which one of this version makes up for,
and keeps in memory what was forgotten until it ends.

Revision: 0007, after 0006.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from jobs.migrating import lock_tables

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# With those that the new tables refer to, which a foreign key locks too.
LOCKED = "tenants, jobs, units, workers"
ADDED = (
    ("tenants", lambda: sa.Column("retention_days", sa.Integer())),
    ("tenants", lambda: sa.Column("requires_consent", sa.Boolean(), server_default=sa.false(), nullable=False)),
    ("jobs", lambda: sa.Column("told_at", sa.DateTime(timezone=True))),
    ("jobs", lambda: sa.Column("traceparent", sa.String(64))),
    ("units", lambda: sa.Column("told_at", sa.DateTime(timezone=True))),
    ("archived_units", lambda: sa.Column("told_at", sa.DateTime(timezone=True))),
    ("workers", lambda: sa.Column("forgot_until", sa.Double())),
    ("workers", lambda: sa.Column("drawing_share", sa.Double())),
)
TABLES = ("galleries", "tokens", "webhooks", "deliveries", "uploads", "audits", "forgettings")


def upgrade() -> None:
    lock_tables(op.get_bind(), f"{LOCKED}, archived_units")
    for table, column in ADDED:
        op.add_column(table, column())
    # What had ended before nobody waits to be told of.
    for table in ("units", "archived_units"):
        if op.get_bind().dialect.name == "postgresql":
            # Written anew as a whole: a fleet at work waits a quarter as long as for each row's change.
            op.execute(f"ALTER TABLE {table} ALTER COLUMN told_at TYPE timestamptz USING finished_at")
        else:
            op.execute(f"UPDATE {table} SET told_at = finished_at WHERE finished_at IS NOT NULL")
    _end_of_old_jobs()
    is_untold = "finished_at IS NOT NULL AND told_at IS {} finished_at"
    op.create_index(
        "ix_units_untold",
        "units",
        ["tenant_id", "job_id"],
        sqlite_where=sa.text(is_untold.format("NOT")),
        postgresql_where=sa.text(is_untold.format("DISTINCT FROM")),
    )
    _galleries()
    _tokens()
    _webhooks()
    _uploads()
    _erasure()


def _end_of_old_jobs() -> None:
    op.execute(
        """
        UPDATE jobs SET told_at = coalesce(
          (SELECT max(u.finished_at) FROM units u WHERE u.tenant_id = jobs.tenant_id AND u.job_id = jobs.id),
          archived_finished_at)
        WHERE NOT EXISTS (
          SELECT 1 FROM units u WHERE u.tenant_id = jobs.tenant_id AND u.job_id = jobs.id AND u.finished_at IS NULL)
        """
    )


def _galleries() -> None:
    op.create_table(
        "galleries",
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("due_at", sa.Double()),
        sa.Column("lease_owner", sa.String(100)),
        sa.Column("lease_token", sa.BigInteger(), nullable=False),
        sa.Column("lease_until", sa.Double()),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("built_at", sa.DateTime(timezone=True)),
        sa.Column("built_token", sa.BigInteger()),
        sa.Column("pictures", sa.BigInteger()),
        sa.Column("error", sa.Text()),
        sa.PrimaryKeyConstraint("tenant_id", "job_id", name="pk_galleries"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_galleries_tenant_id"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "job_id"], ["jobs.tenant_id", "jobs.id"], name="fk_galleries_tenant_id_job_id"
        ),
    )
    op.create_index("ix_galleries_due", "galleries", ["due_at"])


def _own(table: str, *columns: sa.Column) -> None:  # type: ignore[type-arg]
    """A table of a tenant's rows, each with an id."""
    op.create_table(
        table,
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        *columns,
        sa.PrimaryKeyConstraint("tenant_id", "id", name=f"pk_{table}"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=f"fk_{table}_tenant_id"),
    )


def _tokens() -> None:
    _own(
        "tokens",
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("may_write", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True)),
        sa.Column("revoked_at", sa.DateTime(timezone=True)),
        sa.Column("last_used_at", sa.DateTime(timezone=True)),
        sa.Column("ended_sessions", sa.JSON(none_as_null=True)),
        sa.UniqueConstraint("tenant_id", "sha256", name="uq_tokens_tenant_id_sha256"),
    )


def _webhooks() -> None:
    _own(
        "webhooks",
        sa.Column("url", sa.String(2000), nullable=False),
        sa.Column("secret", sa.String(200), nullable=False),
        sa.Column("kinds", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease_owner", sa.String(100)),
        sa.Column("lease_until", sa.Double()),
        sa.Column("served_at", sa.Double(), server_default="0", nullable=False),
        sa.Column("retry_at", sa.Double(), server_default="0", nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failing_since", sa.Double()),
        sa.Column("disabled_at", sa.DateTime(timezone=True)),
        sa.Column("disabled_reason", sa.Text()),
    )
    _own(
        "deliveries",
        sa.Column("webhook_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("job_id", sa.Uuid()),
        sa.Column("unit_id", sa.Uuid()),
        sa.Column("payload", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("due_at", sa.Double(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("last_status", sa.Integer()),
        sa.Column("last_error", sa.Text()),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.ForeignKeyConstraint(
            ["tenant_id", "webhook_id"],
            ["webhooks.tenant_id", "webhooks.id"],
            name="fk_deliveries_tenant_id_webhook_id",
        ),
        sa.CheckConstraint("state IN ('waiting', 'done', 'failed')", name=op.f("ck_deliveries_state")),
    )
    op.create_index("ix_deliveries_due", "deliveries", ["state", "due_at"])
    op.create_index("ix_deliveries_webhook", "deliveries", ["tenant_id", "webhook_id", "state", "due_at"])
    op.create_index("ix_deliveries_job", "deliveries", ["tenant_id", "job_id"])


def _uploads() -> None:
    _own(
        "uploads",
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("storage_key", sa.String(500), nullable=False),
        sa.Column("media_type", sa.String(100), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("tenant_id", "sha256", name="uq_uploads_tenant_id_sha256"),
    )
    op.create_index("ix_uploads_expires", "uploads", ["expires_at"])


def _erasure() -> None:
    op.create_table(
        "audits",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(64)),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("reason", sa.String(500)),
        sa.Column("counts", sa.JSON(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audits"),
    )
    op.create_index("ix_audits_at", "audits", ["at"])
    op.create_table(
        "forgettings",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("names", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("keys", sa.JSON(none_as_null=True)),
        sa.Column("prefixes", sa.JSON(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_forgettings"),
    )
    op.create_index("ix_forgettings_at", "forgettings", ["at"])


def downgrade() -> None:
    lock_tables(op.get_bind(), f"{LOCKED}, archived_units, {', '.join(TABLES)}")
    for table in ("deliveries", *(name for name in TABLES if name != "deliveries")):
        op.drop_table(table)
    op.drop_index("ix_units_untold", table_name="units")
    for table, column in reversed(ADDED):
        op.drop_column(table, column().name)

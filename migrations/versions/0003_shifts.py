"""Shifts: what each worker drew in one stretch, and how long its device stood still.

Expand only: a table and a view that no earlier version knows. Processes of 0.2.0 that run or are started go on as they
did and write no shifts. Workers of this version that run while the schema is taken back to that of 0.2.0 draw all the
same, and say in their log that their shifts are not kept; to be started, `portraits worker` wants the current schema.

Revision: 0003, after 0002.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SHIFT_METRICS = """
        SELECT s.id, s.worker, s.worker_id, s.profile, s.device, s.version, s.began_at, s.ended_at, s.seconds,
               s.units, s.people, s.renders, s.pictures, s.places, s.batches, s.mixed, s.generated, s.batch_sizes,
               s.ran_dry, s.seconds_loading, s.seconds_warming, s.seconds_before, s.seconds_drawing, s.seconds_between,
               s.seconds_preparing,
               s.seconds_between / NULLIF(s.seconds_drawing + s.seconds_between, 0) AS idle_share,
               s.seconds_drawing / NULLIF(s.seconds, 0) AS busy_share,
               CAST(s.pictures AS DOUBLE PRECISION) / NULLIF(s.places, 0) AS fill
        FROM shifts s"""


def upgrade() -> None:
    op.create_table(
        "shifts",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("worker", sa.String(length=200), nullable=False),
        sa.Column("worker_id", sa.String(length=100), nullable=False),
        sa.Column("profile", sa.String(length=100), nullable=False),
        sa.Column("device", sa.String(length=100), nullable=False),
        sa.Column("version", sa.String(length=32), nullable=False),
        sa.Column("began_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("units", sa.Integer(), nullable=False),
        sa.Column("people", sa.Integer(), nullable=False),
        sa.Column("renders", sa.Integer(), nullable=False),
        sa.Column("pictures", sa.Integer(), nullable=False),
        sa.Column("places", sa.Integer(), nullable=False),
        sa.Column("batches", sa.Integer(), nullable=False),
        sa.Column("mixed", sa.Integer(), nullable=False),
        sa.Column("generated", sa.Integer(), nullable=False),
        sa.Column("batch_sizes", sa.JSON(), nullable=False),
        sa.Column("ran_dry", sa.Boolean(), nullable=False),
        sa.Column("seconds_loading", sa.Double(), nullable=False),
        sa.Column("seconds_warming", sa.Double(), nullable=False),
        sa.Column("seconds_before", sa.Double(), nullable=False),
        sa.Column("seconds_drawing", sa.Double(), nullable=False),
        sa.Column("seconds_between", sa.Double(), nullable=False),
        sa.Column("seconds_preparing", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_shifts")),
    )
    op.create_index("ix_shifts_ended", "shifts", ["ended_at"], unique=False)
    op.create_index("ix_shifts_worker", "shifts", ["worker", "ended_at"], unique=False)
    op.execute(f"CREATE VIEW shift_metrics AS {SHIFT_METRICS}")


def downgrade() -> None:
    op.execute("DROP VIEW shift_metrics")
    op.drop_table("shifts")

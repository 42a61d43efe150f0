"""How often a unit lost its worker, and indexes by which a person is erased.

Expand only. A process of an earlier version goes on: it never raises `lost_workers`, and so quarantines nothing.

Revision: 0005, after 0004.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from jobs.migrating import lock_tables

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

LOCKED = "units, photo_set_photos, weight_set_sources"
# Erasing reads by them, and PostgreSQL looks by them for what still refers to a row that is deleted.
INDEXES = (
    ("ix_units_identity", "units", ["tenant_id", "identity_id"]),
    ("ix_photo_set_photos_photo", "photo_set_photos", ["tenant_id", "photo_id"]),
    ("ix_weight_set_sources_photo_set", "weight_set_sources", ["tenant_id", "photo_set_id"]),
)


def upgrade() -> None:
    lock_tables(op.get_bind(), LOCKED)
    op.add_column("units", sa.Column("lost_workers", sa.Integer(), server_default="0", nullable=False))
    for name, table, columns in INDEXES:
        op.create_index(name, table, columns, unique=False)


def downgrade() -> None:
    lock_tables(op.get_bind(), LOCKED)
    for name, table, _ in reversed(INDEXES):
        op.drop_index(name, table_name=table)
    op.drop_column("units", "lost_workers")

"""Options of renders, people made of other people, further outputs.

Expand only: every new column may be left out, so processes of the version before that run go on as they did. One of
0.1.0 that is started or restarted refuses this schema, which it does not know: upgrade workers together with it.
No CHECK is added to a table that exists: SQLite would have to copy the table and everything that refers to it.

Revision: 0002, after 0001.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from jobs import migrating

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

RENDER_METRICS = """
        SELECT r.tenant_id, r.job_id, j.key AS job_key, r.identity_id, i.external_id, r.unit_id, r.id AS render_id,
               r.rerun_of, r.ordinal, r.prompt_name, r.prompt, r.final_prompt, r.negative_prompt, r.seed,
               r.width, r.height, r.steps, r.guidance, r.scheduler, r.lora_weight,
               r.state, r.error_code, r.error, r.storage_key, r.media_type, r.size_bytes, r.sha256,
               r.id_similarity, r.id_similarity_reason, r.recogniser, r.model_fingerprint, r.weight_set_fingerprint,
               r.device, r.worker, r.batch_size, r.seconds_weights, r.seconds_merge, r.seconds_denoise,
               r.seconds_decode, r.seconds_encode, r.seconds_upload, r.created_at, r.finished_at{more}
        FROM renders r
        JOIN jobs j ON j.tenant_id = r.tenant_id AND j.id = r.job_id
        JOIN identities i ON i.tenant_id = r.tenant_id AND i.id = r.identity_id"""
MORE = """,
               r.options, r.drawn_seed, r.draws, r.output_width, r.output_height,
               r.seconds_detail, r.seconds_finish, r.detail_faces"""
RENDER_OUTPUTS = """
        SELECT o.tenant_id, r.job_id, o.render_id, o.name, o.storage_key, o.media_type, o.width, o.height,
               o.size_bytes, o.sha256
        FROM outputs o
        JOIN renders r ON r.tenant_id = o.tenant_id AND r.id = o.render_id"""


def _columns() -> dict[str, list[sa.Column[object]]]:
    """The new columns of each table, made anew: a column belongs to one statement."""
    return {
        "photo_sets": [
            sa.Column("kind", sa.String(length=16), server_default="photos", nullable=False),
            sa.Column("weight_set_fingerprint", sa.String(length=64), nullable=True),
        ],
        "photo_set_photos": [sa.Column("face", sa.String(length=16), nullable=True)],
        "weight_sets": [sa.Column("branch", sa.String(length=8), server_default="id", nullable=False)],
        "renders": [
            sa.Column("options", sa.JSON(), nullable=True),
            sa.Column("drawn_seed", sa.BigInteger(), nullable=True),
            sa.Column("draws", sa.Integer(), nullable=True),
            sa.Column("output_width", sa.Integer(), nullable=True),
            sa.Column("output_height", sa.Integer(), nullable=True),
            sa.Column("seconds_detail", sa.Double(), nullable=True),
            sa.Column("seconds_finish", sa.Double(), nullable=True),
            sa.Column("detail_faces", sa.Integer(), nullable=True),
        ],
    }


def upgrade() -> None:
    for table, columns in _columns().items():
        for column in columns:
            op.add_column(table, column)
    op.create_table(
        "photo_set_members",
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("photo_set_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("member_photo_set_id", sa.Uuid(), nullable=False),
        sa.Column("weight", sa.Double(), nullable=False),
        sa.Column("region", sa.JSON(), nullable=True),
        sa.Column("prompt", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["tenant_id", "member_photo_set_id"],
            ["photo_sets.tenant_id", "photo_sets.id"],
            name=op.f("fk_photo_set_members_tenant_id_member_photo_set_id"),
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "photo_set_id"],
            ["photo_sets.tenant_id", "photo_sets.id"],
            name=op.f("fk_photo_set_members_tenant_id_photo_set_id"),
        ),
        sa.PrimaryKeyConstraint("tenant_id", "photo_set_id", "position", name=op.f("pk_photo_set_members")),
    )
    op.create_index(
        "ix_photo_set_members_member", "photo_set_members", ["tenant_id", "member_photo_set_id"], unique=False
    )
    op.create_table(
        "job_pictures",
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("photo_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "job_id"], ["jobs.tenant_id", "jobs.id"], name=op.f("fk_job_pictures_tenant_id_job_id")
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "photo_id"],
            ["photos.tenant_id", "photos.id"],
            name=op.f("fk_job_pictures_tenant_id_photo_id"),
        ),
        sa.PrimaryKeyConstraint("tenant_id", "job_id", "photo_id", name=op.f("pk_job_pictures")),
    )
    op.create_table(
        "outputs",
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("render_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("storage_key", sa.String(length=500), nullable=False),
        sa.Column("media_type", sa.String(length=100), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "render_id"],
            ["renders.tenant_id", "renders.id"],
            name=op.f("fk_outputs_tenant_id_render_id"),
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_outputs_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_outputs")),
        sa.UniqueConstraint("tenant_id", "storage_key", name=op.f("uq_outputs_tenant_id_storage_key")),
        sa.UniqueConstraint("tenant_id", "render_id", "name", name=op.f("uq_outputs_tenant_id_render_id_name")),
    )
    migrating.replace_view(op.get_bind(), "render_metrics", RENDER_METRICS.format(more=MORE))
    op.execute(f"CREATE VIEW render_outputs AS {RENDER_OUTPUTS}")


def downgrade() -> None:
    op.execute("DROP VIEW render_outputs")
    op.execute("DROP VIEW render_metrics")
    for table in ("outputs", "job_pictures", "photo_set_members"):
        op.drop_table(table)
    for table, columns in _columns().items():
        for column in columns:
            op.drop_column(table, column.name)
    op.execute(f"CREATE VIEW render_metrics AS {RENDER_METRICS.format(more='')}")

"""The first tables, and the views that people query.

Revision: 0001, the first.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# The documented query surface. Plain SQL that SQLite and PostgreSQL read alike.
VIEWS = {
    "job_status": """
        SELECT j.tenant_id, j.id AS job_id, j.key, j.name, j.profile, j.priority,
               CASE
                 WHEN j.cancelled_at IS NOT NULL AND u.waiting = 0 THEN 'cancelled'
                 WHEN u.waiting = 0 AND u.failed = 0 THEN 'done'
                 WHEN u.waiting = 0 AND u.done = 0 THEN 'failed'
                 WHEN u.waiting = 0 THEN 'partial'
                 WHEN u.running > 0 OR u.done + u.failed > 0 THEN 'running'
                 ELSE 'waiting'
               END AS state,
               j.identities_total AS identities, j.units_total AS units, j.renders_total AS renders,
               u.waiting, u.running, u.done, u.failed, u.cancelled, j.created_at,
               CASE WHEN u.waiting = 0 THEN u.finished_at END AS finished_at
        FROM jobs j
        JOIN (SELECT tenant_id, job_id,
                     sum(renders_total - renders_done - renders_failed - renders_cancelled) AS waiting,
                     sum(CASE WHEN state = 'leased' THEN renders_total - renders_done - renders_failed ELSE 0 END)
                       AS running,
                     sum(renders_done) AS done, sum(renders_failed) AS failed, sum(renders_cancelled) AS cancelled,
                     max(finished_at) AS finished_at
              FROM units GROUP BY tenant_id, job_id) u
          ON u.tenant_id = j.tenant_id AND u.job_id = j.id""",
    "identity_status": """
        SELECT u.tenant_id, u.job_id, u.identity_id, i.external_id,
               CASE
                 WHEN u.waiting = 0 AND u.cancelled > 0 AND u.done + u.failed = 0 THEN 'cancelled'
                 WHEN u.waiting = 0 AND u.failed + u.cancelled = 0 THEN 'done'
                 WHEN u.waiting = 0 AND u.done = 0 THEN 'failed'
                 WHEN u.waiting = 0 THEN 'partial'
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
                     sum(CASE WHEN state = 'leased' THEN 1 ELSE 0 END) AS leased,
                     sum(renders_done) AS done, sum(renders_failed) AS failed, sum(renders_cancelled) AS cancelled,
                     max(finished_at) AS finished_at
              FROM units GROUP BY tenant_id, job_id, identity_id) u
        JOIN identities i ON i.tenant_id = u.tenant_id AND i.id = u.identity_id""",
    "render_metrics": """
        SELECT r.tenant_id, r.job_id, j.key AS job_key, r.identity_id, i.external_id, r.unit_id, r.id AS render_id,
               r.rerun_of, r.ordinal, r.prompt_name, r.prompt, r.final_prompt, r.negative_prompt, r.seed,
               r.width, r.height, r.steps, r.guidance, r.scheduler, r.lora_weight,
               r.state, r.error_code, r.error, r.storage_key, r.media_type, r.size_bytes, r.sha256,
               r.id_similarity, r.id_similarity_reason, r.recogniser, r.model_fingerprint, r.weight_set_fingerprint,
               r.device, r.worker, r.batch_size, r.seconds_weights, r.seconds_merge, r.seconds_denoise,
               r.seconds_decode, r.seconds_encode, r.seconds_upload, r.created_at, r.finished_at
        FROM renders r
        JOIN jobs j ON j.tenant_id = r.tenant_id AND j.id = r.job_id
        JOIN identities i ON i.tenant_id = r.tenant_id AND i.id = r.identity_id""",
}


def upgrade() -> None:
    op.create_table(
        "leaders",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("owner", sa.String(length=100), nullable=True),
        sa.Column("until", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leaders")),
    )
    op.create_table(
        "tenants",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tenants")),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.String(length=100), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("profile", sa.String(length=100), nullable=True),
        sa.Column("device", sa.String(length=100), nullable=True),
        sa.Column("version", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_seen_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
    )
    op.create_table(
        "events",
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column("unit_id", sa.Uuid(), nullable=True),
        sa.Column("render_id", sa.Uuid(), nullable=True),
        sa.Column("worker", sa.String(length=200), nullable=True),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_events_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_events")),
    )
    op.create_index("ix_events_job", "events", ["tenant_id", "job_id"], unique=False)

    op.create_table(
        "identities",
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("external_id", sa.String(length=200), nullable=False),
        sa.Column("consent_reference", sa.String(length=500), nullable=True),
        sa.Column("purpose", sa.String(length=500), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_identities_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_identities")),
        sa.UniqueConstraint("tenant_id", "external_id", name=op.f("uq_identities_tenant_id_external_id")),
    )
    op.create_table(
        "jobs",
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("content_hash", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=True),
        sa.Column("profile", sa.String(length=100), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("identities_total", sa.Integer(), nullable=False),
        sa.Column("units_total", sa.Integer(), nullable=False),
        sa.Column("renders_total", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("cancelled_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_jobs_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("tenant_id", "key", name=op.f("uq_jobs_tenant_id_key")),
    )
    op.create_table(
        "photos",
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("storage_key", sa.String(length=500), nullable=False),
        sa.Column("media_type", sa.String(length=100), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_photos_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_photos")),
        sa.UniqueConstraint("tenant_id", "sha256", name=op.f("uq_photos_tenant_id_sha256")),
    )
    op.create_table(
        "weight_sets",
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("hyperlora_fingerprint", sa.String(length=64), nullable=False),
        sa.Column("recogniser", sa.String(length=100), nullable=True),
        sa.Column("reference_embedding", sa.LargeBinary(), nullable=True),
        sa.Column("storage_key", sa.String(length=500), nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("generations", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("lease_owner", sa.String(length=100), nullable=True),
        sa.Column("lease_token", sa.BigInteger(), nullable=False),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("kind IN ('photos', 'mix', 'slider', 'refined')", name=op.f("ck_weight_sets_kind")),
        sa.CheckConstraint("state IN ('pending', 'generating', 'ready', 'failed')", name=op.f("ck_weight_sets_state")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_weight_sets_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_weight_sets")),
        sa.UniqueConstraint("tenant_id", "fingerprint", name=op.f("uq_weight_sets_tenant_id_fingerprint")),
    )
    op.create_table(
        "photo_sets",
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("identity_id", sa.Uuid(), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "identity_id"],
            ["identities.tenant_id", "identities.id"],
            name=op.f("fk_photo_sets_tenant_id_identity_id"),
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_photo_sets_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_photo_sets")),
        sa.UniqueConstraint(
            "tenant_id", "identity_id", "fingerprint", name=op.f("uq_photo_sets_tenant_id_identity_id_fingerprint")
        ),
    )
    op.create_table(
        "photo_set_photos",
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("photo_set_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("photo_id", sa.Uuid(), nullable=False),
        sa.Column("verdict", sa.String(length=32), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["tenant_id", "photo_id"],
            ["photos.tenant_id", "photos.id"],
            name=op.f("fk_photo_set_photos_tenant_id_photo_id"),
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "photo_set_id"],
            ["photo_sets.tenant_id", "photo_sets.id"],
            name=op.f("fk_photo_set_photos_tenant_id_photo_set_id"),
        ),
        sa.PrimaryKeyConstraint("tenant_id", "photo_set_id", "position", name=op.f("pk_photo_set_photos")),
    )
    op.create_table(
        "units",
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("identity_id", sa.Uuid(), nullable=False),
        sa.Column("photo_set_id", sa.Uuid(), nullable=False),
        sa.Column("profile", sa.String(length=100), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("ready_at", sa.Double(), nullable=False),
        sa.Column("sort_key", sa.Double(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("lease_owner", sa.String(length=100), nullable=True),
        sa.Column("lease_token", sa.BigInteger(), nullable=False),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("message_sent_at", sa.Double(), nullable=True),
        sa.Column("renders_total", sa.Integer(), nullable=False),
        sa.Column("renders_done", sa.Integer(), nullable=False),
        sa.Column("renders_failed", sa.Integer(), nullable=False),
        sa.Column("renders_cancelled", sa.Integer(), nullable=False),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('ready', 'leased', 'done', 'failed', 'cancelled')", name=op.f("ck_units_state")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "identity_id"],
            ["identities.tenant_id", "identities.id"],
            name=op.f("fk_units_tenant_id_identity_id"),
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "job_id"], ["jobs.tenant_id", "jobs.id"], name=op.f("fk_units_tenant_id_job_id")
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "photo_set_id"],
            ["photo_sets.tenant_id", "photo_sets.id"],
            name=op.f("fk_units_tenant_id_photo_set_id"),
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_units_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_units")),
    )
    op.create_index("ix_units_claim", "units", ["profile", "state", "sort_key", "id"], unique=False)
    op.create_index("ix_units_group", "units", ["tenant_id", "photo_set_id", "profile", "state"], unique=False)
    op.create_index("ix_units_id", "units", ["id"], unique=False)
    op.create_index("ix_units_job", "units", ["tenant_id", "job_id", "identity_id"], unique=False)
    op.create_index("ix_units_lease", "units", ["state", "lease_until"], unique=False)
    op.create_index("ix_units_owner", "units", ["lease_owner", "state"], unique=False)
    op.create_index("ix_units_tenant_claim", "units", ["tenant_id", "state", "sort_key"], unique=False)

    op.create_table(
        "weight_set_sources",
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("weight_set_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("photo_set_id", sa.Uuid(), nullable=True),
        sa.Column("source_weight_set_id", sa.Uuid(), nullable=True),
        sa.Column("weight", sa.Double(), nullable=False),
        sa.CheckConstraint(
            "(photo_set_id IS NULL) <> (source_weight_set_id IS NULL)", name=op.f("ck_weight_set_sources_one_source")
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "photo_set_id"],
            ["photo_sets.tenant_id", "photo_sets.id"],
            name=op.f("fk_weight_set_sources_tenant_id_photo_set_id"),
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "source_weight_set_id"],
            ["weight_sets.tenant_id", "weight_sets.id"],
            name=op.f("fk_weight_set_sources_tenant_id_source_weight_set_id"),
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "weight_set_id"],
            ["weight_sets.tenant_id", "weight_sets.id"],
            name=op.f("fk_weight_set_sources_tenant_id_weight_set_id"),
        ),
        sa.PrimaryKeyConstraint("tenant_id", "weight_set_id", "position", name=op.f("pk_weight_set_sources")),
    )
    op.create_table(
        "renders",
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("unit_id", sa.Uuid(), nullable=False),
        sa.Column("identity_id", sa.Uuid(), nullable=False),
        sa.Column("rerun_of", sa.Uuid(), nullable=True),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("prompt_name", sa.String(length=200), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("negative_prompt", sa.Text(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("steps", sa.Integer(), nullable=False),
        sa.Column("guidance", sa.Double(), nullable=False),
        sa.Column("scheduler", sa.String(length=64), nullable=False),
        sa.Column("lora_weight", sa.Double(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("final_prompt", sa.Text(), nullable=True),
        sa.Column("storage_key", sa.String(length=500), nullable=True),
        sa.Column("media_type", sa.String(length=100), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("id_similarity", sa.Double(), nullable=True),
        sa.Column("id_similarity_reason", sa.String(length=200), nullable=True),
        sa.Column("recogniser", sa.String(length=100), nullable=True),
        sa.Column("model_fingerprint", sa.String(length=64), nullable=True),
        sa.Column("weight_set_fingerprint", sa.String(length=64), nullable=True),
        sa.Column("device", sa.String(length=100), nullable=True),
        sa.Column("worker", sa.String(length=200), nullable=True),
        sa.Column("batch_size", sa.Integer(), nullable=True),
        sa.Column("seconds_weights", sa.Double(), nullable=True),
        sa.Column("seconds_merge", sa.Double(), nullable=True),
        sa.Column("seconds_denoise", sa.Double(), nullable=True),
        sa.Column("seconds_decode", sa.Double(), nullable=True),
        sa.Column("seconds_encode", sa.Double(), nullable=True),
        sa.Column("seconds_upload", sa.Double(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('waiting', 'done', 'failed', 'cancelled')", name=op.f("ck_renders_state")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "identity_id"],
            ["identities.tenant_id", "identities.id"],
            name=op.f("fk_renders_tenant_id_identity_id"),
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "job_id"], ["jobs.tenant_id", "jobs.id"], name=op.f("fk_renders_tenant_id_job_id")
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "unit_id"], ["units.tenant_id", "units.id"], name=op.f("fk_renders_tenant_id_unit_id")
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_renders_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_renders")),
    )
    op.create_index("ix_renders_job", "renders", ["tenant_id", "job_id", "ordinal"], unique=False)
    op.create_index("ix_renders_unit", "renders", ["tenant_id", "unit_id", "state"], unique=False)

    op.create_table(
        "candidates",
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("render_id", sa.Uuid(), nullable=False),
        sa.Column("lease_token", sa.BigInteger(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("storage_key", sa.String(length=500), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("id_similarity", sa.Double(), nullable=True),
        sa.Column("chosen", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "render_id"],
            ["renders.tenant_id", "renders.id"],
            name=op.f("fk_candidates_tenant_id_render_id"),
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_candidates_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_candidates")),
        sa.UniqueConstraint("tenant_id", "storage_key", name=op.f("uq_candidates_tenant_id_storage_key")),
    )
    op.create_index("ix_candidates_render", "candidates", ["tenant_id", "render_id"], unique=False)
    op.create_index(
        "uq_candidates_chosen",
        "candidates",
        ["tenant_id", "render_id"],
        unique=True,
        sqlite_where=sa.text("chosen = 1"),
        postgresql_where=sa.text("chosen"),
    )

    for name, query in VIEWS.items():
        op.execute(f"CREATE VIEW {name} AS {query}")


def downgrade() -> None:
    for name in reversed(VIEWS):
        op.execute(f"DROP VIEW {name}")

    op.drop_table("candidates")

    op.drop_table("renders")
    op.drop_table("weight_set_sources")

    op.drop_table("units")
    op.drop_table("photo_set_photos")
    op.drop_table("photo_sets")
    op.drop_table("weight_sets")
    op.drop_table("photos")
    op.drop_table("jobs")
    op.drop_table("identities")

    op.drop_table("events")
    op.drop_table("workers")
    op.drop_table("tenants")
    op.drop_table("leaders")

"""The archive: tables beside those of the queue for jobs that are over, and views that read both.

Expand only. A process of an earlier version reads jobs through the views, and so sees archived ones as before; its
`retry` and `rerun` find nothing of a job that lies in the archive, and what they open of one that is on its way there
turns it round. The tables have the columns of those whose rows they take, as these are at
this revision: whoever adds a column to `units`, `renders`, `candidates`, `outputs` or `events` adds it to both.
Taking the schema back puts every archived row where it came from.

Revision: 0006, after 0005.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from jobs.migrating import lock_tables, replace_view

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# In the order in which rows can be written: what others refer to comes first.
TABLES = ("units", "renders", "candidates", "outputs", "events")
# With those that the new tables refer to, which a foreign key locks too.
LOCKED = (
    "job_status, identity_status, render_metrics, render_outputs, tenants, identities, photo_sets, weight_set_sources, "
    "jobs, job_pictures, units, renders"
)
# Erasing reads by them, and PostgreSQL looks by them for what still refers to a row that is deleted: more than 0005
# knew, of tables that are locked here anyway.
ERASING = (
    ("ix_photo_sets_weight_set", "photo_sets", ["tenant_id", "weight_set_fingerprint"]),
    ("ix_weight_set_sources_source", "weight_set_sources", ["tenant_id", "source_weight_set_id"]),
    ("ix_job_pictures_photo", "job_pictures", ["tenant_id", "photo_id"]),
    ("ix_renders_identity", "renders", ["tenant_id", "identity_id"]),
)
# A job has the sums of its archived units, so that its status does not go through them; nor does it look whether live
# ones are left, which its totals tell.
JOB_STATUS = """
        SELECT j.tenant_id, j.id AS job_id, j.key, j.name, j.profile, j.priority,
               CASE
                 WHEN j.cancelled_at IS NOT NULL AND u.waiting = 0 THEN 'cancelled'
                 WHEN u.waiting = 0 AND {failed} = 0 THEN 'done'
                 WHEN u.waiting = 0 AND {done} = 0 THEN 'failed'
                 WHEN u.waiting = 0 THEN 'partial'
                 WHEN j.paused_at IS NOT NULL THEN 'paused'
                 WHEN u.running > 0 OR {done} + {failed} > 0 THEN 'running'
                 ELSE 'waiting'
               END AS state,
               j.identities_total AS identities, j.units_total AS units, j.renders_total AS renders,
               u.waiting, u.running, {done} AS done, {failed} AS failed, {cancelled} AS cancelled, j.created_at,
               {finished} AS finished_at, j.paused_at{more}
        FROM jobs j
        JOIN (SELECT tenant_id, job_id,
                     sum(renders_total - renders_done - renders_failed - renders_cancelled) AS waiting,
                     sum(CASE WHEN state = 'leased' THEN renders_total - renders_done - renders_failed ELSE 0 END)
                       AS running,
                     sum(renders_done) AS done, sum(renders_failed) AS failed, sum(renders_cancelled) AS cancelled,
                     max(finished_at) AS finished_at
              FROM units GROUP BY tenant_id, job_id) u
          ON u.tenant_id = j.tenant_id AND u.job_id = j.id"""
FINISHED = """CASE
                 WHEN u.waiting = 0 AND j.archived_finished_at > u.finished_at THEN j.archived_finished_at
                 WHEN u.waiting = 0 THEN u.finished_at
               END"""
WHOLLY_ARCHIVED = """
        UNION ALL
        SELECT j.tenant_id, j.id, j.key, j.name, j.profile, j.priority,
               CASE
                 WHEN j.cancelled_at IS NOT NULL THEN 'cancelled'
                 WHEN j.archived_failed = 0 THEN 'done'
                 WHEN j.archived_done = 0 THEN 'failed'
                 ELSE 'partial'
               END,
               j.identities_total, j.units_total, j.renders_total,
               0, 0, j.archived_done, j.archived_failed, j.archived_cancelled, j.created_at,
               j.archived_finished_at, j.paused_at, j.archived_at
        FROM jobs j
        WHERE j.archived_units > 0 AND j.archived_units >= j.units_total"""
# By created_at first: ordered by id alone, SQLite walks all of a tenant's units by their key, for each person.
IDENTITY_STATUS = """
        SELECT u.tenant_id, u.job_id, u.identity_id, i.external_id,
               CASE
                 WHEN u.waiting = 0 AND u.cancelled > 0 AND u.done + u.failed = 0 THEN 'cancelled'
                 WHEN u.waiting = 0 AND u.failed + u.cancelled = 0 THEN 'done'
                 WHEN u.waiting = 0 AND u.done = 0 THEN 'failed'
                 WHEN u.waiting = 0 THEN 'partial'
                 WHEN u.paused > 0 THEN 'paused'
                 WHEN u.leased > 0 OR u.done + u.failed > 0 THEN 'running'
                 ELSE 'waiting'
               END AS state,
               u.renders, u.waiting, u.done, u.failed, u.cancelled,
               (SELECT e.error_code FROM {units} e
                WHERE e.tenant_id = u.tenant_id AND e.job_id = u.job_id AND e.identity_id = u.identity_id
                  AND e.error_code IS NOT NULL ORDER BY e.created_at, e.id LIMIT 1) AS error_code,
               (SELECT e.error FROM {units} e
                WHERE e.tenant_id = u.tenant_id AND e.job_id = u.job_id AND e.identity_id = u.identity_id
                  AND e.error_code IS NOT NULL ORDER BY e.created_at, e.id LIMIT 1) AS error,
               CASE WHEN u.waiting = 0 THEN u.finished_at END AS finished_at
        FROM (SELECT tenant_id, job_id, identity_id, sum(renders_total) AS renders,
                     sum(renders_total - renders_done - renders_failed - renders_cancelled) AS waiting,
                     sum(CASE WHEN state = 'leased' THEN 1 ELSE 0 END) AS leased,
                     sum(CASE WHEN state = 'paused' THEN 1 ELSE 0 END) AS paused,
                     sum(renders_done) AS done, sum(renders_failed) AS failed, sum(renders_cancelled) AS cancelled,
                     max(finished_at) AS finished_at
              FROM {units} GROUP BY tenant_id, job_id, identity_id) u
        JOIN identities i ON i.tenant_id = u.tenant_id AND i.id = u.identity_id"""
RENDER_METRICS = """
        SELECT r.tenant_id, r.job_id, j.key AS job_key, r.identity_id, i.external_id, r.unit_id, r.id AS render_id,
               r.rerun_of, r.ordinal, r.prompt_name, r.prompt, r.final_prompt, r.negative_prompt, r.seed,
               r.width, r.height, r.steps, r.guidance, r.scheduler, r.lora_weight,
               r.state, r.error_code, r.error, r.storage_key, r.media_type, r.size_bytes, r.sha256,
               r.id_similarity, r.id_similarity_reason, r.recogniser, r.model_fingerprint, r.weight_set_fingerprint,
               r.device, r.worker, r.batch_size, r.seconds_weights, r.seconds_merge, r.seconds_denoise,
               r.seconds_decode, r.seconds_encode, r.seconds_upload, r.created_at, r.finished_at,
               r.options, r.drawn_seed, r.draws, r.output_width, r.output_height,
               r.seconds_detail, r.seconds_finish, r.detail_faces
        FROM {renders} r
        JOIN jobs j ON j.tenant_id = r.tenant_id AND j.id = r.job_id
        JOIN identities i ON i.tenant_id = r.tenant_id AND i.id = r.identity_id"""
RENDER_OUTPUTS = """
        SELECT o.tenant_id, r.job_id, o.render_id, o.name, o.storage_key, o.media_type, o.width, o.height,
               o.size_bytes, o.sha256
        FROM {outputs} o
        JOIN {renders} r ON r.tenant_id = o.tenant_id AND r.id = o.render_id"""


def _columns() -> list[sa.Column[object]]:
    """The new columns of `jobs`, made anew: a column belongs to one statement."""
    counts = ("archived_units", "archived_done", "archived_failed", "archived_cancelled")
    return [
        sa.Column("archive_state", sa.String(length=16), nullable=True),
        sa.Column("archived_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("archived_finished_at", sa.DateTime(timezone=True), nullable=True),
        *(sa.Column(name, sa.Integer(), server_default="0", nullable=False) for name in counts),
    ]


def upgrade() -> None:
    lock_tables(op.get_bind(), LOCKED)
    for column in _columns():
        op.add_column("jobs", column)
    op.create_index("ix_jobs_archive", "jobs", ["tenant_id", "archive_state", "id"], unique=False)
    for name, table, of in ERASING:
        op.create_index(name, table, of, unique=False)
    _create("units", _refers("jobs", "job_id", "units"), _goes_with("identities", "identity_id", "units"))
    _create("renders", _goes_with("archived_units", "unit_id", "renders"))
    _create("candidates", _goes_with("archived_renders", "render_id", "candidates"))
    _create("outputs", _goes_with("archived_renders", "render_id", "outputs"))
    tenant = sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_archived_events_tenant_id"))
    _create("events", tenant)
    for name, table, *columns in (
        ("ix_archived_units_job", "archived_units", "job_id", "identity_id"),
        ("ix_archived_units_identity", "archived_units", "identity_id"),
        ("ix_archived_renders_unit", "archived_renders", "unit_id"),
        ("ix_archived_renders_job", "archived_renders", "job_id", "ordinal"),
        ("ix_archived_candidates_render", "archived_candidates", "render_id"),
        ("ix_archived_outputs_render", "archived_outputs", "render_id", "name"),
        ("ix_archived_events_job", "archived_events", "job_id"),
    ):
        op.create_index(name, table, ["tenant_id", *columns], unique=False)
    replace_view(op.get_bind(), "job_status", _job_status(archive=True))
    for name, query in (
        ("identity_status", IDENTITY_STATUS),
        ("render_metrics", RENDER_METRICS),
        ("render_outputs", RENDER_OUTPUTS),
    ):
        # Whole queries over each side, so that each walks its own indexes. A person of a job is on one side only.
        replace_view(
            op.get_bind(), name, "\n        UNION ALL".join(_over(query, prefix) for prefix in ("", "archived_"))
        )


def downgrade() -> None:
    lock_tables(op.get_bind(), LOCKED)
    for view in ("job_status", "identity_status", "render_metrics", "render_outputs"):
        op.execute(f"DROP VIEW {view}")
    for table in TABLES:
        names = ", ".join(column["name"] for column in sa.inspect(op.get_bind()).get_columns(table))
        op.execute(f"INSERT INTO {table} ({names}) SELECT {names} FROM archived_{table}")
    for table in reversed(TABLES):
        op.drop_table(f"archived_{table}")
    for name, table, _ in reversed(ERASING):
        op.drop_index(name, table_name=table)
    op.drop_index("ix_jobs_archive", table_name="jobs")
    for column in _columns():
        op.drop_column("jobs", column.name)
    op.execute(f"CREATE VIEW job_status AS {_job_status(archive=False)}")
    op.execute(f"CREATE VIEW identity_status AS {_over(IDENTITY_STATUS, '')}")
    op.execute(f"CREATE VIEW render_metrics AS {_over(RENDER_METRICS, '')}")
    op.execute(f"CREATE VIEW render_outputs AS {_over(RENDER_OUTPUTS, '')}")


def _create(table: str, *more: sa.Constraint) -> None:
    """The archive's table for the rows of a table, whose columns it takes from the database itself."""
    found = sa.inspect(op.get_bind()).get_columns(table)
    columns = [sa.Column(column["name"], column["type"], nullable=column["nullable"]) for column in found]
    key = sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f(f"pk_archived_{table}"))
    op.create_table(f"archived_{table}", *columns, *more, key)


def _refers(target: str, column: str, table: str, ondelete: str | None = None) -> sa.ForeignKeyConstraint:
    name = op.f(f"fk_archived_{table}_tenant_id_{column}")
    columns = [f"{target}.tenant_id", f"{target}.id"]
    return sa.ForeignKeyConstraint(["tenant_id", column], columns, name=name, ondelete=ondelete)


def _goes_with(target: str, column: str, table: str) -> sa.ForeignKeyConstraint:
    return _refers(target, column, table, ondelete="CASCADE")


def _job_status(*, archive: bool) -> str:
    """The view of jobs with the archive's share, or as it was."""
    counts = ("done", "failed", "cancelled")
    if not archive:
        parts = {name: f"u.{name}" for name in counts}
        return JOB_STATUS.format(more="", finished="CASE WHEN u.waiting = 0 THEN u.finished_at END", **parts)
    parts = {name: f"(u.{name} + j.archived_{name})" for name in counts}
    return JOB_STATUS.format(more=", j.archived_at", finished=FINISHED, **parts) + WHOLLY_ARCHIVED


def _over(query: str, prefix: str) -> str:
    """The query over the queue's tables, or over those with the archive's prefix."""
    return query.format(**{table: f"{prefix}{table}" for table in TABLES})

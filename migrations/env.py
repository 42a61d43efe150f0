"""Alembic's entry: migrate on the connection that `jobs.database.Database.upgrade` hands over."""

from __future__ import annotations

from alembic import context

from jobs.database import Database
from jobs.models import METADATA
from jobs.orm import Utc
from jobs.settings import get_settings

config = context.config


def _plain_types(kind: str, item: object, autogen_context: object) -> str | bool:
    """Write our own column types into migrations as the plain types they stand for: history imports no models."""
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(item, Utc) else False


def _run(connection: object) -> None:
    context.configure(
        connection=connection,  # type: ignore[arg-type]
        target_metadata=METADATA,
        render_as_batch=True,
        compare_type=True,
        render_item=_plain_types,
    )
    with context.begin_transaction():
        context.run_migrations()


handed_over = config.attributes.get("connection")
if handed_over is not None:
    _run(handed_over)
else:
    with Database.from_settings(get_settings()).transaction() as own:
        _run(own)

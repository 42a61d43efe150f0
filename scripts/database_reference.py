"""Write docs/reference/database.md from a migrated schema: `python scripts/database_reference.py [--check]`.

Columns are those of a fresh SQLite database; what the views' columns mean stands in
`scripts/view_columns.toml`, and what a table is in the docstring of its class. A column without a meaning is a fault.
"""

from __future__ import annotations

import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from sqlalchemy import Inspector, inspect

from jobs import models_outside
from jobs.database import Database
from jobs.models import METADATA
from jobs.orm import Base
from jobs.repository.security import FLEET_VIEWS, TENANT_VIEWS
from jobs.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "reference" / "database.md"
MEANINGS = ROOT / "scripts" / "view_columns.toml"
VIEWS = {
    "job_status": "One row for each job, also for archived ones.",
    "identity_status": "One row for each person of a job.",
    "render_metrics": "One row for each picture: what was asked, what was drawn, and what it cost. Its seconds are "
    "shares: their sum over pictures is what was spent.",
    "render_outputs": "One row for each further file of a picture.",
    "shift_metrics": "One row for each shift of a worker, of the fleet and of no tenant; `portraits status --fleet`.",
}
HEAD = """# Database

Four views are the documented query surface, and a fifth one tells about the fleet; they stay as they are, or get more
columns. [The README](../../README.md#ask-the-database) has queries to begin with. Tables are listed below them for
whoever writes roles or backups; they may change with any version. This page is written by
`scripts/database_reference.py`.
"""


def page(inspector: Inspector, meanings: dict[str, Any]) -> tuple[str, list[str]]:
    """The whole page, and what is wrong with it."""
    parts, used = [HEAD], set()
    for view, told in VIEWS.items():
        own = meanings.get(view, {})
        parts.append(f"\n## {view}\n\n{told}\n\n| column | meaning |\n|---|---|\n")
        for column in inspector.get_columns(view):
            name = column["name"]
            used.add(name)
            parts.append(f"| `{name}` | {own.get(name) or meanings.get(name, '')} |\n")
    parts.append("\n## Tables\n\n| table | what it holds |\n|---|---|\n")
    documented = {mapper.local_table.name: mapper.class_.__doc__ for mapper in Base.registry.mappers}
    for name in sorted(METADATA.tables):
        source = name.removesuffix("_archive").removeprefix("archived_")
        words = " ".join((documented.get(name) or "").split("\n\n")[0].split())
        parts.append(f"| `{name}` | {words or f'What `{source}` has, of archived jobs.'} |\n")
    general = {name for name, words in meanings.items() if isinstance(words, str)}
    faults = [f"no meaning for the column {name}" for name in sorted(used - general)]
    faults += [f"a meaning for {name}, which no view has" for name in sorted(general - used)]
    faults += [f"the view {name} is not on the page" for name in {*TENANT_VIEWS, *FLEET_VIEWS} - VIEWS.keys()]
    return "".join(parts), faults


def made() -> str:
    """The page of today's schema; ends with what is wrong."""
    assert models_outside  # its tables are part of the schema
    meanings = tomllib.loads(MEANINGS.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as home:
        database = Database.from_settings(Settings(home=Path(home), database_url="", _env_file=None))  # type: ignore[arg-type]
        try:
            database.upgrade()
            with database.reading() as tx:
                text, faults = page(inspect(tx), meanings)
        finally:
            database.dispose()
    if faults:
        sys.exit("\n".join([*faults, f"mend {MEANINGS.relative_to(ROOT)}"]))
    return text


if __name__ == "__main__":
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(made(), encoding="utf-8")
    elif not TARGET.exists() or TARGET.read_text(encoding="utf-8") != made():
        sys.exit("docs/reference/database.md is not what the schema says; run python scripts/database_reference.py")

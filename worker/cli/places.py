"""Where things lie on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobs.settings import Settings


def sqlite_file(settings: Settings) -> Path | None:
    """The file of an SQLite database, None for any other; needs no connection."""
    scheme, _, path = settings.database_url.get_secret_value().partition(":///")
    if not scheme.startswith("sqlite") or not path or path.startswith(":memory:"):
        return None
    return Path(path.partition("?")[0]).expanduser()

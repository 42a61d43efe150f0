"""Opening SQLite files that several processes share."""

from __future__ import annotations

import sqlite3
import threading

WAL_SECONDS = 30.0
_PAUSE_SECONDS = 0.05


def use_wal(connection: sqlite3.Connection) -> None:
    """Put the file into WAL mode, once; flushes then happen at checkpoints, not at every commit.

    The switch wants the file for itself, and SQLite does not wait for it as it waits for a write lock: so when several
    processes open a new file at once, all but one find it locked for a moment. Raises sqlite3.OperationalError when
    that lasts.
    """
    pause = threading.Event()
    for left in range(int(WAL_SECONDS / _PAUSE_SECONDS), -1, -1):
        try:
            if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                connection.execute("PRAGMA journal_mode=WAL").fetchone()
            break
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or left == 0:
                raise
            pause.wait(_PAUSE_SECONDS)
    connection.execute("PRAGMA synchronous=NORMAL")

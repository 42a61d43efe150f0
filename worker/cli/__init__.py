"""The command line, `portraits`. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import sys


def main() -> None:
    """Run `portraits` with the arguments of this process, and exit with its code."""
    from worker.cli.app import app

    app(sys.argv[1:], prog_name="portraits")


__all__ = ["main"]

"""Celery, with the packages of the tree that this file lies in: `python -P .../worker/start.py -A worker.app worker`.

`python -m celery` looks into the working folder first, and so does Celery when it imports the app. A worker that is
started from a checkout would then draw with the checkout's code and packs, whatever is installed and was asked by
whoever started it. Everything is imported here before Celery looks.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    """Import the app, then do what `celery` does."""
    root = str(Path(__file__).resolve().parents[1])
    if root not in sys.path:
        sys.path.insert(0, root)
    from celery.__main__ import main as celery

    import worker.app  # noqa: F401 - it brings jobs and hyperlora along

    celery()


if __name__ == "__main__":
    main()

"""A clerk with the packages of the tree that this file lies in: `python -P .../jobs/clerk/start.py --parent PID`.

See `worker/start.py`: the working folder may be another checkout. A process that minds a clerk starts this file;
people run `portraits clerk`.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
from pathlib import Path


def main() -> None:
    """Read the settings, then be a clerk."""
    root = str(Path(__file__).resolve().parents[2])
    if root not in sys.path:
        sys.path.insert(0, root)
    asked = argparse.ArgumentParser()
    asked.add_argument("--parent", type=int, required=True)
    parent = asked.parse_args().parent
    from jobs import logs
    from jobs.clerk.run import run
    from jobs.settings import get_settings

    multiprocessing.current_process().name = "Clerk"  # which stands in each line
    logs.set_up(get_settings())
    status = run(get_settings(), parent=parent)
    logging.shutdown()
    # At once: a thread that was not waited for may be in the middle of an exchange with a server.
    os._exit(status)


if __name__ == "__main__":
    main()

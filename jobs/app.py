"""The Celery application of processes that look on and do not draw: `celery -A jobs.app flower`.

It has the broker of the settings and no tasks, and needs no torch; workers have their own in `worker.app`.
"""

from __future__ import annotations

import logging
from typing import Any

from celery import Celery
from celery.signals import setup_logging

from jobs import logs
from jobs.broker import make_app
from jobs.settings import get_settings

app: Celery = make_app(get_settings(), current=True)


def _set_up_logs(loglevel: int | str | None = None, logfile: str | None = None, **_: Any) -> None:
    """As every process of ours logs; with a receiver of this signal Celery leaves logging alone."""
    logs.set_up(get_settings(), level=loglevel or logging.INFO, file=logfile or None)


setup_logging.connect(_set_up_logs, weak=False)

"""The Celery application of processes that look on and do not draw: `celery -A jobs.app flower`.

It has the broker of the settings and no tasks, and needs no torch; workers have their own in `worker.app`.
"""

from __future__ import annotations

from celery import Celery

from jobs.broker import make_app
from jobs.settings import get_settings

app: Celery = make_app(get_settings(), current=True)

"""The application as it is, whose beat ticks each second: `celery -A ticking_beat beat`."""

from worker.app import app

app.conf.beat_schedule["retention"]["schedule"] = 1.0
__all__ = ["app"]

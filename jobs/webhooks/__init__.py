"""Webhooks: tenants are told of the ends of their jobs and units, by signed messages that arrive at least once."""

from __future__ import annotations

from jobs.webhooks.delivering import deliver_due
from jobs.webhooks.manage import Ping, add, every, failing, latest, ping, remove, retry

__all__ = ["Ping", "add", "deliver_due", "every", "failing", "latest", "ping", "remove", "retry"]

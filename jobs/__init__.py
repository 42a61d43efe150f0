"""What was asked for and what became of it: manifests, tables, storage, status. Needs no torch.

>>> from jobs import enqueue, status
>>> job = enqueue("people.yaml")
>>> status(job.key).job["state"]
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobs.errors import JobsError, ManifestInvalid
    from jobs.intake import Enqueued, enqueue
    from jobs.reports import JobStatus, cancel, list_jobs, rerun, results, retry, status
    from jobs.settings import Settings

_HOMES = {
    "Enqueued": "jobs.intake",
    "JobStatus": "jobs.reports",
    "JobsError": "jobs.errors",
    "ManifestInvalid": "jobs.errors",
    "Settings": "jobs.settings",
    "cancel": "jobs.reports",
    "enqueue": "jobs.intake",
    "list_jobs": "jobs.reports",
    "rerun": "jobs.reports",
    "results": "jobs.reports",
    "retry": "jobs.reports",
    "status": "jobs.reports",
}

__all__ = [
    "Enqueued",
    "JobStatus",
    "JobsError",
    "ManifestInvalid",
    "Settings",
    "cancel",
    "enqueue",
    "list_jobs",
    "rerun",
    "results",
    "retry",
    "status",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jobs' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

"""What only the command line can stumble over.

WorkerError
├── ExtraMissing   a command needs packages of `[worker]` that are not installed
└── WorkerDied     the demo's worker ended before the job did
"""

from __future__ import annotations

from worker.errors import WorkerError


class ExtraMissing(WorkerError):
    """Packages of the extra `worker` are not installed."""

    code = "extra_missing"


class WorkerDied(WorkerError):
    """The worker ended before the job did."""

    code = "worker_died"

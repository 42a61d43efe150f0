"""The clerk: the process that does what follows from the queue, beside it.

It tells of ends, makes galleries, delivers to webhooks and sweeps what is kept too long. Nothing of the queue waits for
it, and it holds nothing that a second clerk could not take over: so there may be any number, and none for a while.
"""

from __future__ import annotations

from jobs.clerk.child import ClerkChild, minded

__all__ = ["ClerkChild", "minded"]

"""Samplers by name, built from the base model's own scheduler settings.

A scheduler keeps state while it runs, so every batch gets a new one; an aborted batch leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyperlora.errors import UnknownScheduler

# Name -> diffusers class and the settings that replace the base model's.
_KNOWN: dict[str, tuple[str, dict[str, Any]]] = {
    "dpmpp_2m_karras": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint", "use_karras_sigmas": True},
    ),
    "euler": ("EulerDiscreteScheduler", {"use_karras_sigmas": False}),
}

SCHEDULERS: tuple[str, ...] = tuple(_KNOWN)
"""The names that `make_scheduler` knows."""

DEFAULT_SCHEDULER = "dpmpp_2m_karras"


def make_scheduler(name: str, base_config: Mapping[str, Any]) -> Any:
    """Build a fresh diffusers scheduler; `UnknownScheduler` lists the names."""
    if name not in _KNOWN:
        raise UnknownScheduler(f"unknown scheduler {name!r}, known: {', '.join(SCHEDULERS)}")
    import diffusers

    class_name, changes = _KNOWN[name]
    return getattr(diffusers, class_name).from_config(base_config, **changes)

"""The claims of the method, one file each; `CLAIMS` lists them in the order of the table.

A claim is a function from a study to its outcome. To add one, write its file and a line here.
"""

from __future__ import annotations

from collections.abc import Callable

from hyperlora.evaluation.claims.branches import branches
from hyperlora.evaluation.claims.identity import ceiling, identity
from hyperlora.evaluation.claims.interpolation import interpolation
from hyperlora.evaluation.claims.leak import leak
from hyperlora.evaluation.claims.outcome import Outcome
from hyperlora.evaluation.claims.photos import photos
from hyperlora.evaluation.claims.refining import refining
from hyperlora.evaluation.claims.speed import speed
from hyperlora.evaluation.claims.text import text
from hyperlora.evaluation.claims.trigger import trigger
from hyperlora.evaluation.study import MiniStudy

CLAIMS: dict[str, Callable[[MiniStudy], Outcome]] = {
    "ceiling": ceiling,
    "identity": identity,
    "text": text,
    "photos": photos,
    "leak": leak,
    "trigger": trigger,
    "branches": branches,
    "interpolation": interpolation,
    "refine": refining,
    "speed": speed,
}

__all__ = ["CLAIMS", "Outcome"]

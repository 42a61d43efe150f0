"""Renders that were begun and are not decided: pictures that nobody has judged yet, and drawings that follow.

The recorder's threads fill it, the thread that draws empties it, and waits here when it has nothing to draw.
"""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.repository.units import ClaimedUnit
from worker.trial import Draw, Trial

Claim = tuple[uuid.UUID, int]


def claim_of(unit: ClaimedUnit) -> Claim:
    """A unit as it was claimed this time: one that was lost and claimed anew is another."""
    return unit.id, unit.lease_token


@dataclass(frozen=True)
class News:
    """What has come since the last look, and how things stand at that moment.

    Parameters
    ----------
    follow_ups
        Drawings that judged pictures asked for.
    unjudged
        Units with pictures that were not judged yet: more may follow from these.
    number
        Of the last change, to wait for another.
    """

    follow_ups: Sequence[Draw]
    unjudged: frozenset[Claim]
    number: int


class Begun:
    """What is in the making; safe to use from several threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._number = 0
        self._open: set[Trial] = set()
        self._unjudged: Counter[Claim] = Counter()
        self._follow_ups: list[Draw] = []

    def __len__(self) -> int:
        """How many renders have been begun and are not decided."""
        with self._changed:
            return len(self._open)

    def add(self, draw: Draw) -> None:
        """A picture was drawn and waits to be judged."""
        with self._changed:
            self._open.add(draw.trial)
            self._unjudged[claim_of(draw.render.unit)] += 1

    def judged(self, draw: Draw, follow_ups: Sequence[Draw], *, is_undecided: bool) -> None:
        """One picture was judged, or could not be: these drawings follow from it."""
        claim = claim_of(draw.render.unit)
        with self._changed:
            self._unjudged[claim] -= 1
            if not self._unjudged[claim]:
                del self._unjudged[claim]
            self._follow_ups += follow_ups
            if not is_undecided:
                self._open.discard(draw.trial)
            self._tell()

    def end(self, trial: Trial) -> None:
        """Nothing more becomes of this render here."""
        with self._changed:
            self._open.discard(trial)
            self._tell()

    def nudge(self) -> None:
        """Something else has changed for which the drawing thread may be waiting."""
        with self._changed:
            self._tell()

    def claims(self) -> set[Claim]:
        """The units that have renders in the making."""
        with self._changed:
            return {claim_of(trial.render.unit) for trial in self._open}

    def look(self) -> News:
        """Take the drawings that follow, and how things stand in the same moment."""
        with self._changed:
            draws, self._follow_ups = self._follow_ups, []
            return News(draws, frozenset(self._unjudged), self._number)

    def wait(self, since: int) -> None:
        """Wait until something has changed after the change of this number."""
        with self._changed:
            self._changed.wait_for(lambda: self._number != since)

    def _tell(self) -> None:
        self._number += 1
        self._changed.notify_all()

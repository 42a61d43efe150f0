"""How many pictures turned out to fit, kept in PORTRAITS_HOME, so that a worker that starts again knows it.

One bad moment, such as another program on the same GPU, must not make batches small for ever: a lesson holds for an
hour, and then twice as many are tried once. If they fit, they hold from then on; if not, the lesson holds four times
as long as before, up to a week. How often it was in vain is remembered for a week after they fitted again: memory that
comes and goes must not cost a batch every hour.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from worker.advice import AdviceFile

log = logging.getLogger(__name__)
FILE = "batches.json"
FIRST_SECONDS, LONGER, LONGEST_SECONDS = 3600.0, 4, 7 * 24 * 3600.0


@dataclass(frozen=True)
class Lesson:
    """So many fit for a kind of picture.

    Parameters
    ----------
    size
        Pictures in one batch.
    until
        Seconds since 1970 from when more may be tried.
    times
        How often more was tried in vain, the first time included.
    """

    size: int
    until: float
    times: int

    def __post_init__(self) -> None:
        if not (isinstance(self.size, int) and self.size >= 1 and isinstance(self.times, int) and self.times >= 0):
            raise TypeError(f"size {self.size!r} and times {self.times!r} are no counts")
        if not (isinstance(self.until, int | float) and math.isfinite(self.until)):
            raise TypeError(f"until {self.until!r} is no time")


class Lessons:
    """What one model on one device, under one limit of memory, was taught; used by one thread."""

    def __init__(self, home: Path | None = None, name: str = "", *, now: Callable[[], float] = time.time) -> None:
        """Without `home` nothing outlives the process."""
        self._file = None if home is None else AdviceFile(home / FILE, again="workers learn again what fits")
        self._name, self._now = name, now
        self._learned = {} if self._file is None else _lessons(self._file, name)

    def size(self, kind: str, expected: int) -> int:
        """The largest batch to try for this kind of picture, at most what is expected to fit."""
        lesson = self._learned.get(kind)
        if lesson is None:
            return expected
        return min(expected, lesson.size if self._now() < lesson.until else 2 * lesson.size)

    def did_not_fit(self, kind: str, size: int) -> None:
        """Half as many are tried from now on."""
        times = self._times(self._learned.get(kind))
        holds = min(LONGEST_SECONDS, FIRST_SECONDS * LONGER ** (times - 1))
        self._learn(kind, Lesson(max(1, (size + 1) // 2), self._now() + holds, times))

    def _times(self, before: Lesson | None) -> int:
        """How often more was tried in vain, this time included."""
        if before is None or self._now() - before.until > LONGEST_SECONDS:
            return 1
        # Halved again before it was time to try more: the same occasion still.
        return before.times if self._now() < before.until else before.times + 1

    def did_fit(self, kind: str, size: int) -> None:
        """Where more were tried than the lesson said, they hold from now on."""
        lesson = self._learned.get(kind)
        if lesson is not None and size > lesson.size:
            self._learn(kind, Lesson(size, self._now(), lesson.times))

    def _learn(self, kind: str, lesson: Lesson) -> None:
        self._learned[kind] = lesson
        if self._file is None:
            return
        try:
            known = self._file.entry(self._name) or {}
            self._file.keep(self._name, {**known, kind: asdict(lesson)})
        except OSError as error:  # this process knows it all the same; no picture fails for it
            log.warning("how many pictures fit is not kept for the next start: %s", error)


def _lessons(file: AdviceFile, name: str) -> dict[str, Lesson]:
    told = {kind: file.told(Lesson, values) for kind, values in (file.entry(name) or {}).items()}
    return {kind: lesson for kind, lesson in told.items() if lesson is not None}

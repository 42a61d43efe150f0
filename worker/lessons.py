"""How many pictures turned out to fit, kept in PORTRAITS_HOME, so that a worker that starts again knows it.

One bad moment, such as another program on the same GPU, must not make batches small for ever: a lesson holds for an
hour, and then twice as many are tried once. If they fit, they hold from then on; if not, the lesson holds four times
as long as before, up to a week.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jobs.errors import SettingsInvalid

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
        if not isinstance(self.until, int | float):
            raise TypeError(f"until {self.until!r} is no time")


class Lessons:
    """What one model on one device, under one limit of memory, was taught; used by one thread."""

    def __init__(self, home: Path | None = None, name: str = "", *, now: Callable[[], float] = time.time) -> None:
        """Without `home` nothing outlives the process. Raises `SettingsInvalid` for a file that holds no lessons."""
        self._file = None if home is None else home / FILE
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
        before, now = self._learned.get(kind), self._now()
        # Halved again before it was time to try more: the same occasion still.
        times = before.times if before is not None and now < before.until else (before.times if before else 0) + 1
        holds = min(LONGEST_SECONDS, FIRST_SECONDS * LONGER ** (times - 1))
        self._learn(kind, Lesson(max(1, (size + 1) // 2), now + holds, times))

    def did_fit(self, kind: str, size: int, expected: int) -> None:
        """Where more were tried than the lesson said, they hold from now on; it is forgotten when all expected fit."""
        lesson = self._learned.get(kind)
        if lesson is not None and size > lesson.size:
            self._learn(kind, None if size >= expected else Lesson(size, self._now(), lesson.times))

    def _learn(self, kind: str, lesson: Lesson | None) -> None:
        if lesson is None:
            self._learned.pop(kind, None)
        else:
            self._learned[kind] = lesson
        if self._file is None:
            return
        try:
            _write(self._file, self._name, kind, lesson)
        except (OSError, SettingsInvalid) as error:  # this process knows it all the same; no picture fails for it
            log.warning("how many pictures fit is not kept for the next start: %s", error)


def _lessons(file: Path, name: str) -> dict[str, Lesson]:
    try:
        return {kind: Lesson(**told) for kind, told in _read(file).get(name, {}).items()}
    except (TypeError, AttributeError) as error:
        raise SettingsInvalid(f"{file} is damaged or of another version ({error}); remove it") from error


def _write(file: Path, name: str, kind: str, lesson: Lesson | None) -> None:
    """One entry anew. Another worker's entry of the same moment may be lost; it will learn that again."""
    known = _read(file)
    own = {**known.get(name, {}), kind: asdict(lesson) if lesson else None}
    known[name] = {each: told for each, told in own.items() if told is not None}
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}-{os.getpid()}")
    beside.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    beside.replace(file)


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SettingsInvalid(f"{file} is not JSON ({error}); remove it, workers learn again what fits") from error
    if not isinstance(content, dict) or not all(isinstance(each, dict) for each in content.values()):
        raise SettingsInvalid(f"{file} holds no lessons of what fits; remove it, workers learn again")
    return content

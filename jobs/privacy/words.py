"""Whether a text speaks of somebody: a name as a whole word, an id or a hash anywhere."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

# What ids and hashes look like in any text: with hyphens, or without as SQLite stores ids.
_MARK = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32,64}", re.IGNORECASE)
_WORD = re.compile(r"[\w-]+")
LEAST_LETTERS = 3
"""A shorter name is looked for as a whole value alone: it is part of too many words."""
MOST_SOUGHT = 100
"""More names than that are looked for as single words: those with spaces only as whole values."""


class Words:
    """Names, ids and hashes that texts are searched for."""

    def __init__(self, names: Iterable[str], marks: Iterable[str]) -> None:
        self._names = frozenset(name for name in names if name)
        self._marks = frozenset(mark.replace("-", "").lower() for mark in marks)
        self._long = tuple(name for name in self._names if len(name) >= LEAST_LETTERS)

    def found_in(self, text: str) -> Iterator[str]:
        """Which kinds of these a text holds: `name`, or `id` for an id or hash."""
        if text in self._names or self._has_name(text):
            yield "name"
        if any(mark.replace("-", "").lower() in self._marks for mark in _MARK.findall(text)):
            yield "id"

    def _has_name(self, text: str) -> bool:
        if len(self._long) > MOST_SOUGHT:
            return not self._names.isdisjoint(word for word in _WORD.findall(text) if len(word) >= LEAST_LETTERS)
        return any(name in text and _as_word(name, text) for name in self._long)


def speaks_of(text: str, name: str) -> bool:
    """Whether a text has this name as a whole word, however it is written."""
    return _as_word(name.casefold(), text.casefold())


def _as_word(name: str, text: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) is not None

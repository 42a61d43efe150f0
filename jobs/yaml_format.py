"""YAML as the manifest reads it: the safe core of the language, with lines, in bounded memory.

The tree is built from the parser's events, so nothing is constructed that is not a text, a number, true, false, null, a
list or a mapping. Refused, as faults with their line: anchors' aliases (a few of them can stand for gigabytes), tags,
several documents, a key twice in one mapping, keys that are no texts, deep nesting, numbers beyond 64 bits. Plain
scalars follow YAML 1.2: `no`, `on`, `12:30` and `2026-01-01` are texts, and so is a number with leading zeros (`007`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from jobs.located import MAX_DEPTH, MAX_NODES, Listed, Mapped, Unreadable, decimal_number, decode_utf8, whole_number

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_WORDS = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_WORDS_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_CORE_TAGS = {None, "!"}


def read_yaml(data: bytes) -> Any:
    """The document's tree (`Mapped`, `Listed`, scalars). Raises `Unreadable` with the line."""
    text = decode_utf8(data)
    try:
        return _Builder(yaml.parse(text, Loader=_LOADER)).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = error.problem or error.context or "it cannot be parsed"
        if "nesting depth" in what:  # PyYAML's own limit, which lies above ours
            raise Unreadable(f"nested deeper than {MAX_DEPTH} levels", mark.line + 1 if mark else None) from error
        raise Unreadable(f"not YAML: {what}", mark.line + 1 if mark else None) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise Unreadable(f"not YAML: {error.reason} (character U+{_code_point(error.character):04X})", line) from error
    except yaml.YAMLError as error:
        raise Unreadable(f"not YAML: {error}") from error


class _Builder:
    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events
        self._nodes = 0

    def document(self) -> Any:
        event = next(self._events)  # the start of the stream
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            raise Unreadable("the file is empty", 1)
        tree = self._node(next(self._events), 0)
        next(self._events)  # the end of the document
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise Unreadable("a second document begins; write one document per file", event.start_mark.line + 1)
        return tree

    def _node(self, event: Any, depth: int) -> Any:
        line = event.start_mark.line + 1
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise Unreadable(f"more than {MAX_NODES} entries; use CSV or JSON Lines, which stream", line)
        if isinstance(event, yaml.AliasEvent):
            raise Unreadable(f"the alias *{event.anchor} is refused; write the value out, or use `defaults`", line)
        if event.tag not in _CORE_TAGS:
            raise Unreadable(f"the tag {event.tag} is refused; write the plain value", line)
        if isinstance(event, yaml.ScalarEvent):
            return _scalar(event.value, line) if event.implicit[0] else event.value
        if depth >= MAX_DEPTH:
            raise Unreadable(f"nested deeper than {MAX_DEPTH} levels", line)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(line, depth)
        return self._mapping(line, depth)

    def _sequence(self, line: int, depth: int) -> Listed:
        listed = Listed(line)
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            entry = event.start_mark.line + 1
            listed.add(self._node(event, depth + 1), entry)
        return listed

    def _mapping(self, line: int, depth: int) -> Mapped:
        mapped = Mapped(line)
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            entry = event.start_mark.line + 1
            if not isinstance(event, yaml.ScalarEvent):
                raise Unreadable("a key is no text; a mapping is written `key: value`", entry)
            key = event.value
            if key in mapped:
                raise Unreadable(
                    f"the key {key!r} stands twice in one mapping, first on line {mapped.lines[key]}", entry
                )
            mapped.add(key, self._node(next(self._events), depth + 1), entry)
        return mapped


def _scalar(text: str, line: int) -> Any:
    if text in _WORDS:
        return None
    if text in _WORDS_BOOL:
        return _WORDS_BOOL[text]
    if _INTEGER.fullmatch(text):
        return whole_number(text, line)
    if _DECIMAL.fullmatch(text):
        return decimal_number(text, line)
    return text


def _code_point(character: Any) -> int:
    return ord(character) if isinstance(character, str) else int(character)

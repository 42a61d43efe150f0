"""JSON with lines: strict RFC 8259, read token by token, in bounded depth.

Python's own reader keeps no lines, takes NaN and Infinity, lets the last of two equal keys win and recurses as deep as
the text does. This one refuses all four; texts are decoded by the standard library's scanner.
"""

from __future__ import annotations

import re
from json import JSONDecodeError
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

from jobs.located import (
    MAX_DEPTH,
    MAX_NODES,
    Listed,
    Mapped,
    Unreadable,
    decimal_number,
    decode_utf8,
    whole_number,
)

_SPACE = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"(-?(?:0|[1-9][0-9]*))(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_WORD = re.compile(r"true|false|null")
_WORDS = {"true": True, "false": False, "null": None}


def read_json(data: bytes) -> Any:
    """The document's tree (`Mapped`, `Listed`, scalars). Raises `Unreadable` with the line."""
    return parse_json(decode_utf8(data))


def parse_json(text: str, *, first_line: int = 1) -> Any:
    """As `read_json`, from a text whose first line has the number `first_line`."""
    return _Reader(text, first_line).document()


class _Reader:
    def __init__(self, text: str, line: int) -> None:
        self._text = text
        self._at = 0
        self._line = line
        self._counted = 0
        self._nodes = 0

    def document(self) -> Any:
        value = self._value(0)
        if self._peek():
            raise self._wrong("the end of the document")
        return value

    def _peek(self) -> str:
        """The next character behind white space, '' at the end."""
        self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
        return self._text[self._at : self._at + 1]

    def _here(self) -> int:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def _wrong(self, wanted: str) -> Unreadable:
        found = self._text[self._at : self._at + 20]
        return Unreadable(
            f"not JSON: wanted {wanted}, found {found!r}" if found else f"not JSON: {wanted} is missing", self._here()
        )

    def _value(self, depth: int) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise Unreadable(f"more than {MAX_NODES} entries; use CSV or JSON Lines, which stream", self._here())
        first = self._peek()
        if first == '"':
            return self._string()
        if first in ("{", "["):
            if depth >= MAX_DEPTH:
                raise Unreadable(f"nested deeper than {MAX_DEPTH} levels", self._here())
            return self._object(depth) if first == "{" else self._array(depth)
        if word := _WORD.match(self._text, self._at):
            self._at = word.end()
            return _WORDS[word.group()]
        if number := _NUMBER.match(self._text, self._at):
            line = self._here()
            self._at = number.end()
            if number.group(2) or number.group(3):
                return decimal_number(number.group(), line)
            return whole_number(number.group(), line)
        raise self._wrong("a value")

    def _string(self) -> str:
        try:
            value, self._at = scanstring(self._text, self._at + 1, True)
        except JSONDecodeError as error:
            self._at = error.pos
            raise Unreadable(f"not JSON: {error.msg}", self._here()) from error
        return str(value)

    def _object(self, depth: int) -> Mapped:
        mapped = Mapped(self._here())
        self._at += 1
        if self._peek() == "}":
            self._at += 1
            return mapped
        while True:
            if self._peek() != '"':
                raise self._wrong("a key in double quotes")
            line = self._here()
            key = self._string()
            if key in mapped:
                raise Unreadable(f"the key {key!r} stands twice in one object, first on line {mapped.lines[key]}", line)
            if self._peek() != ":":
                raise self._wrong("':'")
            self._at += 1
            mapped.add(key, self._value(depth + 1), line)
            if self._more("}"):
                return mapped

    def _array(self, depth: int) -> Listed:
        listed = Listed(self._here())
        self._at += 1
        if self._peek() == "]":
            self._at += 1
            return listed
        while True:
            self._peek()
            line = self._here()
            listed.add(self._value(depth + 1), line)
            if self._more("]"):
                return listed

    def _more(self, end: str) -> bool:
        """Step over ',' (False) or the end (True)."""
        found = self._peek()
        if found not in (",", end) or not found:
            raise self._wrong(f"',' or '{end}'")
        self._at += 1
        return found == end

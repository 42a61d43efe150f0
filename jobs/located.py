"""Plain data that remembers its lines, and faults collected with them.

Every format ends in the same tree: `Mapped` and `Listed` are a dict and a list that know the line of each entry, so
that whatever is found wrong later can say where it stands.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from jobs.errors import Fault, ManifestInvalid

MAX_DEPTH = 16
MAX_NODES = 2_000_000
MAX_FAULTS = 1000
MAX_INTEGER = 2**63 - 1


class Mapped(dict[str, Any]):
    """A mapping; `lines` holds the line of each key, `line` the line it starts on (None from Python)."""

    __slots__ = ("line", "lines")

    def __init__(self, line: int | None = None) -> None:
        super().__init__()
        self.line = line
        self.lines: dict[str, int | None] = {}

    def add(self, key: str, value: Any, line: int | None) -> None:
        """Set one entry together with its line."""
        self[key] = value
        self.lines[key] = line


class Listed(list[Any]):
    """A list; `lines` holds the line of each entry."""

    __slots__ = ("line", "lines")

    def __init__(self, line: int | None = None) -> None:
        super().__init__()
        self.line = line
        self.lines: list[int | None] = []

    def add(self, value: Any, line: int | None) -> None:
        """Append one entry together with its line."""
        self.append(value)
        self.lines.append(line)


def line_of(record: Any, path: Iterable[str | int]) -> int | None:
    """The line of the entry that `path` leads to, or of the last one on the way that is known."""
    line: int | None = getattr(record, "line", None)
    for step in path:
        if isinstance(record, Mapped) and isinstance(step, str) and step in record:
            line = record.lines.get(step, line)
        elif isinstance(record, Listed) and isinstance(step, int) and step < len(record):
            line = record.lines[step]
        else:
            break
        record = record[step]
    return line


class Faults:
    """All faults of one manifest; the first 1000 are kept, all are counted."""

    def __init__(self) -> None:
        self.kept: list[Fault] = []
        self.total = 0

    def add(
        self, message: str, *, line: int | None = None, field: str | None = None, source: str | None = None
    ) -> None:
        """Note one fault."""
        self.total += 1
        if len(self.kept) < MAX_FAULTS:
            self.kept.append(Fault(message, line, field, source))

    def raise_any(self) -> None:
        """Raise `ManifestInvalid` with everything that was noted, if anything was."""
        if self.total:
            raise ManifestInvalid(self.kept, self.total)


class Unreadable(ValueError):
    """The text breaks the rules of its format at `line`; what follows it cannot be trusted."""

    def __init__(self, message: str, line: int | None = None, field: str | None = None) -> None:
        super().__init__(message)
        self.line = line
        self.field = field

    def fault(self, source: str | None) -> Fault:
        """The same as a fault of the file `source`."""
        return Fault(str(self), self.line, self.field, source)


def decode_utf8(data: bytes, *, line: int = 1) -> str:
    """Text of UTF-8 bytes, without its byte-order mark. `Unreadable` names the line and byte that is not UTF-8."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Unreadable("the file is UTF-16; save it as UTF-8", line)
    try:
        return data.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    except UnicodeDecodeError as error:
        before = error.object[: error.start]
        place = line + before.count(b"\n")
        column = error.start - (before.rfind(b"\n") + 1) + 1
        raise Unreadable(
            f"byte {column} of the line, 0x{error.object[error.start]:02x}, is not UTF-8; save the file as UTF-8", place
        ) from error


def whole_number(text: str, line: int | None) -> int:
    """The integer; `Unreadable` beyond 64 bits, before Python spends time on its digits."""
    value = int(text) if len(text) <= 20 else MAX_INTEGER + 1
    if abs(value) > MAX_INTEGER:
        raise Unreadable(f"the number {text[:24]}... does not fit 64 bits; write it in quotes if it is a text", line)
    return value


def decimal_number(text: str, line: int | None) -> float:
    """The number; `Unreadable` if it is too large for one."""
    value = float(text) if len(text) <= 400 else math.inf
    if math.isinf(value):
        raise Unreadable(f"the number {text[:24]}... is too large; write it in quotes if it is a text", line)
    return value


def from_python(data: Any) -> Any:
    """The tree of a Python mapping: copied, bounded in depth and size, paths as texts. Raises `Unreadable`."""
    left = MAX_NODES

    def copy(value: Any, depth: int, path: str) -> Any:
        nonlocal left
        left -= 1
        if depth > MAX_DEPTH or left < 0:
            _refuse("is nested deeper" if left >= 0 else "holds more", path)
        if isinstance(value, Mapping):
            mapped = Mapped()
            for key, inner in value.items():
                if not isinstance(key, str):
                    raise Unreadable(f"found a key of type {type(key).__name__}, wanted a text", field=path or None)
                mapped.add(key, copy(inner, depth + 1, f"{path}.{key}" if path else key), None)
            return mapped
        if isinstance(value, list | tuple):
            listed = Listed()
            for index, inner in enumerate(value):
                listed.add(copy(inner, depth + 1, f"{path}[{index}]"), None)
            return listed
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        if isinstance(value, int) and abs(value) > MAX_INTEGER:
            # Python does not even print one of more than 4,300 digits.
            raise Unreadable("the number does not fit 64 bits; make it a text if it is one", field=path or None)
        if value is None or isinstance(value, str | bool | int | float):
            return value
        raise Unreadable(f"found {type(value).__name__}; wanted texts, numbers, lists and mappings", field=path or None)

    return copy(data, 0, "")


def _refuse(how: str, path: str) -> NoReturn:
    raise Unreadable(f"the manifest {how} than any manifest needs; look for a loop", field=path or None)

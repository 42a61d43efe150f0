"""Small JSON files in PORTRAITS_HOME that make work faster and that nothing depends on: what was measured, what fitted.

A file that is damaged, or of a version that is not known here, costs a worker its advice and nothing else: the log says
so, the worker goes on without, and the next entry that is written makes the file anew.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hyperlora.errors import InvalidRequest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

log = logging.getLogger(__name__)
Told = TypeVar("Told", bound="DataclassInstance")


class AdviceFile:
    """One such file: entries by name, each a mapping."""

    def __init__(self, path: Path, *, again: str) -> None:
        """`again` says what makes the advice anew, such as "run `portraits calibrate` again"."""
        self.path, self._again = path, again

    def entry(self, name: str) -> dict[str, Any] | None:
        """One entry; None where it is not there, with a warning where the file or the entry is damaged."""
        found = self._content().get(name)
        if found is None or isinstance(found, dict):
            return found
        self._warn(f"has no mapping under {name!r}", f"found a {type(found).__name__}")
        return None

    def told(self, kind: type[Told], values: Any) -> Told | None:
        """Values of an entry as what they stand for; keys of later versions are passed over.

        None, and a warning, where a value is missing or impossible: `kind` raises TypeError, ValueError or
        InvalidRequest then.
        """
        known = {field.name for field in fields(kind)}
        try:
            return kind(**{key: value for key, value in dict(values).items() if key in known})
        except (TypeError, ValueError, InvalidRequest) as error:
            self._warn("is damaged, or of another version", error)
            return None

    def keep(self, name: str, entry: Mapping[str, Any]) -> None:
        """Write one entry anew, beside the others that can be read.

        Another process's entry of the same moment may be lost; it will be found out again. Raises OSError.
        """
        text = json.dumps({**self._content(), name: dict(entry)}, indent=2) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_name(f".{self.path.name}-{uuid.uuid4().hex}")
        try:
            with beside.open("x", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())  # else a machine that goes down may leave the new name with nothing in it
            beside.replace(self.path)
        finally:
            beside.unlink(missing_ok=True)

    def _content(self) -> dict[str, Any]:
        """Every entry; none, and a warning, where the file cannot be read."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            self._warn("cannot be read", error)
            return {}
        if isinstance(content, dict):
            return content
        self._warn("is damaged", f"wanted a mapping, found a {type(content).__name__}")
        return {}

    def _warn(self, what: str, why: object) -> None:
        log.warning("%s %s (%s); going on without it; %s", self.path, what, why, self._again)

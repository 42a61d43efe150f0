"""File names for pictures, from a template and names that other people chose.

A template such as `{identity}/{prompt}-{seed}` may use identity, prompt, seed, ordinal, render and job; numbers may be
padded (`{ordinal:04d}`). Whatever the values hold, a name stays inside the folder it is used in: separators, control
characters and what file systems refuse become `_`. Two pictures never share a name, not even on a file system that
ignores case: the later one, in the order of the job, gets `-2`, and so on. The order is that of all the job's pictures,
and a name is taken whatever the file's format, so names do not change while the job is drawn.

Further files of a picture, such as an avatar, are named after it: `ada/office-1.png`, `ada/office-1-avatar.webp`.
"""

from __future__ import annotations

import hashlib
import re
import string
import unicodedata
from collections.abc import Mapping
from typing import Any

from worker.errors import WorkerError
from worker.picture_file import extension_of

DEFAULT_TEMPLATE = "{identity}/{prompt}-{seed}"
FIELDS = {
    "identity": "external_id",
    "prompt": "prompt_name",
    "seed": "seed",
    "ordinal": "ordinal",
    "render": "render_id",
    "job": "job_id",
}
MAX_VALUE_BYTES = 100
MAX_PART_BYTES = 200
_NUMBERS = {"seed", "ordinal"}
_PADDING = re.compile(r"0?[1-9][0-9]?d?")
_REFUSED = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"/\\|?*]')
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))}


class NameTemplateInvalid(WorkerError):
    """The template for file names cannot be used."""

    code = "usage"


class NameTemplate:
    """A checked template."""

    def __init__(self, text: str = DEFAULT_TEMPLATE) -> None:
        try:
            self._parts = list(string.Formatter().parse(text))
        except ValueError as error:
            raise NameTemplateInvalid(f"the name {text!r} cannot be read: {error}") from error
        for _, name, spec, conversion in self._parts:
            if name is None:
                continue
            if name not in FIELDS or conversion:
                raise NameTemplateInvalid(f"the name {text!r} asks for {{{name}}}; there are {', '.join(FIELDS)}")
            if spec and (name not in _NUMBERS or not _PADDING.fullmatch(spec)):
                raise NameTemplateInvalid(
                    f"the name {text!r} formats {{{name}:{spec}}}; wanted {{ordinal:04d}} or none"
                )
        sample = "".join(literal + ("x" if name else "") for literal, name, _, _ in self._parts)
        if "\\" in sample or any(part.strip(" .") == "" for part in sample.split("/")):
            raise NameTemplateInvalid(
                f"the name {text!r} would leave the folder or has an empty part; "
                "write a relative path with / between its parts"
            )

    def path(self, row: Mapping[str, Any]) -> str:
        """The relative path for one picture, without its ending; parts are separated by `/`."""
        filled = []
        for literal, name, spec, _ in self._parts:
            filled.append(literal)
            if name is not None:
                value = row[FIELDS[name]]
                filled.append(format(int(value), spec or "") if name in _NUMBERS else safe_value(str(value)))
        return "/".join(safe_part(part) for part in "".join(filled).split("/"))


def safe_value(text: str) -> str:
    """A value as it may stand inside a part of a path: no separators, nothing unseen, not too long."""
    seen = "".join("_" if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Co", "Cn"} else c for c in text)
    return _cut(_REFUSED.sub("_", unicodedata.normalize("NFC", seen)), MAX_VALUE_BYTES)


def safe_part(text: str) -> str:
    """A part that every file system takes and none gives a meaning to."""
    part = _cut(_REFUSED.sub("_", text).rstrip(" .").lstrip(" "), MAX_PART_BYTES).rstrip(" .")
    if part.startswith("."):
        part = f"_{part[1:]}"
    if part.split(".")[0].lower() in _DEVICES:
        part = f"_{part}"
    return part or "_"


def _cut(text: str, most: int) -> str:
    """At most so many bytes of UTF-8; a text that is cut ends with a mark of the whole."""
    data = text.encode()
    if len(data) <= most:
        return text
    mark = hashlib.sha256(data).hexdigest()[:8]
    return data[: most - 9].decode(errors="ignore") + f"~{mark}"


class UniqueNames:
    """Gives each picture and each of its further files a path, and no path twice."""

    def __init__(self, template: NameTemplate) -> None:
        self._template = template
        self._taken: set[int] = set()
        self._next: dict[int, int] = {}

    def path(self, row: Mapping[str, Any]) -> str:
        """The picture's own relative path, with its ending; see `paths`."""
        return self.paths(row)[""] + extension_of(row["media_type"])

    def paths(self, row: Mapping[str, Any]) -> dict[str, str]:
        """Relative paths without their endings: of the picture under "", of its further files under their names.

        Call it in the order of the job, once for every picture, drawn or not.
        """
        main = self._take(self._template.path(row))
        return {"": main, **{name: self._take(_beside(main, name)) for name in further_names(row)}}

    def _take(self, wanted: str) -> str:
        name, number = wanted, self._next.get(_mark(wanted), 2)
        while _mark(name) in self._taken:
            name, number = f"{wanted}-{number}", number + 1
        if name != wanted:
            self._next[_mark(wanted)] = number
        self._taken.add(_mark(name))
        return name


def further_names(row: Mapping[str, Any]) -> list[str]:
    """The names of the files that a render asks for beside its picture, as its options have them."""
    asked = (row.get("options") or {}).get("outputs") or []
    return [output["name"] for output in asked[1:]]


def _beside(path: str, name: str) -> str:
    """A path for a further file of the picture at `path`; what is too long is cut before the name."""
    folder, slash, last = path.rpartition("/")
    return f"{folder}{slash}{_cut(last, MAX_PART_BYTES - len(name.encode()) - 1)}-{safe_value(name)}"


def _mark(path: str) -> int:
    """64 bits for a path, the same for paths that some file systems take for one."""
    folded = unicodedata.normalize("NFC", path.casefold())
    return int.from_bytes(hashlib.blake2b(folded.encode(), digest_size=8).digest())

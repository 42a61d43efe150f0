"""Finding the parts of a manifest: which file gives the job, which the people, in which format.

| ending         | job part                                    | people                   |
| .yaml .yml     | top-level keys                              | `identities`             |
| .json          | top-level keys                              | `identities`             |
| .jsonl .ndjson | first line {"job": {...}}, or the job file  | one per line, streamed   |
| .csv .tsv      | the job file                                | one per row, streamed    |

A job file (YAML or JSON) has the same keys except `identities`; each key it gives replaces the manifest's. A prompts
file replaces all of the job's prompts. Prompt sets are looked for in the folder of the file that names them, photos
always in the folder of the manifest.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.errors import Fault, ManifestInvalid
from jobs.json_format import read_json
from jobs.located import Listed, Mapped, Unreadable, from_python
from jobs.settings import Settings
from jobs.streams import CsvStream, JsonLinesStream, LateJob, Record
from jobs.yaml_format import read_yaml

_WHOLE = {".yaml": read_yaml, ".yml": read_yaml, ".json": read_json}
_STREAMS = {".csv", ".tsv", ".jsonl", ".ndjson"}


@dataclass(frozen=True)
class Part:
    """A mapping of job keys, the file's name for faults, and the folder its prompt sets lie in; None: it has none."""

    record: Any
    source: str | None
    folder: Path | None


class ManifestReader:
    """The parts of one manifest; `people` can be walked once."""

    def __init__(
        self,
        source: str | None,
        folder: Path | None,
        parts: list[Part],
        people: Listed | CsvStream | JsonLinesStream | None,
    ) -> None:
        self.source = source
        self.folder = folder
        self.parts = parts
        self._people = people

    @property
    def fields(self) -> frozenset[str] | None:
        """The fields that a table's headings offer to prompts; None where each identity has its own."""
        return self._people.fields() if isinstance(self._people, CsvStream) else None

    def people(self) -> Iterator[tuple[str, Record]]:
        """(path of the entry for faults, record) of each identity."""
        if not isinstance(self._people, Listed):
            for record in self._people or ():
                yield "", record
            return
        for index, record in enumerate(self._people):
            path, line = f"identities[{index}]", self._people.lines[index]
            if not isinstance(record, Mapped):
                record = Unreadable("wanted an identity with id, photos and so on", line)  # noqa: PLW2901
            yield path, record

    def close(self) -> None:
        """Close the file, if it is still open."""
        if isinstance(self._people, CsvStream | JsonLinesStream):
            self._people.close()


def read_manifest(path: Path, job_file: Path | None, settings: Settings) -> ManifestReader:
    """Open a manifest file. Raises `ManifestInvalid` if a file is missing, too large, or not of its format."""
    suffix = path.suffix.lower()
    if suffix not in _WHOLE and suffix not in _STREAMS:
        raise _invalid(f"wanted a manifest named .yaml, .json, .jsonl or .csv, found {path.name!r}", path)
    parts, folder = [], path.absolute().parent
    people: Listed | CsvStream | JsonLinesStream | None
    if suffix in _WHOLE:
        record = read_document(path, settings)
        people = _identities(record, path)
        parts.append(Part(record, path.name, folder))
    else:
        people = _open_stream(path, suffix)
        if isinstance(people, JsonLinesStream) and people.job is not None:
            parts.append(Part(people.job, path.name, folder))
    reader = ManifestReader(path.name, folder, parts, people)
    try:
        for part in parts if suffix in _STREAMS else []:
            _refuse_identities(part)
        if job_file is not None:
            part = Part(read_document(job_file, settings), job_file.name, job_file.absolute().parent)
            _refuse_identities(part)
            parts.append(part)
        if not parts:
            raise _jobless(people, path)
    except BaseException:
        reader.close()
        raise
    return reader


def read_mapping(data: Mapping[str, Any], base: Path) -> ManifestReader:
    """The manifest that a Python caller wrote as a mapping."""
    try:
        record = from_python(data)
        people = _identities(record, None)
    except Unreadable as error:
        raise ManifestInvalid([error.fault(None)]) from error
    return ManifestReader(None, base, [Part(record, None, base)], people)


def read_sent(data: bytes, ending: str) -> ManifestReader:
    """The manifest that somebody has sent as a document, `.json` or `.yaml`: it has no folder, and names no file."""
    record = parse_document(data, f"manifest{ending}")
    return ManifestReader(None, None, [Part(record, None, None)], _identities(record, None))


def read_document(path: Path, settings: Settings) -> Any:
    """The tree of a YAML or JSON file that a person named. Raises `ManifestInvalid`."""
    read = _WHOLE.get(path.suffix.lower())
    if read is None:
        raise _invalid(f"wanted a file named .yaml or .json, found {path.name!r}", path)
    try:
        if _check_plain(path) <= settings.max_manifest_bytes:
            return parse_document(path.read_bytes(), path.name)
    except OSError as error:
        raise _unreadable(path, error) from error
    raise _invalid(f"more than {settings.max_manifest_bytes} bytes; use CSV or JSON Lines, which stream", path)


def parse_document(data: bytes, name: str) -> Any:
    """The tree of a YAML or JSON document, by the ending of its name. Raises `ManifestInvalid`."""
    try:
        return _WHOLE[Path(name).suffix.lower()](data)
    except Unreadable as error:
        raise ManifestInvalid([error.fault(name)]) from error


def _jobless(people: Listed | CsvStream | JsonLinesStream | None, path: Path) -> ManifestInvalid:
    """What is wrong with a stream that has no job part; a job line further down is the likeliest slip."""
    if not isinstance(people, JsonLinesStream):
        return _invalid("a table of people says nothing about prompts; give a job file with them", path)
    late = next((record for record in people if isinstance(record, LateJob)), None)
    if late is not None:
        return ManifestInvalid([late.fault(path.name)])
    return _invalid('nothing is said about prompts; give a job file, or a first line {"job": {...}}', path)


def _open_stream(path: Path, suffix: str) -> CsvStream | JsonLinesStream:
    try:
        _check_plain(path)
        return CsvStream(path) if suffix in (".csv", ".tsv") else JsonLinesStream(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    except Unreadable as error:
        raise ManifestInvalid([error.fault(path.name)]) from error


def _identities(record: Any, path: Path | None) -> Listed:
    source = path.name if path else None
    if not isinstance(record, Mapped):
        raise ManifestInvalid([Fault("wanted a mapping with prompts and identities", 1, None, source)])
    people = record.get("identities")
    if isinstance(people, Listed) and people:
        return people
    line = record.lines.get("identities", record.line)
    found = "an empty list" if people == [] else "nothing" if people is None else repr(people)[:60]
    raise ManifestInvalid([Fault(f"wanted a list of at least one identity, found {found}", line, "identities", source)])


def _refuse_identities(part: Part) -> None:
    if isinstance(part.record, Mapped) and "identities" in part.record:
        line = part.record.lines["identities"]
        message = "the job part names no identities; they stand in the manifest"
        raise ManifestInvalid([Fault(message, line, "identities", part.source)])


def _check_plain(path: Path) -> int:
    """The size of a regular file; a pipe or a device would be waited for, and has none."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise _invalid("wanted a regular file", path)
    return found.st_size


def _unreadable(path: Path, error: OSError) -> ManifestInvalid:
    return _invalid(f"cannot read {str(path)!r}: {error.strerror or error}", path)


def _invalid(message: str, path: Path) -> ManifestInvalid:
    return ManifestInvalid([Fault(message, None, None, path.name)])

"""Where the pictures of a set come from: folders of pictures, webdataset tars, and whose pictures they are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperlora.dataset.archive import Entry, tar_entries
from hyperlora.dataset.folder import folder_entries
from hyperlora.errors import DatasetMissing


@dataclass(frozen=True, slots=True)
class Source:
    """One picture to look at.

    Parameters
    ----------
    entry
        Where its files lie.
    name
        What it is called in the report: the input's name and the picture's key.
    person
        Whose folder it lies in, where the input has a folder for each person; else None.
    """

    entry: Entry
    name: str
    person: str | None


def list_sources(inputs: Sequence[Path], *, people: bool = True) -> list[Source]:
    """Every picture of the inputs, always in the same order.

    An input is a `.tar`, a folder with `.tar` files, or a folder of pictures. Where the keys of an input begin with at
    least two different folders, each such folder is taken for a person (switched off by `people`); people of different
    inputs are never taken for the same.

    Raises
    ------
    DatasetMissing
        An input is not there, or none of them has a picture.
    DatasetDamaged
        A tar cannot be read.
    """
    sources: list[Source] = []
    for label, place in zip(_labels(inputs), inputs, strict=True):
        entries = list(_entries(place))
        by_person = people and len({_first_folder(entry.key) for entry in entries} - {None}) > 1
        for entry in entries:
            folder = _first_folder(entry.key) if by_person else None
            sources.append(Source(entry, f"{label}/{entry.key}", None if folder is None else f"{label}/{folder}"))
    if not sources:
        raise DatasetMissing(f"no picture (JPEG, PNG or WebP) in {', '.join(str(place) for place in inputs)}")
    return sources


def sources_fingerprint(sources: Sequence[Source]) -> str:
    """SHA-256 over names, people and file sizes: what is read again when nothing has changed."""
    digest = hashlib.sha256()
    for source in sources:
        entry = source.entry
        sizes = [
            None if span is None else span.size for span in (entry.picture, entry.caption, entry.face, entry.facts)
        ]
        digest.update(f"{source.name!r} {source.person!r} {sizes}\n".encode())
    return digest.hexdigest()


def _entries(place: Path) -> Iterator[Entry]:
    if place.is_dir():
        shards = sorted(place.glob("*.tar"))
        if not shards:
            yield from folder_entries(place)
        for shard in shards:
            yield from tar_entries(shard)
    elif place.is_file():
        yield from tar_entries(place)
    else:
        raise DatasetMissing(f"wanted a folder of pictures or a webdataset tar, {place} is neither")


def _first_folder(key: str) -> str | None:
    folder, slash, _ = key.removeprefix("./").partition("/")
    return folder if slash else None


def _labels(inputs: Sequence[Path]) -> list[str]:
    """A name for each input: its own, with a number where several are called the same."""
    seen: dict[str, int] = {}
    labels = []
    for place in inputs:
        name = place.resolve().name
        seen[name] = seen.get(name, 0) + 1
        labels.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return labels

"""What of a part is on this machine: in its own folder, in the one that `--to` named, or in the hub's cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hyperlora.hub import file_sha256
from worker.models.lock import Locked
from worker.models.parts import Part, local_files


@dataclass(frozen=True)
class Here:
    """The files of a part that are here, by name, and the names of those that are missing."""

    files: Mapping[str, Path] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of those that are here."""
        return sum(path.stat().st_size for path in self.files.values())


def look(part: Part, locked: Locked | None) -> Here:
    """What is here of a part; of the hub's that was never pulled nobody knows what there should be."""
    if part.is_local:
        found = local_files(part)
        wanted = locked.files if locked is not None else {}
        return Here(found, tuple(sorted(set(wanted) - set(found))))
    if locked is None:
        return Here()
    found = {name: path for name in locked.files if (path := _cached(part, locked, name)) is not None}
    return Here(found, tuple(sorted(set(locked.files) - set(found))))


def _cached(part: Part, locked: Locked, name: str) -> Path | None:
    if locked.folder is not None:
        path = Path(locked.folder) / name
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(part.repository, name, revision=locked.revision)
    return Path(found) if isinstance(found, str) else None


def root_of(part: Part, locked: Locked) -> Path | None:
    """The folder of this machine that holds all files of a hub's part as they are locked; None if one is missing."""
    here = look(part, locked)
    if here.missing or not here.files:
        return None
    name, path = next(iter(here.files.items()))
    return path.parents[name.count("/")]


def damages(part: Part, locked: Locked) -> list[str]:
    """What is not as it was pulled, each in words; every file is read once."""
    here = look(part, locked)
    told = [f"{name} is missing" for name in here.missing]
    for name, path in here.files.items():
        if name not in locked.files:
            told.append(f"{name} was not there when it was pulled")
            continue
        wanted, size = locked.files[name], path.stat().st_size
        if size != wanted.size:
            told.append(f"{name} has {size:,} bytes, wanted {wanted.size:,}")
        elif file_sha256(path) != wanted.sha256:
            told.append(f"{name} has another content than was pulled")
    return told

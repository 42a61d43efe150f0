"""models.lock: which revision of each model was pulled, and the size and SHA-256 of each of its files.

It lies beside the profiles file, or in the home where there is none, and belongs into version control with it: every
machine that pulls gets the same bytes, and a worker loads the locked revision, whatever the hub's main branch says.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jobs.settings import Settings
from worker.errors import LockInvalid

NAME, VERSION = "models.lock", 1


@dataclass(frozen=True)
class LockedFile:
    """A file as it was when it was pulled."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Locked:
    """A model as it was pulled: of the hub its commit, of this machine none. `folder` is where `--to` has put it."""

    licence: str
    files: Mapping[str, LockedFile] = field(default_factory=dict)
    asked: str | None = None
    revision: str | None = None
    folder: str | None = None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())


def path_of(settings: Settings) -> Path:
    """Where the lock file lies."""
    if settings.profiles_file is not None:
        return settings.profiles_file.expanduser().resolve().parent / NAME
    return settings.home / NAME


def read(path: Path) -> dict[str, Locked]:
    """What is locked, by place; nothing where there is no file. Raises LockInvalid."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["version"] != VERSION:
            raise LockInvalid(f"{path} has version {told['version']!r}, wanted {VERSION}; pull with this version again")
        return {str(place): _locked(entry) for place, entry in told["models"].items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise LockInvalid(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LockInvalid(f"{path} is no lock file of models; remove it and pull again") from error


def _locked(entry: dict[str, Any]) -> Locked:
    files = {
        str(name): LockedFile(int(file["size"]), str(file["sha256"])) for name, file in dict(entry["files"]).items()
    }
    return Locked(str(entry["licence"]), files, entry.get("asked"), entry.get("revision"), entry.get("folder"))


def write(path: Path, locked: Mapping[str, Locked]) -> None:
    """Put this in the file's place, whole or not at all. Raises LockInvalid where the folder cannot be written."""
    models = {place: {k: v for k, v in asdict(entry).items() if v is not None} for place, entry in locked.items()}
    text = json.dumps({"version": VERSION, "models": models}, indent=2, sort_keys=True) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(prefix=f"{NAME}.", dir=path.parent)
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except OSError as error:
        raise LockInvalid(f"{path} cannot be written: {error.strerror}") from error

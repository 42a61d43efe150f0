"""Pulling: everything that some profiles need, at locked revisions, with licences that somebody has accepted.

A long operation of named steps: look what is here, ask the hub about the rest, accept, make sure of room, fetch, lock.
An interrupted pull goes on with the files that are missing. Without a network it is enough that everything is here.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hyperlora.errors import WeightsMissing
from hyperlora.hub import file_sha256
from jobs.settings import Settings
from worker.errors import HubUnavailable, ModelsNoRoom
from worker.models import hub, lock
from worker.models.here import look, root_of
from worker.models.licence import Licence, licence_of, require_accepted
from worker.models.lock import Locked, LockedFile
from worker.models.parts import Part, local_files, wanted_files

SPARE_BYTES = 256 * 1024**2  # left free beside what is fetched
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Step:
    """What is to be done for one part: files of one commit to fetch, or nothing where all is here."""

    part: Part
    licence: Licence
    commit: str | None = None
    files: Sequence[hub.HubFile] = ()

    @property
    def size(self) -> int:
        """Bytes to fetch."""
        return sum(file.size for file in self.files)


def key(part: Part) -> str:
    """A part's name in the lock file."""
    return part.place if part.revision is None else f"{part.place}@{part.revision}"


def plan(parts: Iterable[Part], locked: dict[str, Locked], *, update: bool = False) -> list[Step]:
    """What is to be done for each part.

    Raises: WeightsMissing for a local place where nothing is, HubUnavailable where the hub must be asked and cannot be.
    """
    return [_local(part) if part.is_local else _of_hub(part, locked.get(key(part)), update) for part in parts]


def _local(part: Part) -> Step:
    if not local_files(part):
        raise WeightsMissing(
            f"{part.place} ({', '.join(part.names)}) is not here, and it is no hub id; put the weights there, or "
            "correct the profiles file"
        )
    return Step(part, licence_of(part))


def _of_hub(part: Part, entry: Locked | None, update: bool) -> Step:
    """Nothing is asked where the locked files are here. A locked commit stays, unless another revision is asked for."""
    asked = part.revision or hub.MAIN
    keeps = entry is not None and entry.asked == asked and not update
    here = look(part, entry)
    if entry is not None and keeps and not here.missing:
        return Step(part, licence_of(part, entry.licence), entry.revision)
    try:
        found = hub.ask(part, str(entry.revision) if entry is not None and keeps else asked)
    except HubUnavailable as error:
        told = f"; missing here: {', '.join(here.missing[:5])}" if here.missing else "; it was never pulled"
        raise HubUnavailable(f"{error}{told}") from error
    if part.kind == "folder" and not part.inside and "model_index.json" in found.files:
        part = replace(part, kind="pipeline")
    files = [found.files[name] for name in wanted_files(part, list(found.files))]
    return Step(part, licence_of(part, found.licence), found.commit, files)


def pull(
    parts: Iterable[Part],
    settings: Settings,
    *,
    accepted: Collection[str] = (),
    folder: Path | None = None,
    update: bool = False,
    tell: Tell = lambda _line: None,
) -> list[Step]:
    """Fetch what is missing and lock all of it; `folder` instead of the hub's cache. What was done for each part.

    Raises: LicenceNotAccepted before anything is downloaded; ModelsNoRoom; ModelDamaged; HubUnavailable; LockInvalid.
    """
    path = lock.path_of(settings)
    locked = lock.read(path)
    steps = plan(parts, locked, update=update)
    # What the lock file says was accepted when it was pulled first, here or elsewhere.
    new = [step for step in steps if step.files and not _was_accepted(step, locked)]
    require_accepted([(step.part.place, step.licence) for step in new], accepted)
    _require_room(steps, folder)
    for step in steps:
        tell(_told(step))
        locked = {**locked, key(step.part): _done(step, locked.get(key(step.part)), folder, tell)}
        lock.write(path, locked)
    return steps


def _was_accepted(step: Step, locked: dict[str, Locked]) -> bool:
    entry = locked.get(key(step.part))
    return entry is not None and entry.licence == step.licence.id


def _require_room(steps: Sequence[Step], folder: Path | None) -> None:
    from huggingface_hub.constants import HF_HUB_CACHE

    target = (folder or Path(HF_HUB_CACHE)).expanduser().absolute()
    there = next(place for place in (target, *target.parents) if place.exists())
    wanted, free = sum(step.size for step in steps), shutil.disk_usage(there).free
    if wanted and wanted + SPARE_BYTES > free:
        raise ModelsNoRoom(
            f"{wanted / 1024**3:.1f} GiB are to be fetched, {free / 1024**3:.1f} GiB are free at {there}; make room or "
            "name another disk with --to or HF_HOME"
        )


def _told(step: Step) -> str:
    if step.part.is_local:
        return f"{step.part.place}: of this machine, its files are hashed"
    if not step.files:
        return f"{step.part.place}: all files are here"
    commit = str(step.commit)[:12]
    return f"{step.part.place} at {commit}: {len(step.files)} files, {step.size / 1024**2:,.1f} MiB"


def _done(step: Step, before: Locked | None, folder: Path | None, tell: Tell) -> Locked:
    """Carry out a step; what is to be locked."""
    if step.part.is_local:
        files = local_files(step.part)
        return Locked(
            step.licence.id,
            {name: LockedFile(path.stat().st_size, file_sha256(path)) for name, path in files.items()},
        )
    if not step.files:
        assert before is not None
        return before
    target = None if folder is None else folder.expanduser().absolute() / step.part.repository.replace("/", "--")
    fetched: dict[str, LockedFile] = {}
    for file in step.files:
        tell(f"  {file.name}, {file.size / 1024**2:,.1f} MiB")
        fetched[file.name] = hub.fetch(step.part, str(step.commit), file, target)
    asked = step.part.revision or hub.MAIN
    return Locked(step.licence.id, fetched, asked, step.commit, None if target is None else str(target))


def place_of(part: Part, locked: dict[str, Locked]) -> Path | None:
    """Where a hub's part lies on this machine as it is locked; None for what is not locked, or not wholly here."""
    entry = locked.get(key(part))
    if part.is_local or entry is None:
        return None
    root = root_of(part, entry)
    return None if root is None else root / part.inside

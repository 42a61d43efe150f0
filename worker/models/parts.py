"""What a profile needs: its parts, and of a hub's repository the files that loading will ask for, and no others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from hyperlora.errors import WeightsMissing
from hyperlora.hub import PARTS, split_hub_id
from jobs.profiles import NO_CHECKER, Profile

Kind = Literal["pipeline", "folder", "file"]
SAFE = (".safetensors", ".json", ".txt", ".onnx")
"""What is read at all; anything else may run code, or is for other programs."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_LONGEST_NAME = 400


@dataclass(frozen=True)
class Part:
    """One thing that profiles need: a hub id or a place of this machine, and how it is loaded.

    `kind`: a diffusers pipeline, a folder of weights, or one file. `revision`: a branch, tag or commit that a profile
    asks for; None: the main one.
    """

    place: str
    kind: Kind
    names: tuple[str, ...]
    revision: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether it lies on this machine, by its name or by what is there."""
        return Path(self.place).expanduser().exists() or not _is_hub_id(self.place)

    @property
    def path(self) -> Path:
        """Where a local one lies, or should."""
        return Path(self.place).expanduser()

    @property
    def repository(self) -> str:
        """The hub's repository."""
        return split_hub_id(self.place)[0]

    @property
    def inside(self) -> str:
        """The folder or file within the repository; empty for all of it."""
        return split_hub_id(self.place)[1]


def _is_hub_id(place: str) -> bool:
    try:
        split_hub_id(place)
    except WeightsMissing:
        return False
    return ".." not in place.split("/")


def parts_of(profiles: Iterable[Profile]) -> list[Part]:
    """What these profiles need, each place once, with the names under which they have it (`realvis: base`)."""
    found: dict[tuple[str, Kind, str | None], list[str]] = {}
    for profile in profiles:
        for name, place, kind, revision in _of(profile):
            found.setdefault((place, kind, revision), []).append(f"{profile.name}: {name}")
    return [Part(place, kind, tuple(names), revision) for (place, kind, revision), names in found.items()]


def _of(profile: Profile) -> Iterable[tuple[str, str, Kind, str | None]]:
    if profile.renderer == "fake" or not profile.base:  # which draw flat colours, or are made when first needed
        return
    one_file = profile.base.endswith(".safetensors")
    yield "base", profile.base, "file" if one_file else "pipeline", profile.revision
    yield "hyperlora", profile.hyperlora, "folder", None
    yield "clip_vision", profile.clip_vision, "folder", None
    kind, _, folder = profile.faces.partition(":")
    if folder:
        yield f"faces ({kind})", folder, "folder", None
    if profile.safety not in {"", NO_CHECKER}:
        yield "safety", profile.safety, "folder", None
    if profile.preset_weights:
        yield "preset_weights", profile.preset_weights, "file", None
    for name, place in profile.controlnets.items():
        yield f"controlnets.{name}", place, "folder", None
    for name, place in profile.upscalers.items():
        yield f"upscalers.{name}", place, "file", None


def is_safe_name(name: str) -> bool:
    """Whether a file's name, as a repository tells it, stays in its folder and is of a kind that is read."""
    steps = name.split("/")
    return (
        len(name) <= _LONGEST_NAME
        and all(_NAME.fullmatch(step) for step in steps)
        and PurePosixPath(name).suffix in SAFE
    )


def wanted_files(part: Part, names: Sequence[str]) -> list[str]:
    """Those of a repository's files that loading this part reads. Raises WeightsMissing where there are none."""
    safe = sorted(name for name in names if is_safe_name(name))
    if part.kind == "pipeline":
        chosen = [name for name in safe if _is_of_pipeline(name)]
    elif part.kind == "file":
        chosen = [name for name in safe if name == part.inside and name.endswith(".safetensors")]
    else:
        prefix = f"{part.inside}/" if part.inside else ""
        chosen = [name for name in safe if name.startswith(prefix) and not name.endswith(".onnx")]
    if not any(name.endswith(".safetensors") for name in chosen):
        raise WeightsMissing(
            f"{part.place} ({', '.join(part.names)}) has no weights in safetensors on the hub, which alone are read; "
            "name another repository, or give a local folder"
        )
    return chosen


def _is_of_pipeline(name: str) -> bool:
    """Configs, vocabulary and the weights without a variant: no second precision, no copy in one file."""
    if name == "model_index.json":
        return True
    folder, _, file = name.partition("/")
    if folder not in PARTS or "/" in file:
        return False
    if file.endswith((".json", ".txt")):
        return True
    # model.fp16.safetensors and model.fp16-00001-of-00002.safetensors are other variants.
    return file.endswith(".safetensors") and file.count(".") == 1


def local_files(part: Part) -> dict[str, Path]:
    """The files of a local part that loading may read, by their names in it; empty where nothing is there."""
    if part.path.is_file():
        return {part.path.name: part.path}
    found = sorted(path for path in part.path.rglob("*") if path.is_file() and path.suffix in SAFE)
    return {path.relative_to(part.path).as_posix(): path for path in found}

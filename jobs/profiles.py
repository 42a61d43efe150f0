"""Profiles: what a worker can draw with, by name.

A profile is a base model, a HyperLoRA checkpoint, a CLIP vision tower and a face analyzer, with a number type and a
batch size. Two are built in and need no download: `mini` is the trained small world of a checkout's `packs/`, and
`mini-untrained` a pack that is made from random numbers on first use (`mini` is that too where there is no checkout).
Others are named in a TOML file (`PORTRAITS_PROFILES_FILE`), which may also change a built-in one:

    [profiles.realvis]
    base = "/models/RealVisXL_V4.0"                  # SDXL folder, hub id or single safetensors file
    hyperlora = "/models/hyperlora/sdxl_hyper_id_lora_v1_fidelity"
    clip_vision = "openai/clip-vit-large-patch14"
    faces = "insightface:/models/antelopev2"         # or "opencv"
    dtype = "float16"
    batch_size = 8
    safety = "none"                                  # a folder or hub id of a checker; to have none is said by name
    preset = "lightning-4"                           # a few-step base: its steps, scheduler and guidance are defaults
    preset_weights = "/models/sdxl_lightning_4step_lora.safetensors"
    lossy = { linears = "int8", cache = { every = 2 } }    # faster, other pictures (docs/lossy.md); left out: exact
    defaults = { size = 1024, steps = 20, guidance = 5 }   # what a manifest that says nothing is drawn with

    [profiles.realvis.controlnets]                   # the names that a manifest's `control` may use
    pose = "/models/controlnet-openpose-sdxl-1.0"

    [profiles.realvis.upscalers]                     # the names that a manifest's `outputs` may use
    x4 = "/models/4x-UltraSharp.safetensors"
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from jobs.errors import ProfileInvalid, ProfileUnknown
from jobs.lossy import Lossy
from jobs.presets import PRESETS
from jobs.settings import Settings

MINI, MINI_UNTRAINED = "mini", "mini-untrained"
UNTRAINED_DEFAULTS = {"size": 128, "steps": 8}
NO_CHECKER = "none"
UNTRAINED_NOTICE = "untrained: the mini pack's weights are random; pictures show the way of a job, not a likeness"
PACKS = Path(__file__).resolve().parents[1] / "packs"
PACK_CARD = "pack.json"
_SHIPPED = ("mini-full", "mini-tiny")  # the better one first

Part = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Place = Annotated[str, Field(min_length=1)]


class Profile(BaseModel):
    """One way to draw: which weights, on which number type, how many pictures at once.

    `safety` is the checker of finished pictures, a folder, a hub id, or `none`. `controlnets` and `upscalers` are the
    names that manifests use, with the folder, file or hub id behind each.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    renderer: Literal["hyperlora", "fake"] = "hyperlora"
    base: str = ""
    hyperlora: str = ""
    clip_vision: str = ""
    faces: str = "opencv"
    dtype: Literal["float32", "float16", "bfloat16"] = "float16"
    batch_size: int = Field(4, ge=1, le=64)
    notice: str | None = None
    revision: str | None = None
    defaults: dict[str, Any] = Field(default_factory=dict)
    safety: str = ""
    preset: str | None = None
    preset_weights: Place | None = None
    lossy: Lossy | None = None
    controlnets: dict[Part, Place] = Field(default_factory=dict)
    upscalers: dict[Part, Place] = Field(default_factory=dict)

    def drawing(self) -> dict[str, Any]:
        """What a manifest that says nothing is drawn with: the preset's values, and above them `defaults`."""
        return {**(PRESETS[self.preset] if self.preset else {}), **self.defaults}


def load_profiles(settings: Settings) -> dict[str, Profile]:
    """The built-in profiles and every one of the profiles file.

    Raises ProfileInvalid naming file, profile and field.
    """
    found = built_in_profiles()
    path = settings.profiles_file
    if path is None:
        return found
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ProfileInvalid(f"PORTRAITS_PROFILES_FILE names {path}, which cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProfileInvalid(f"{path} is not valid TOML: {error}") from error
    entries: Any = content.get("profiles", {})
    if not isinstance(entries, dict):
        raise ProfileInvalid(f"{path}: wanted tables [profiles.NAME], found {type(entries).__name__}")
    for name, entry in entries.items():
        found[name] = _parse(path, name, entry, found.get(name))
    return found


def built_in_profiles(packs: Path = PACKS) -> dict[str, Profile]:
    """`mini` and `mini-untrained`; the latter has no places, which a worker gives it (`worker.mini_pack`)."""
    untrained = Profile(
        name=MINI_UNTRAINED,
        dtype="float32",
        notice=UNTRAINED_NOTICE,
        defaults=UNTRAINED_DEFAULTS,
        safety=NO_CHECKER,
    )
    card = next((packs / name / PACK_CARD for name in _SHIPPED if (packs / name / PACK_CARD).is_file()), None)
    mini = untrained.model_copy(update={"name": MINI}) if card is None else _of_pack(card)
    return {MINI: mini, MINI_UNTRAINED: untrained}


def _of_pack(card: Path) -> Profile:
    """A pack of the small world as the profile `mini`; its card says where its parts lie and how it is drawn with."""
    told, folder = json.loads(card.read_text(encoding="utf-8")), card.parent
    kind, colon, inside = told["faces"].partition(":")
    return Profile(
        name=MINI,
        base=str(folder / told["sdxl"]),
        hyperlora=str(folder / told["hyperlora"]),
        clip_vision=str(folder / told["clip_vision"]),
        faces=f"{kind}:{folder / inside}" if colon else kind,
        dtype="float32",
        batch_size=8,
        defaults={name: told[name] for name in ("size", "steps", "scheduler", "guidance")},
        safety=NO_CHECKER,
    )


def _parse(path: Path, name: str, entry: Any, built_in: Profile | None) -> Profile:
    if not isinstance(entry, dict):
        raise ProfileInvalid(f"{path}: [profiles.{name}] must be a table")
    try:
        kept = {} if built_in is None or "base" in entry else built_in.model_dump()
        profile = Profile(**{**kept, "name": name, **entry})
        if kept:  # a preset decides what the built-in defaults say of drawing; the rest of them stays
            decided = PRESETS.get(profile.preset or "", {})
            own = {field: value for field, value in kept["defaults"].items() if field not in decided}
            profile = profile.model_copy(update={"defaults": {**own, **entry.get("defaults", {})}})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ProfileInvalid(f"{path}: [profiles.{name}] {field}: {first['msg']}") from error
    missing = [field for field in ("base", "hyperlora", "clip_vision") if not getattr(profile, field)]
    if profile.renderer == "hyperlora" and missing and not kept:
        raise ProfileInvalid(f"{path}: [profiles.{name}] lacks {', '.join(missing)}")
    if profile.renderer == "hyperlora" and not profile.safety:
        raise ProfileInvalid(
            f"{path}: [profiles.{name}] does not say how pictures are checked; give `safety` the folder or hub id of a "
            f'safety checker, or write safety = "{NO_CHECKER}" to have none'
        )
    _check_preset(path, profile)
    return profile


def _check_preset(path: Path, profile: Profile) -> None:
    """Raises ProfileInvalid for an unknown preset, and for weights without one."""
    place = f"{path}: [profiles.{profile.name}]"
    if profile.preset is not None and profile.preset not in PRESETS:
        raise ProfileInvalid(f"{place} preset: unknown preset {profile.preset!r}, known: {', '.join(PRESETS)}")
    if profile.preset is None and profile.preset_weights is not None:
        raise ProfileInvalid(
            f"{place} gives `preset_weights` without `preset`; name the preset, which says how to draw"
        )


def find_profile(settings: Settings, name: str) -> Profile:
    """The profile of this name. Raises ProfileUnknown listing those there are."""
    profiles = load_profiles(settings)
    if name not in profiles:
        known = ", ".join(sorted(profiles))
        raise ProfileUnknown(
            f"no profile {name!r} on this worker, only: {known}; add it to the file that PORTRAITS_PROFILES_FILE names"
        )
    return profiles[name]


def drawing_defaults(settings: Settings) -> Callable[[str], Mapping[str, Any]]:
    """What each profile draws with by default; a producer need not know every profile of the fleet."""

    def defaults_of(name: str) -> Mapping[str, Any]:
        profile = load_profiles(settings).get(name)
        return profile.drawing() if profile else {}

    return defaults_of

"""The untrained mini pack: made from random numbers on first use, so that nothing need be downloaded."""

from __future__ import annotations

from pathlib import Path

from jobs.profiles import Profile

PACK_SEED = 0


def untrained_folder(home: Path) -> Path:
    """Where the untrained pack lies, or will lie."""
    return home / "packs" / "mini-untrained"


def with_weights(profile: Profile, home: Path) -> Profile:
    """The profile itself where it names its weights; else with those of the untrained pack, made if it is not there."""
    if profile.base:
        return profile
    from hyperlora.mini import build_untrained_pack

    folder = build_untrained_pack(untrained_folder(home), seed=PACK_SEED)
    places = {"base": "sdxl", "hyperlora": "hyperlora", "clip_vision": "clip_vision"}
    empty = {field: str(folder / name) for field, name in places.items() if not getattr(profile, field)}
    return profile.model_copy(update=empty)

"""The built-in profile `mini`: a tiny pack that is made on first use, so that nothing need be downloaded."""

from __future__ import annotations

import json
from pathlib import Path

from jobs.profiles import UNTRAINED_NOTICE, Profile

PACK_SEED = 0


def mini_pack(profile: Profile, home: Path) -> Profile:
    """The profile with the places of the mini pack, which is made in `home/packs` if it is not there yet."""
    from hyperlora.mini import build_untrained_pack

    folder = build_untrained_pack(home / "packs" / "mini-untrained", seed=PACK_SEED)
    card = json.loads((folder / "pack.json").read_text(encoding="utf-8"))
    return profile.model_copy(
        update={
            "base": str(folder / "sdxl"),
            "hyperlora": str(folder / "hyperlora"),
            "clip_vision": str(folder / "clip_vision"),
            "faces": card["faces"],
            "notice": None if card["trained"] else UNTRAINED_NOTICE,
        }
    )

"""What a LoRA file says about itself: how it was made, from which photos, by which checkpoint and software.

Photos are named by the SHA-256 of their files, so that an erasure request can find what was made from them; the names
of files and people are not written.

key                          holds
hyperlora_kind               photos, mix, slider or refined
hyperlora_branch             id or base
hyperlora_sources            JSON list of {role, weight, photos: [SHA-256, ...]}; the role of a slider's sides is
                             edited and original, of a person's photos person, of what was trained on training
hyperlora_fingerprint        of the checkpoint, hyperlora_trigger_words and hyperlora_alpha_over_rank too
hyperlora_face_encoder       the analyzer that found and measured the faces
hyperlora_clip_vision        fingerprint of the image encoder
hyperlora_preprocessing      the version of crops and masks
software, software_version   who wrote the file
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from hyperlora.lora import LoRA

SOFTWARE = "hyperlora-portraits"
Kind = Literal["photos", "mix", "slider", "refined"]


@dataclass(frozen=True)
class Source:
    """Photos that went into a LoRA: their SHA-256, in which role and with which weight."""

    role: Literal["person", "edited", "original", "training"]
    photos: Sequence[str]
    weight: float = 1.0


def stamped(lora: LoRA, kind: Kind, sources: Sequence[Source], facts: Mapping[str, str]) -> LoRA:
    """The LoRA with its provenance; `facts` are further entries. What the network wrote stays."""
    told = [{"photos": list(one.photos), "role": one.role, "weight": one.weight} for one in sources]
    own = {
        "hyperlora_kind": kind,
        "hyperlora_sources": json.dumps(told, sort_keys=True),
        "software": SOFTWARE,
        "software_version": software_version(),
    }
    return LoRA(lora.layers, {**lora.metadata, **facts, **own})


def sources_of(lora: LoRA) -> list[Source]:
    """What a file says it was made from; nothing for files of other programs."""
    try:
        told = json.loads(lora.metadata.get("hyperlora_sources", "[]"))
        return [Source(one["role"], [str(photo) for photo in one["photos"]], float(one["weight"])) for one in told]
    except (ValueError, KeyError, TypeError):
        return []  # metadata of a file that others wrote under this name


def software_version() -> str:
    """The version of this distribution, as it is written into files."""
    try:
        return version(SOFTWARE)
    except PackageNotFoundError:
        return "0+unknown"

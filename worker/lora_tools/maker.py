"""A profile's hypernetwork and what it looks through, without SDXL: photos to LoRAs.

The same steps with the same parts as in a worker, so a file that is made here is the weight set a job would use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hyperlora.clip import ClipVision
from hyperlora.coefficients import concept_slider, mix
from hyperlora.config import Branch
from hyperlora.faces import FaceAnalyzer, FaceChoice, load_analyzer
from hyperlora.identity import IdentityConditions, prepare_identity
from hyperlora.lora import LoRA
from hyperlora.network import HyperLoRA
from jobs.profiles import Profile
from jobs.settings import Settings
from worker.lora_tools.photos import Photo
from worker.lora_tools.provenance import Source, stamped
from worker.mini_pack import with_weights
from worker.sdxl import DTYPES, PREPROCESSING, choose_device


@dataclass(frozen=True, eq=False)
class Person:
    """One person as the hypernetwork reads them, and the photos that were looked at."""

    photos: Sequence[Photo]
    conditions: IdentityConditions

    @property
    def hashes(self) -> list[str]:
        """SHA-256 of the photos that were used."""
        return [self.photos[index].sha256 for index in self.conditions.used]

    @property
    def likeness(self) -> float | None:
        """The lowest cosine between two of the used photos; None for a single one."""
        return float(self.conditions.similarity_NN.min()) if len(self.conditions.used) > 1 else None


@dataclass(frozen=True)
class Place:
    """Where a profile's networks go: its parts by local path or hub id, the device, the number type."""

    profile: Profile
    device: str
    dtype: torch.dtype

    @classmethod
    def of(cls, profile: Profile, settings: Settings) -> Place:
        """Make the untrained pack if the profile is it; halves become float32 on a CPU, which draws them badly."""
        profile = with_weights(profile, settings.home)
        device, dtype = choose_device(settings.device), DTYPES[profile.dtype]
        if device == "cpu" and dtype is torch.float16:
            dtype = torch.float32
        return cls(profile, device, dtype)

    @property
    def options(self) -> dict[str, Any]:
        """The arguments that every loader takes."""
        return {"device": self.device, "dtype": self.dtype}


class LoRAMaker:
    """Network, image encoder and face analyzer of one profile on one device."""

    def __init__(self, network: HyperLoRA, clip: ClipVision, analyzer: FaceAnalyzer) -> None:
        network.require_face_encoder(analyzer.name, analyzer.embedding_size)
        self.network, self.clip, self.analyzer = network, clip, analyzer

    @classmethod
    def load(cls, place: Place) -> LoRAMaker:
        """Load three parts of a profile. Raises WeightsMissing, CheckpointMismatch, FaceEncoderMismatch."""
        profile = place.profile
        return cls(
            HyperLoRA.from_pretrained(local(profile.hyperlora), **place.options),
            ClipVision.from_pretrained(local(profile.clip_vision), **place.options),
            load_analyzer(profile.faces),
        )

    @property
    def facts(self) -> dict[str, str]:
        """What provenance says about the encoders."""
        return {
            "hyperlora_clip_vision": self.clip.fingerprint,
            "hyperlora_face_encoder": self.analyzer.name,
            "hyperlora_preprocessing": PREPROCESSING,
        }

    def read(self, photos: Sequence[Photo], faces: Sequence[FaceChoice]) -> Person:
        """Find the face in every photo and encode it. Raises NoUsablePhoto with each photo's reason."""
        images = [photo.image for photo in photos]
        return Person(photos, prepare_identity(self.analyzer, self.clip, images, faces=faces))

    def generate(self, person: Person, branch: Branch) -> LoRA:
        """The LoRA of one person."""
        lora = self.network.lora(self._coefficients(person, branch), branch)
        return stamped(lora, "photos", [Source("person", person.hashes)], self.facts)

    def mix(self, people: Sequence[tuple[Person, float]], branch: Branch) -> LoRA:
        """The LoRA between people: their coefficients are blended by weight and put back on the unit sphere.

        Raises InvalidRequest for weights below zero or a sum of zero.
        """
        blended = mix([(self._coefficients(person, branch), weight) for person, weight in people])
        sources = [Source("person", person.hashes, weight) for person, weight in people]
        return stamped(self.network.lora(blended, branch), "mix", sources, self.facts)

    def slide(self, edited: Person, original: Person, branch: Branch) -> LoRA:
        """What the edited photos have beyond the original ones, as a LoRA of twice the rank."""
        sides = [self.network.lora(self._coefficients(person, branch), branch) for person in (edited, original)]
        sources = [Source("edited", edited.hashes), Source("original", original.hashes, -1.0)]
        return stamped(concept_slider(*sides), "slider", sources, self.facts)

    def _coefficients(self, person: Person, branch: Branch) -> torch.Tensor:
        found = person.conditions
        if branch == "base":
            return self.network.coefficients(None, found.base_tokens, "base")
        streams = self.network.config.streams
        return self.network.coefficients(
            found.face_embeddings if "face" in streams else None,
            found.clip_tokens if "clip" in streams else None,
        )


def local(name: str) -> str:
    """A local path with `~` expanded, or a hub id as it is."""
    expanded = Path(name).expanduser()
    return str(expanded) if expanded.exists() else name

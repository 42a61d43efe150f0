"""What is evaluated: a base model with a HyperLoRA and the encoders that it looks through.

Shapes: N photos of one person, E face embedding, T CLIP tokens of width C, Q tokens, K bases.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from hyperlora.batches import batches, draw_all
from hyperlora.clip import ClipVision
from hyperlora.config import Branch
from hyperlora.errors import NoUsablePhoto, WeightsMissing
from hyperlora.faces.load import load_analyzer
from hyperlora.faces.types import FaceAnalyzer
from hyperlora.hub import files_fingerprint
from hyperlora.identity import prepare_identity
from hyperlora.lora import LoRA
from hyperlora.network import HyperLoRA
from hyperlora.pipeline import PortraitPipeline
from hyperlora.sample import Sample
from hyperlora.schedulers import DEFAULT_SCHEDULER

DEFAULT_WEIGHT = 0.8
PACK_BATCH = 32  # a pack's networks are small: larger batches cost little memory and save much time
MARKER = "pack.json"


@dataclass(frozen=True)
class Setting:
    """How pictures are drawn.

    Parameters
    ----------
    size
        Side of a picture in pixels.
    steps, scheduler, guidance
        As the pipeline knows them.
    weight
        Of the merged LoRAs.
    batch_size
        Pictures in one pass of the UNet.
    """

    size: int
    steps: int = 20
    scheduler: str = DEFAULT_SCHEDULER
    guidance: float = 5.0
    weight: float = DEFAULT_WEIGHT
    batch_size: int = 8


@dataclass(frozen=True, eq=False)
class Known:
    """One person's photos as the hypernetwork reads them.

    Parameters
    ----------
    face_embeddings_NE, clip_tokens_NTC, base_tokens_NTC
        One row per usable photo, on the CPU.
    used
        (N,) the usable photos' places among those given.
    """

    face_embeddings_NE: torch.Tensor
    clip_tokens_NTC: torch.Tensor
    base_tokens_NTC: torch.Tensor
    used: tuple[int, ...]

    def first(self, count: int) -> Known:
        """What is known from the first `count` photos given. Raises `NoUsablePhoto` where none of them is usable."""
        rows = [row for row, place in enumerate(self.used) if place < count]
        if not rows:
            raise NoUsablePhoto(f"none of the first {count} photos shows a usable face")
        return Known(
            self.face_embeddings_NE[rows],
            self.clip_tokens_NTC[rows],
            self.base_tokens_NTC[rows],
            tuple(self.used[row] for row in rows),
        )


class PortraitModel:
    """A model pack, loaded: photos to LoRAs, prompts to pictures.

    `faces` is the setting that the analyzer was loaded by, `described` what the pack's `pack.json` says.
    """

    def __init__(
        self,
        pipeline: PortraitPipeline,
        network: HyperLoRA,
        clip: ClipVision,
        analyzer: FaceAnalyzer,
        setting: Setting,
        *,
        name: str,
        faces: str = "",
        described: dict[str, Any] | None = None,
    ) -> None:
        network.require_face_encoder(analyzer.name, analyzer.embedding_size)
        self.pipeline, self.network, self.clip, self.analyzer = pipeline, network, clip, analyzer
        self.setting, self.name, self._faces = setting, name, faces
        self.described = dict(described or {})

    @classmethod
    def from_pack(cls, folder: str | Path, *, device: torch.device | str = "cpu", **changes: Any) -> PortraitModel:
        """Load a pack folder with its `pack.json`; `changes` replace single fields of its `Setting`.

        Raises `WeightsMissing` where the folder is no pack or a part is not there, and what loading the parts raises.
        """
        place = Path(folder).expanduser()
        try:
            described = json.loads((place / MARKER).read_text(encoding="utf-8"))
            parts = {part: place / described[part] for part in ("sdxl", "clip_vision", "hyperlora")}
            setting = Setting(
                size=int(described["size"]),
                steps=int(described["steps"]),
                scheduler=described["scheduler"],
                guidance=float(described["guidance"]),
                weight=float(described.get("weight", DEFAULT_WEIGHT)),
                batch_size=PACK_BATCH,
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WeightsMissing(
                f"{place} is no model pack: its {MARKER} cannot be used ({error!r}); `python -m hyperlora.mini pack "
                "FOLDER` makes one, and --profile evaluates weights that lie elsewhere"
            ) from error
        return cls.load(
            base=parts["sdxl"],
            hyperlora=parts["hyperlora"],
            clip_vision=parts["clip_vision"],
            faces=_in_pack(place, str(described.get("faces", "opencv"))),
            setting=replace(setting, **changes),
            name=str(described.get("name", place.name)),
            device=device,
            described=described,
        )

    @classmethod
    def load(
        cls,
        *,
        base: str | Path,
        hyperlora: str | Path,
        clip_vision: str | Path,
        faces: str,
        setting: Setting,
        name: str,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        revision: str | None = None,
        described: dict[str, Any] | None = None,
    ) -> PortraitModel:
        """Load the four parts from folders or hub ids. Raises `WeightsMissing`, `CheckpointMismatch` and the like."""
        network = HyperLoRA.from_pretrained(hyperlora, device=device, dtype=dtype)
        pipeline = PortraitPipeline.from_pretrained(
            base, device=device, dtype=dtype, revision=revision, trigger_words=network.config.trigger_words
        )
        clip = ClipVision.from_pretrained(clip_vision, device=device, dtype=dtype)
        analyzer = load_analyzer(faces)
        return cls(pipeline, network, clip, analyzer, setting, name=name, faces=faces, described=described)

    @cached_property
    def encoders(self) -> str:
        """SHA-256 over the encoders that photos are read with; a face pack's ONNX files count, not only its name."""
        _, _, folder = self._faces.partition(":")
        files = {file.name: file for file in sorted(Path(folder).expanduser().glob("*.onnx"))} if folder else {}
        parts = [self.clip.fingerprint, self.analyzer.name, files_fingerprint(files) if files else ""]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def fingerprint(self) -> str:
        """SHA-256 over base model, hypernetwork, encoders and setting, 64 hex digits: the same gives equal numbers."""
        parts = {
            "base": self.pipeline.fingerprint,
            "hyperlora": self.network.fingerprint,
            "encoders": self.encoders,
            "setting": {name: value for name, value in asdict(self.setting).items() if name != "batch_size"},
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def read(self, photos: Sequence[Image.Image]) -> Known:
        """Find and encode the faces of one person's photos. Raises `NoUsablePhoto`."""
        found = prepare_identity(self.analyzer, self.clip, photos)
        return Known(found.face_embeddings, found.clip_tokens.cpu(), found.base_tokens.cpu(), found.used)

    def coefficients(self, known: Known, *, branch: Branch = "id", network: HyperLoRA | None = None) -> torch.Tensor:
        """Unit coefficient vectors of one person, (1, Q, K); `network` may be another one for the same encoders."""
        reader = network or self.network
        device = reader.resampler.latents.device
        if branch == "base":
            return reader.coefficients(None, known.base_tokens_NTC.to(device), "base")
        return reader.coefficients(known.face_embeddings_NE.to(device), known.clip_tokens_NTC.to(device))

    def lora(self, coefficients: torch.Tensor, branch: Branch = "id", *, network: HyperLoRA | None = None) -> LoRA:
        """Coefficients to a LoRA."""
        return (network or self.network).lora(coefficients, branch)

    def draw(
        self,
        loras: Sequence[tuple[LoRA, float]],
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        trigger_words: bool = True,
    ) -> tuple[list[Image.Image], float]:
        """A picture for each prompt with the seed of the same place, and the seconds with merging and decoding."""
        samples = self._samples(prompts, seeds, trigger_words)
        started = time.perf_counter()
        self.pipeline.apply(loras)
        images = draw_all(self.pipeline, samples, self.setting.batch_size, **self._drawn_as)
        return images, time.perf_counter() - started

    def draw_each(
        self,
        loras: Sequence[Sequence[tuple[LoRA, float]]],
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        trigger_words: bool = True,
    ) -> list[Image.Image]:
        """Like `draw`, with LoRAs of its own for each picture: several people share a batch.

        The pictures are those that merging draws, but for rounding.
        """
        samples = self._samples(prompts, seeds, trigger_words)
        images: dict[int, Image.Image] = {}
        for indices in batches(self.pipeline, samples, self.setting.batch_size):
            drawing = self.pipeline.draw(
                [samples[row] for row in indices], stacks=[loras[row] for row in indices], **self._drawn_as
            )
            images.update(zip(indices, drawing.images, strict=True))
        return [images[index] for index in range(len(samples))]

    def _samples(self, prompts: Sequence[str], seeds: Sequence[int], trigger_words: bool) -> list[Sample]:
        return [
            Sample(prompt, seed, guidance=self.setting.guidance, trigger_words=trigger_words)
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]

    @property
    def _drawn_as(self) -> dict[str, Any]:
        setting = self.setting
        return {
            "width": setting.size,
            "height": setting.size,
            "steps": setting.steps,
            "scheduler": setting.scheduler,
        }


def _in_pack(place: Path, faces: str) -> str:
    """The face analyzer's setting with a folder inside the pack made absolute."""
    kind, colon, folder = faces.partition(":")
    return f"{kind}:{place / folder}" if colon and (place / folder).is_dir() else faces

"""The real renderer: HyperLoRA and SDXL on one device."""

from __future__ import annotations

import gc
import logging
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from hyperlora.clip import ClipVision
from hyperlora.faces import FaceAnalyzer, load_analyzer, similarity
from hyperlora.identity import prepare_identity
from hyperlora.lora import LoRA
from hyperlora.network import HyperLoRA
from hyperlora.pipeline import PortraitPipeline
from hyperlora.pipeline import Sample as PipelineSample
from jobs.photos import decode_photo
from jobs.profiles import MINI, Profile
from jobs.settings import Settings
from worker.errors import OutOfMemory
from worker.mini_pack import mini_pack
from worker.renderer import Batch, GeneratedWeights, Sample, Verdict

log = logging.getLogger(__name__)
# Raise it when crops, masks or the face search change what the network is shown: weight sets are then made anew.
PREPROCESSING = "preprocessing-1"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def choose_device(wanted: str) -> str:
    """`auto` is the first CUDA device if there is one, else the CPU."""
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_name(device: str) -> str:
    """What a person calls the device: the GPU's product name, or the processor's kind and cores."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(torch.device(device))
    return f"cpu {platform.machine()} x{os.cpu_count()}"


class SdxlRenderer:
    """One profile loaded on one device; used by one drawing thread, `similarity` by any."""

    def __init__(
        self,
        profile: Profile,
        settings: Settings,
        *,
        pipeline: PortraitPipeline,
        network: HyperLoRA,
        clip: ClipVision,
        analyzer: FaceAnalyzer,
        device: str,
    ) -> None:
        network.require_face_encoder(analyzer.name, analyzer.embedding_size)
        self.profile = profile.name
        self.device = device_name(device)
        self.batch_size = settings.batch_size or profile.batch_size
        self.notice = profile.notice
        self.model_fingerprint = pipeline.fingerprint
        self.hyperlora_fingerprint = network.fingerprint
        self.conditioning = f"{analyzer.name}|{clip.fingerprint}|{PREPROCESSING}"
        self.recogniser = analyzer.name
        self._settings, self._pipeline, self._network = settings, pipeline, network
        self._clip, self._analyzer = clip, analyzer

    @classmethod
    def load_profile(cls, profile: Profile, settings: Settings) -> SdxlRenderer:
        """Load every part of a profile. Raises WeightsMissing, CheckpointMismatch, FaceEncoderMismatch."""
        if profile.name == MINI and not profile.base:
            profile = mini_pack(profile, settings.home)
        device, dtype = choose_device(settings.device), DTYPES[profile.dtype]
        if device == "cpu" and dtype is torch.float16:
            log.warning(
                "profile %s asks for float16, which CPUs draw slowly or not at all; using float32", profile.name
            )
            dtype = torch.float32
        placed: dict[str, Any] = {"device": device, "dtype": dtype}
        network = HyperLoRA.from_pretrained(_place(profile.hyperlora), **placed)
        return cls(
            profile,
            settings,
            pipeline=PortraitPipeline.from_pretrained(
                _place(profile.base), trigger_words=network.config.trigger_words, revision=profile.revision, **placed
            ),
            network=network,
            clip=ClipVision.from_pretrained(_place(profile.clip_vision), **placed),
            analyzer=load_analyzer(profile.faces),
            device=device,
        )

    def generate(self, photos: Sequence[bytes], names: Sequence[str]) -> GeneratedWeights:
        """One person's photos to a LoRA. Raises NoUsablePhoto, PhotoRefused."""
        pictures = [decode_photo(data, self._settings) for data in photos]
        conditions = prepare_identity(self._analyzer, self._clip, pictures)
        face = conditions.face_embeddings if "face" in self._network.config.streams else None
        tokens = conditions.clip_tokens if "clip" in self._network.config.streams else None
        lora = self._network.generate(face, tokens)
        verdicts = [Verdict(v.index, v.verdict, v.reason) for v in conditions.verdicts]
        reference = np.ascontiguousarray(conditions.reference_embedding, dtype="<f4").tobytes()
        return GeneratedWeights(lora.to_bytes(), reference, verdicts)

    def load(self, lora: bytes) -> LoRA:
        """A stored LoRA, checked. Raises LoRAMismatch, NonFiniteWeights."""
        return LoRA.from_bytes(lora)

    def apply(self, weights: LoRA, weight: float) -> float:
        """Merge, from the pristine weights; seconds."""
        return self._pipeline.apply([(weights, weight)])

    def final_prompt(self, prompt: str) -> str:
        """The prompt with the checkpoint's trigger words."""
        return self._pipeline.final_prompt(PipelineSample(prompt=prompt, seed=0))

    def draw(
        self,
        samples: Sequence[Sample],
        *,
        width: int,
        height: int,
        steps: int,
        scheduler: str,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Batch:
        """Draw one batch. Raises OutOfMemory after giving the memory back."""
        asked = [
            PipelineSample(prompt=s.prompt, seed=s.seed, negative_prompt=s.negative_prompt, guidance=s.guidance)
            for s in samples
        ]
        try:
            drawn = self._pipeline.draw(
                asked, width=width, height=height, steps=steps, scheduler=scheduler, on_step=on_step
            )
        except torch.OutOfMemoryError as error:
            message = f"{len(samples)} pictures of {width}x{height} do not fit into the memory of {self.device}"
            raised = OutOfMemory(message)
            raised.__cause__ = error.with_traceback(None)  # a traceback would keep the batch's tensors alive
        else:
            return Batch(drawn.images, drawn.seconds["denoise"], drawn.seconds["decode"])
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise raised

    def similarity(self, image: Image, reference_embedding: bytes) -> tuple[float | None, str | None]:
        """Cosine between the picture's face and the reference; None and a reason when no face is found."""
        return similarity(self._analyzer, image, np.frombuffer(reference_embedding, dtype="<f4"))


def _place(name: str) -> str:
    """A local path with `~` expanded, or a hub id as it is."""
    expanded = Path(name).expanduser()
    return str(expanded) if expanded.exists() else name

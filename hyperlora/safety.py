"""Whether a finished picture may be kept: a checker that is chosen by name, never left out by accident.

`DiffusersChecker` is the checker of the Stable Diffusion releases: a CLIP vision tower whose picture embedding is
compared with 17 concepts and 3 that call for special care, each with a limit of its own. Unlike diffusers' pipelines
it blackens nothing: it says which concept was over its limit by how much, and the caller decides.

Shapes: N pictures, P width of the shared embedding, C concepts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from safetensors import SafetensorError

from hyperlora.errors import CheckerMismatch, NonFiniteWeights, WeightsMissing
from hyperlora.hub import files_fingerprint, resolve
from hyperlora.one_at_a_time import LOADING

NO_CHECKER = "none"
BATCH = 8
# What a found special-care concept takes from every other limit, as in the release.
CARE_ADJUSTMENT = 0.01


class SafetyChecker(Protocol):
    """Looks at finished pictures. Called by any thread."""

    name: str

    def check(self, images: Sequence[Image.Image]) -> list[str | None]:
        """For each picture the reason why it must not be kept, None when it may."""


class NullChecker:
    """Checks nothing. Whoever wants that says so: its name is "none"."""

    name = NO_CHECKER

    def check(self, images: Sequence[Image.Image]) -> list[str | None]:
        """None for every picture."""
        return [None] * len(images)


class DiffusersChecker:
    """diffusers' StableDiffusionSafetyChecker and its CLIP preprocessing.

    The vision tower computes in the model's dtype; embeddings are compared in float32, with limits as they were stored.
    """

    def __init__(self, model: Any, processor: Any, *, name: str, folder: Path | None = None) -> None:
        """`model` in float32, where its weights are to be compared; raises NonFiniteWeights."""
        for key, tensor in model.state_dict().items():
            if not bool(torch.isfinite(tensor).all()):
                raise NonFiniteWeights(f"the safety checker {name} has NaN or infinity in {key}; fetch it again")
        self._model = model.eval().requires_grad_(False)
        self._processor, self.name, self.folder = processor, name, folder
        self._concepts_CP = model.concept_embeds.detach().float()
        self._limits_C = model.concept_embeds_weights.detach().float()
        self._care_CP = model.special_care_embeds.detach().float()
        self._care_limits_C = model.special_care_embeds_weights.detach().float()

    @classmethod
    def from_pretrained(
        cls,
        folder_or_hub_id: str | Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        revision: str | None = None,
    ) -> DiffusersChecker:
        """Load a checker's folder, or that of a whole Stable Diffusion pipeline; safetensors only.

        The preprocessing settings lie beside the weights or, as in a pipeline, in `../feature_extractor`.
        Raises: WeightsMissing, CheckerMismatch when the folder holds another kind of model.
        """
        from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
        from transformers import CLIPImageProcessorPil

        folder = resolve(folder_or_hub_id, revision)
        if (folder / "safety_checker").is_dir():
            folder = folder / "safety_checker"
        settings = _settings_folder(folder)
        try:
            with LOADING:
                loaded: Any = StableDiffusionSafetyChecker.from_pretrained(
                    folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
                )
        except OSError as error:
            raise WeightsMissing(f"no safety checker in safetensors at {folder}: {error}") from error
        except (RuntimeError, ValueError, SafetensorError) as error:
            raise CheckerMismatch(f"{folder} holds no safety checker that can be read: {error}") from error
        model, found = loaded
        wrong = sorted({*found["missing_keys"], *found["unexpected_keys"], *map(str, found["mismatched_keys"])})
        if wrong:
            raise CheckerMismatch(
                f"{folder} is not a whole StableDiffusionSafetyChecker: {len(wrong)} tensors are missing, misshapen or "
                f"unknown, such as {wrong[0]}"
            )
        processor = CLIPImageProcessorPil.from_pretrained(settings, local_files_only=True)
        name = folder.name if Path(folder_or_hub_id).expanduser().is_dir() else str(folder_or_hub_id)
        checker = cls(model.to(device), processor, name=name, folder=folder)
        model.vision_model.to(dtype)
        model.visual_projection.to(dtype)
        return checker

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the names and contents of the folder's configs and weights; read once."""
        if self.folder is None:
            raise WeightsMissing("a fingerprint needs the folder that the safety checker was loaded from")
        files = [*self.folder.glob("*.safetensors"), *self.folder.glob("*config.json")]
        return files_fingerprint({file.name: file for file in files})

    def check(self, images: Sequence[Image.Image]) -> list[str | None]:
        """For each picture the concepts that are over their limits, None where none is. Raises CheckerMismatch."""
        reasons: list[str | None] = []
        for start in range(0, len(images), BATCH):
            reasons.extend(self._check(images[start : start + BATCH]))
        return reasons

    @torch.inference_mode()
    def _check(self, images: Sequence[Image.Image]) -> list[str | None]:
        pixels = self._processor([image.convert("RGB") for image in images], return_tensors="pt")["pixel_values"]
        weight = self._model.visual_projection.weight
        pooled = self._model.vision_model(pixels.to(weight.device, weight.dtype)).pooler_output
        embeddings_NP = self._model.visual_projection(pooled).float()
        if not bool(torch.isfinite(embeddings_NP).all()):
            # A comparison with NaN is never true: the picture would pass.
            raise CheckerMismatch(
                f"the safety checker {self.name} gave NaN or infinity in {weight.dtype}; load it in float32"
            )
        care_NC = _cosines(embeddings_NP, self._care_CP).cpu()
        found_NC = _cosines(embeddings_NP, self._concepts_CP).cpu()
        return [self._reason(care, found) for care, found in zip(care_NC, found_NC, strict=True)]

    def _reason(self, care_C: torch.Tensor, found_C: torch.Tensor) -> str | None:
        """The release's rule: what is over its limit, to three decimals.

        From the first concept that calls for special care on, every limit is lower by 0.01.
        """
        adjustment = 0.0
        for cosine, limit in zip(care_C.tolist(), self._care_limits_C.tolist(), strict=True):
            if round(cosine - limit + adjustment, 3) > 0:
                adjustment = CARE_ADJUSTMENT
        over = [
            (round(cosine - limit + adjustment, 3), number, cosine)
            for number, (cosine, limit) in enumerate(zip(found_C.tolist(), self._limits_C.tolist(), strict=True))
        ]
        told = [
            f"concept {number} at {cosine:.3f}, {excess:.3f} over its limit"
            for excess, number, cosine in sorted(over, reverse=True)
            if excess > 0
        ]
        return f"the safety checker {self.name} refused it: {'; '.join(told)}" if told else None


def load_checker(name: str, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> SafetyChecker:
    """The checker of this name: "none", a folder, or a hub id.

    Raises: CheckerMismatch for an empty name or a folder with something else, WeightsMissing.
    """
    if not name.strip():
        raise CheckerMismatch(
            'no safety checker was chosen; name the folder or hub id of one, or write "none" to keep every picture'
        )
    if name == NO_CHECKER:
        return NullChecker()
    return DiffusersChecker.from_pretrained(name, device=device, dtype=dtype)


def _settings_folder(folder: Path) -> Path:
    """Where the preprocessing settings lie; raises WeightsMissing."""
    for place in (folder, folder.parent / "feature_extractor"):
        if (place / "preprocessor_config.json").is_file():
            return place
    raise WeightsMissing(
        f"a safety checker needs preprocessor_config.json beside its weights or in ../feature_extractor; {folder} has "
        "neither"
    )


def _cosines(embeddings_NP: torch.Tensor, concepts_CP: torch.Tensor) -> torch.Tensor:
    """Cosines of every picture with every concept, (N, C)."""
    normalize = torch.nn.functional.normalize
    return normalize(embeddings_NP) @ normalize(concepts_CP).T

"""The frozen networks that a set is prepared with: face analyzer, CLIP's vision tower, the autoencoder.

Shapes: B photos, T and C tokens and width of CLIP's vision tower, E numbers of an embedding, latents (c, h, w).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hyperlora.clip import ClipVision
from hyperlora.dataset.screen import Sample
from hyperlora.errors import WeightsMissing
from hyperlora.faces.load import load_analyzer
from hyperlora.faces.types import FaceAnalyzer
from hyperlora.hub import files_fingerprint, resolve
from hyperlora.sampling import encode


@dataclass(frozen=True)
class EncoderNames:
    """Which networks to load; None leaves their tensors out.

    Parameters
    ----------
    faces
        As `load_analyzer` reads it.
    clip_vision
        Folder or hub id of a CLIP vision tower.
    vae
        Folder or hub id of an SDXL model in diffusers' layout, or of its autoencoder alone.
    device
        "auto", "cpu", "cuda" or another of torch's.
    """

    faces: str = "opencv"
    clip_vision: str | None = None
    vae: str | None = None
    device: str = "auto"


@dataclass(frozen=True, eq=False)
class Encoders:
    """The loaded networks."""

    analyzer: FaceAnalyzer
    clip: ClipVision | None = None
    vae: Any = None

    @classmethod
    def load(cls, names: EncoderNames) -> Encoders:
        """Load what is named. Raises `WeightsMissing`."""
        device = _device(names.device)
        clip = None
        if names.clip_vision is not None:
            # Half precision is what is stored; on a CPU it would only be slower.
            dtype = torch.float16 if device.type == "cuda" else torch.float32
            clip = ClipVision.from_pretrained(names.clip_vision, device=device, dtype=dtype)
        return cls(load_analyzer(names.faces), clip, None if names.vae is None else load_vae(names.vae, device))

    def tensors(self, samples: Sequence[Sample]) -> list[dict[str, torch.Tensor]]:
        """For each sample the tensors that a set stores; tokens and embedding are made from the photo, not the crop.

        Raises `NonFinitePicture` where the autoencoder overflows.
        """
        rows = [{"face_embeddings": torch.from_numpy(sample.conditions.face_embedding)} for sample in samples]
        if self.clip is not None and samples:
            pictures = [sample.conditions.clip_image for sample in samples]
            pictures += [sample.conditions.base_image for sample in samples]
            tokens_MTC = self.clip.tokens(pictures).to("cpu", torch.float16)
            for row, clip_TC, base_TC in zip(rows, tokens_MTC[: len(samples)], tokens_MTC[len(samples) :], strict=True):
                row |= {"clip_tokens": clip_TC, "base_tokens": base_TC}
        if self.vae is not None and samples:
            with torch.inference_mode():
                latents_BCHW = encode(self.vae, [sample.picture for sample in samples], at_once=1)
            for row, latents_CHW in zip(rows, latents_BCHW.to("cpu", torch.float16), strict=True):
                row["latents"] = latents_CHW
        return rows


def load_vae(folder_or_hub_id: str | Path, device: torch.device | str = "cpu") -> Any:
    """SDXL's autoencoder in float32, as half precision overflows in it. Raises `WeightsMissing`."""
    import diffusers

    folder = vae_folder(folder_or_hub_id)
    maker: Any = diffusers.AutoencoderKL
    try:
        vae: Any = maker.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    except (OSError, ValueError) as fault:
        raise WeightsMissing(f"no autoencoder in safetensors at {folder}: {fault}") from fault
    # Without a type it is loaded in float32, whatever its file holds.
    return vae.to(device).eval().requires_grad_(False)


def vae_folder(folder_or_hub_id: str | Path) -> Path:
    """Where the autoencoder lies: in the folder `vae` of an SDXL model, or in the folder itself."""
    folder = resolve(folder_or_hub_id)
    place = folder / "vae" if (folder / "vae").is_dir() else folder
    if not (place / "config.json").is_file():
        raise WeightsMissing(f"an SDXL folder with vae/config.json was wanted, {folder} has none")
    return place


def vae_fingerprint(folder_or_hub_id: str | Path) -> str:
    """SHA-256 over config and weights of an autoencoder, by which a set's latents are known to be its own.

    Raises `WeightsMissing` where there is none.
    """
    place = vae_folder(folder_or_hub_id)
    return files_fingerprint({file.name: file for file in [place / "config.json", *place.glob("*.safetensors")]})


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)

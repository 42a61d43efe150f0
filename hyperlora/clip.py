"""The CLIP vision tower: what a photo shows, as tokens.

Shapes: N images, T tokens (257 for ViT-L/14 at 224 px), C width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from hyperlora.clip_pixels import ClipPixels
from hyperlora.errors import InvalidRequest, WeightsMissing
from hyperlora.host_memory import present
from hyperlora.hub import files_fingerprint, resolve
from hyperlora.one_at_a_time import LOADING

HIDDEN_LAYER = -2
"""The penultimate hidden state, as the released checkpoints read it."""
MOST_IMAGES = 64
"""In one pass: every layer's output is held until the end, 0.9 GB of ViT-L/14 in half precision."""


class ClipVision:
    """A transformers CLIPVisionModel with its own preprocessing; no projection, no last layer norm."""

    def __init__(self, model: Any, processor: Any, folder: Path | None = None) -> None:
        self.model = model.eval().requires_grad_(False)
        self.processor = processor
        self.folder = folder
        self.most_images = MOST_IMAGES
        self._pixels = ClipPixels(processor)

    @classmethod
    def from_pretrained(
        cls,
        folder_or_hub_id: str | Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        revision: str | None = None,
    ) -> ClipVision:
        """Load from a transformers folder or from the hub; safetensors only.

        Raises `WeightsMissing` where weights or preprocessing settings are not there.
        """
        # The PIL backend needs no torchvision and gives the same pixels on every machine.
        from transformers import CLIPImageProcessorPil, CLIPVisionModel

        folder = resolve(folder_or_hub_id, revision)
        for file in ("config.json", "preprocessor_config.json"):
            if not (folder / file).is_file():
                raise WeightsMissing(f"a CLIP vision folder needs {file}, {folder} has none")
        try:
            with LOADING:
                model: Any = CLIPVisionModel.from_pretrained(
                    folder, dtype=dtype, use_safetensors=True, local_files_only=True
                )
        except OSError as error:
            raise WeightsMissing(f"no CLIP vision tower in safetensors at {folder}: {error}") from error
        return cls(model.to(device), CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True), folder)

    @property
    def width(self) -> int:
        """Width C of a token."""
        return int(self.model.config.hidden_size)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the names and contents of the folder's configs and weights; read once."""
        if self.folder is None:
            raise WeightsMissing("a fingerprint needs the folder that the CLIP tower was loaded from")
        files = [*self.folder.glob("*.safetensors"), *self.folder.glob("*config.json")]
        return files_fingerprint({file.name: file for file in files})

    @torch.inference_mode()
    def tokens(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Every token of the penultimate layer, (N, T, C), for RGB images of any size, `most_images` of them in a pass.

        Raises `InvalidRequest` for an empty list.
        """
        if not images:
            raise InvalidRequest("CLIP needs at least one image, found none")
        begins = range(0, len(images), self.most_images)
        with present(self.model):
            chunks = [self._read(images[begin : begin + self.most_images]) for begin in begins]
        return chunks[0] if len(chunks) == 1 else torch.cat(chunks)

    def _read(self, images: Sequence[Image.Image]) -> torch.Tensor:
        pixels_N3HW = self._pixels.on(self.model.device, images).to(self.model.dtype)
        output = self.model(pixels_N3HW, output_hidden_states=True)
        tokens_NTC: torch.Tensor = output.hidden_states[HIDDEN_LAYER]
        return tokens_NTC

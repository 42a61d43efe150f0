"""How like pictures are to pictures (CLIP-I) and to texts (CLIP-T), by a CLIP model with both towers.

Shapes: N pictures or texts, D width of CLIP's common space.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from hyperlora.errors import InvalidRequest, WeightsMissing
from hyperlora.hub import resolve


class ClipScores:
    """A transformers CLIPModel with its tokenizer and preprocessing."""

    def __init__(self, model: Any, processor: Any, tokenizer: Any, name: str) -> None:
        self._model = model.eval().requires_grad_(False)
        self._processor, self._tokenizer, self.name = processor, tokenizer, name

    @classmethod
    def from_pretrained(cls, folder_or_hub_id: str | Path, *, device: torch.device | str = "cpu") -> ClipScores:
        """Load from a transformers folder or from the hub; safetensors only. Raises `WeightsMissing`."""
        from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

        folder = resolve(folder_or_hub_id)
        model_of: Any = CLIPModel
        try:
            model = model_of.from_pretrained(folder, use_safetensors=True, local_files_only=True).to(device)
            processor = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
            tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise WeightsMissing(f"CLIP scores need a CLIP model with both towers in {folder}: {error}") from error
        return cls(model, processor, tokenizer, str(folder_or_hub_id))

    @torch.inference_mode()
    def images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """(N, D) unit vectors. Raises `InvalidRequest` for an empty list."""
        if not images:
            raise InvalidRequest("CLIP needs at least one picture, found none")
        pixels_N3HW = self._processor([image.convert("RGB") for image in images], return_tensors="pt")["pixel_values"]
        found = self._model.get_image_features(pixel_values=pixels_N3HW.to(self._model.device), return_dict=True)
        return _unit(found.pooler_output)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """(N, D) unit vectors; what is longer than CLIP's 77 tokens is cut."""
        rows = self._tokenizer(list(texts), return_tensors="pt", padding=True, truncation=True)
        found = self._model.get_text_features(
            input_ids=rows["input_ids"].to(self._model.device),
            attention_mask=rows["attention_mask"].to(self._model.device),
            return_dict=True,
        )
        return _unit(found.pooler_output)


def _unit(vectors_ND: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(vectors_ND.float(), dim=-1).cpu()

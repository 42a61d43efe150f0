"""Pictures as the CLIP tower is fed: cut and resized by its own processor, on threads, and normalised on the device.

A processor turns 8 bit pixels into numbers by one table of 256 entries for each colour. The table is taken from the
processor itself, so what the tower reads is what the processor would have given, to the last bit, but a quarter of the
bytes travels, and the arithmetic is done where it is cheap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from hyperlora.side_by_side import side_by_side


class ClipPixels:
    """The preprocessing of one CLIP folder."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._table_on: dict[torch.device, torch.Tensor] = {}
        size = dict(processor.size)
        edge = size.get("shortest_edge") if processor.do_resize and not size.get("longest_edge") else None
        self._shortest_edge: int | None = edge

    def on(self, device: torch.device, images: Sequence[Image.Image]) -> torch.Tensor:
        """(N, 3, H, W) float32 for RGB images of any size."""
        squares = side_by_side(self._square, images)
        bytes_N3HW = torch.from_numpy(np.stack(squares))
        if device.type == "cuda":
            # Pinned pages go over while the host decodes the next ones.
            bytes_N3HW = bytes_N3HW.pin_memory().to(device, non_blocking=True)
        table_3V = self._table(device)
        return torch.stack([table_3V[colour][bytes_N3HW[:, colour].long()] for colour in range(3)], dim=1)

    def _square(self, image: Image.Image) -> Any:
        """(3, H, W) uint8: resized and cropped."""
        own = {"do_rescale": False, "do_normalize": False, "return_tensors": "np"}
        if self._shortest_edge is not None:
            # The same resizing without three copies of the large picture.
            short, long = sorted(image.size)
            sides = {long: int(self._shortest_edge * long / short), short: self._shortest_edge}
            image = image.resize((sides[image.width], sides[image.height]), self._processor.resample)
            own["do_resize"] = False
        cut = self._processor([image], **own)["pixel_values"]
        return np.asarray(cut[0], dtype=np.uint8)

    def _table(self, device: torch.device) -> torch.Tensor:
        """(3, 256) what each value of red, green and blue becomes."""
        if device not in self._table_on:
            values_HW = np.arange(256, dtype=np.uint8).reshape(16, 16)
            grey = Image.fromarray(values_HW.repeat(3).reshape(16, 16, 3))
            as_fed = self._processor([grey], do_resize=False, do_center_crop=False, return_tensors="pt")
            self._table_on[device] = as_fed["pixel_values"][0].reshape(3, 256).float().to(device)
        return self._table_on[device]

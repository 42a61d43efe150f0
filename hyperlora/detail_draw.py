"""The detail pass on finished pictures: find small faces, draw each again at full size, lay it over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from hyperlora.batches import draw_all
from hyperlora.detail import DetailPass, FacePatch, cut, face_patch, paste, small_faces
from hyperlora.faces.find import find_faces
from hyperlora.faces.types import Face, FaceAnalyzer
from hyperlora.regional import Region
from hyperlora.sample import Sample

if TYPE_CHECKING:
    from hyperlora.pipeline import PortraitPipeline


def redraw_faces(
    pipeline: PortraitPipeline,
    images: Sequence[Image.Image],
    samples: Sequence[Sample],
    detail: DetailPass,
    analyzer: FaceAnalyzer,
    *,
    scheduler: str,
    regions: Sequence[Region] = (),
    batch_size: int = 4,
) -> list[Image.Image]:
    """Draw the small faces of finished pictures again, with the words, seeds and LoRAs that drew the pictures.

    The largest face of a picture is the person; of the others only those that lie in a region, as a stranger in the
    background must stay one. A few-step model walks the end of its preset's own steps. Pictures without a small face
    come back as they are. Raises what `draw` raises.
    """
    masks = [region.mask for region in regions]
    found = [
        (number, face_patch(image.size, face, scale=detail.scale, feather=detail.feather))
        for number, image in enumerate(images)
        for face in small_faces(
            find_faces(analyzer, np.asarray(image.convert("RGB"), dtype=np.uint8)),
            pipeline.default_size,
            detail,
            is_person=lambda face, size=image.size: _in_region(face, masks, size),  # type: ignore[misc]
        )
    ]
    side = detail.side_for(pipeline.default_size)
    asked = [
        replace(samples[number], image=cut(images[number], patch, side), mask=None, control=())
        for number, patch in found
    ]
    setting: dict[str, Any] = {
        "width": side,
        "height": side,
        # A few-step model knows the steps of its own schedule only.
        "steps": pipeline.preset.steps if pipeline.preset else detail.schedule_steps,
        "scheduler": scheduler,
        "strength": detail.strength,
    }
    if regions:
        # Each patch sees another part of the regions, so each is a batch of its own.
        redrawn = [
            pipeline.draw([sample], **setting, regions=_regions_of(patch, regions, images[number].size)).images[0]
            for sample, (number, patch) in zip(asked, found, strict=True)
        ]
    else:
        redrawn = draw_all(pipeline, asked, batch_size, **setting)
    out = list(images)
    for (number, patch), picture in zip(found, redrawn, strict=True):
        out[number] = paste(out[number], picture, patch)
    return out


def _in_region(face: Face, masks: Sequence[Image.Image], size: tuple[int, int]) -> bool:
    """True if the middle of the face lies where a region's mask is white."""
    left, top, right, bottom = (float(value) for value in face.box_xyxy)
    x, y = (left + right) / 2 / size[0], (top + bottom) / 2 / size[1]
    return any(np.asarray(mask)[int(y * (mask.height - 1)), int(x * (mask.width - 1))] >= 128 for mask in masks)


def _regions_of(patch: FacePatch, regions: Sequence[Region], size: tuple[int, int]) -> list[Region]:
    """The regions as a patch of the picture sees them; those that do not reach it are left out."""
    seen = []
    for region in regions:
        mask = region.mask.resize(size, Image.Resampling.BILINEAR).crop(patch.box)
        if mask.getbbox() is not None:
            seen.append(replace(region, mask=mask))
    return seen

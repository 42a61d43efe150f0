"""How far pictures are from the exact ones, and from what was asked for.

Shapes: N people, P pictures of each, E numbers of an embedding, C width of a CLIP token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from bench.lossy_people import Asked
from hyperlora.clip import ClipVision
from hyperlora.evaluation.judges import Judge
from hyperlora.evaluation.shots import judged, wanted_labels
from hyperlora.evaluation.statistics import cosines, own_similarity, rank_one
from hyperlora.faces.types import FloatArray, unit_length

Measures = dict[str, float | None]
NO_DIFFERENCE = 99.0
"""PSNR of equal pictures, in dB, where JSON has no infinity."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """Everybody's pictures in one way."""

    images: Sequence[Sequence[Image.Image]]

    @property
    def flat(self) -> list[Image.Image]:
        """All of them."""
        return [image for row in self.images for image in row]


def compared(
    found: Pictures, exact: Pictures, asked: Sequence[Asked], clip: ClipVision, judge: Judge | None
) -> Measures:
    """All measures of a way; None for what cannot be measured."""
    noise = [psnr(one, other) for one, other in zip(found.flat, exact.flat, strict=True)]
    seen_MC, exact_MC = (_seen(clip, pictures.flat) for pictures in (found, exact))
    measures: Measures = {
        "psnr_median": float(np.median(noise)),
        "psnr_lowest": min(noise),
        "clip_distance": max(0.0, float((1 - (seen_MC * exact_MC).sum(dim=1)).mean())),
    }
    return {**measures, **(_judged(found, exact, asked, judge) if judge is not None else {})}


def psnr(one: Image.Image, other: Image.Image) -> float:
    """Peak signal to noise of two RGB pictures of one size, in dB; `NO_DIFFERENCE` where they are equal."""
    a, b = (np.asarray(image.convert("RGB"), dtype=np.float64) for image in (one, other))
    error = float(((a - b) ** 2).mean())
    return NO_DIFFERENCE if error == 0 else min(NO_DIFFERENCE, 10 * float(np.log10(255**2 / error)))


def told(measures: Measures) -> list[str]:
    """The cells of a row."""
    middle, lowest = measures["psnr_median"], measures["psnr_lowest"]
    assert middle is not None and lowest is not None
    noise = "equal" if lowest >= NO_DIFFERENCE else f"{middle:.1f} ({lowest:.1f})"
    return [
        noise,
        _number(measures["clip_distance"], 4),
        _number(measures.get("face_to_exact"), 3),
        _number(measures.get("face_to_person"), 3),
        _share(measures.get("rank_one")),
        _share(measures.get("attributes")),
    ]


def _seen(clip: ClipVision, images: Sequence[Image.Image]) -> torch.Tensor:
    """(M, C) the mean token of each picture, of unit length."""
    return torch.nn.functional.normalize(clip.tokens(images).float().mean(dim=1), dim=-1).cpu()


def _judged(found: Pictures, exact: Pictures, asked: Sequence[Asked], judge: Judge) -> Measures:
    count = len(asked[0].prompts)
    shots, before = (judged(judge, pictures.images, count) for pictures in (found, exact))
    gallery_NE = np.stack([_known(judge, one) for one in asked])
    cosines_NPG = cosines(shots.embeddings_NPE, gallery_NE)
    measures: Measures = {
        "face_to_exact": float(np.nanmean((shots.embeddings_NPE * before.embeddings_NPE).sum(axis=2))),
        "face_to_person": float(own_similarity(cosines_NPG).mean()),
        "rank_one": float(rank_one(cosines_NPG).mean()),
        "attributes": None,
    }
    said = [one.said for one in asked if one.said is not None]
    if len(said) == len(asked):
        measures["attributes"] = float((shots.labels_NPA == wanted_labels(said)).mean())
    return measures


def _known(judge: Judge, one: Asked) -> FloatArray:
    """(E,) of the person's own portraits."""
    assert one.gallery is not None
    found = [embedding for embedding in judge.embed(one.gallery) if embedding is not None]
    return unit_length(np.mean(found, axis=0))


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _share(value: Any) -> str:
    return "" if value is None else f"{100 * value:.0f} %"

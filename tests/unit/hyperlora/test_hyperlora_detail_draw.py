"""The detail pass on finished pictures: which faces are drawn again, with what, and that the rest stays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sdxl_pictures import STEPS, box_mask, distance, person, pixels
from tiny_sdxl import SIZE

from hyperlora import DetailPass, Drawing, HyperLoRA, PortraitPipeline, Region, Sample
from hyperlora.detail import cut, face_patch
from hyperlora.errors import InvalidRequest
from hyperlora.faces.types import Face, FloatArray, RGBArray

DETAIL = DetailPass(side=32, strength=0.5, steps=2, below=0.5, feather=2.0)


def face(left: float, top: float, side: float) -> Face:
    box = np.array([left, top, left + side, top + side], dtype=np.float32)
    return Face(box, 0.9, np.zeros((5, 2), dtype=np.float32))


class Finder:
    """Finds what it is told to in every picture."""

    name = "finder"
    embedding_size = 4

    def __init__(self, *faces: Face) -> None:
        self.faces = list(faces)

    def detect(self, rgb_HW3: RGBArray, size: int = 640) -> list[Face]:
        return self.faces

    def embed(self, rgb_HW3: RGBArray, face: Face) -> FloatArray:
        raise AssertionError("nobody is compared here")


def _draws(pipeline: PortraitPipeline, monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Sample], dict[str, Any]]]:
    """Record what is drawn."""
    asked: list[tuple[list[Sample], dict[str, Any]]] = []
    own = pipeline.draw

    def draw(samples: Sequence[Sample], **setting: Any) -> Drawing:
        asked.append((list(samples), setting))
        return own(samples, **setting)

    monkeypatch.setattr(pipeline, "draw", draw)
    return asked


def test_a_small_face_is_drawn_again_and_nothing_else_changes(
    pipeline: PortraitPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given two pictures with a small face each
    small = face(20, 10, 12)
    plain = pipeline("a man", seeds=[1, 2], steps=STEPS)
    asked = _draws(pipeline, monkeypatch)
    # When drawn with the detail pass
    images = pipeline("a man", seeds=[1, 2], steps=STEPS, detail=DETAIL, analyzer=Finder(small))
    # Then both faces were drawn again in one batch: the patch enlarged, the same words and seeds
    (_, (samples, setting)) = asked
    assert [(sample.prompt, sample.seed) for sample in samples] == [("a man", 1), ("a man", 2)]
    patch = face_patch((SIZE, SIZE), small, scale=DETAIL.scale, feather=DETAIL.feather)
    assert samples[0].image is not None
    assert distance(samples[0].image, cut(plain[0], patch, 32)) <= 1
    assert (setting["width"], setting["height"], setting["steps"], setting["strength"]) == (32, 32, 4, 0.5)
    # And the face changed, everything outside its mask stayed bit for bit
    mask = Image.new("L", (SIZE, SIZE), 0)
    mask.paste(patch.mask, patch.box[:2])
    outside = np.asarray(mask) == 0
    for before, after in zip(plain, images, strict=True):
        assert (pixels(before)[outside] == pixels(after)[outside]).all()
        assert distance(before, after) > 3


def test_a_few_step_model_redraws_with_its_own_steps(sdxl_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a model of four steps, which knows no other schedule
    few = PortraitPipeline.from_pretrained(sdxl_folder, preset="lightning-4")
    asked = _draws(few, monkeypatch)
    # When a small face is drawn again with the pass's own ten steps
    few("a man", seeds=1, detail=DetailPass(side=32, below=0.5), analyzer=Finder(face(20, 10, 12)))
    # Then the end of the four steps was walked
    assert [(setting["steps"], setting["strength"]) for _, setting in asked] == [(4, 1.0), (4, 0.5)]


def test_pictures_without_small_faces_stay(pipeline: PortraitPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = pipeline("a man", seeds=1, steps=STEPS)
    asked = _draws(pipeline, monkeypatch)
    for finder in (Finder(), Finder(face(4, 4, 50))):
        images = pipeline("a man", seeds=1, steps=STEPS, detail=DETAIL, analyzer=finder)
        assert distance(images[0], plain[0]) == 0
    assert len(asked) == 2  # the whole pictures only


def test_strangers_stay_strangers_and_people_in_regions_do_not(
    pipeline: PortraitPipeline, unet_network: HyperLoRA, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given three small faces: the largest, one at the left, one at the right, and a region at the left
    faces = (face(26, 4, 14), face(2, 30, 10), face(52, 44, 10))
    left = Region(((person(unet_network, 1), 0.8),), box_mask((0, 0, 20, SIZE)))
    asked = _draws(pipeline, monkeypatch)
    # When nobody has a region, then only the largest is drawn again
    pipeline("a man", seeds=1, steps=STEPS, detail=DETAIL, analyzer=Finder(*faces))
    assert [len(samples) for samples, _ in asked] == [1, 1]
    # When the left side is somebody's, then that face is drawn again too, with the part of the region it sees
    asked.clear()
    pipeline("a man", seeds=1, steps=STEPS, detail=DETAIL, analyzer=Finder(*faces), regions=[left])
    assert [len(samples) for samples, _ in asked] == [1, 1, 1]
    seen = [setting["regions"] for _, setting in asked[1:]]
    patches = [face_patch((SIZE, SIZE), each, scale=2.0, feather=2.0) for each in faces[:2]]
    for regions, patch in zip(seen, patches, strict=True):
        expected = left.mask.crop(patch.box)
        assert [region.mask.tobytes() for region in regions] == ([expected.tobytes()] if expected.getbbox() else [])
    assert [len(regions) for regions in seen] == [1, 1]
    assert seen[0][0].mask.tobytes() != seen[1][0].mask.tobytes()


def test_a_detail_pass_needs_eyes(pipeline: PortraitPipeline) -> None:
    with pytest.raises(InvalidRequest, match="needs a face analyzer"):
        pipeline("a man", seeds=1, detail=DETAIL)

"""The watermark is not seen, is found again after other formats, sizes and crops, and nowhere else."""

from __future__ import annotations

import io
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import services
from marking_world import RECORD, picture, settings
from PIL import Image
from skimage import data

from worker.errors import MarkingBroken, WatermarkImpossible
from worker.marking import watermark
from worker.marking.marker import Marker
from worker.marking.provenance import read_provenance
from worker.picture_file import record_of


@pytest.fixture(scope="module", autouse=True)
def package() -> None:
    if find_spec("imwatermark") is None:
        services.missing("invisible-watermark (the extra `watermark`)")


@pytest.fixture(scope="module")
def portrait() -> Image.Image:
    """A public-domain portrait at the size that SDXL draws."""
    return Image.fromarray(data.astronaut()).resize((1024, 1024), Image.Resampling.LANCZOS)


@pytest.fixture(scope="module")
def marked(portrait: Image.Image) -> Image.Image:
    return watermark.embed(portrait)


def saved(image: Image.Image, form: str, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, form, quality=quality)
    return Image.open(buffer).convert("RGB")


def scaled(image: Image.Image, share: float) -> Image.Image:
    return image.resize((int(image.width * share), int(image.height * share)), Image.Resampling.LANCZOS)


def psnr(one: Image.Image, other: Image.Image) -> float:
    """Decibels: 10 log10(255² / mean square difference)."""
    difference = np.asarray(one, np.float64) - np.asarray(other, np.float64)
    return float(10 * np.log10(255**2 / np.mean(difference**2)))


def test_it_is_not_seen(portrait: Image.Image, marked: Image.Image, record_property: Any) -> None:
    found = psnr(portrait, marked)
    record_property("measured", f"watermark: PSNR {found:.1f} dB at 1024 px")
    assert marked.size == portrait.size and found > 38.0


@pytest.mark.parametrize("change", ["none", "jpeg 85", "webp 80", "three quarters, jpeg 85", "half, jpeg 85", "cut"])
def test_it_outlives_other_formats_and_sizes(marked: Image.Image, change: str, record_property: Any) -> None:
    # Given a marked picture that was changed as pictures are on their way
    changed = {
        "none": lambda: marked,
        "jpeg 85": lambda: saved(marked, "JPEG", 85),
        "webp 80": lambda: saved(marked, "WEBP", 80),
        "three quarters, jpeg 85": lambda: saved(scaled(marked, 0.75), "JPEG", 85),
        "half, jpeg 85": lambda: saved(scaled(marked, 0.5), "JPEG", 85),
        "cut": lambda: marked.crop((60, 50, 984, 964)),
    }[change]()

    # Then it is found
    bits = watermark.matching_bits(changed)
    record_property("measured", f"watermark after {change}: {bits} of 32 bits")
    assert bits >= watermark.FOUND_BITS


def test_it_is_not_found_where_it_is_not(portrait: Image.Image) -> None:
    # Given pictures without it: a portrait, others, noise and soft blobs
    others = [data.chelsea(), data.coffee(), data.rocket()]
    noise = np.random.default_rng(5).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    pictures = [portrait, *(Image.fromarray(one) for one in [*others, noise]), picture(512, 512)]
    bits = [watermark.matching_bits(one) for one in pictures]
    assert max(bits) < watermark.FOUND_BITS and not any(watermark.is_marked(one) for one in pictures[:2])


def test_too_small_pictures_are_refused_in_words() -> None:
    for act in (watermark.embed, watermark.matching_bits):
        with pytest.raises(WatermarkImpossible, match=r"65536 pixels, as 256x256 has; the picture has 255x256"):
            act(Image.new("RGB", (255, 256)))


def test_the_marker_hides_it_before_it_signs(tmp_path: Path, portrait: Image.Image) -> None:
    # Given a marker with watermarks
    marker = Marker(settings(tmp_path, watermark="on"), version="1")
    marker.check()

    # When a large picture, a small one and one without any structure are made
    files = {
        name: marker.encode(image, RECORD, format="jpeg")[0]
        for name, image in {
            "large": portrait,
            "small": picture(64, 64),
            "plain": Image.new("RGB", (512, 512), "navy"),
        }.items()
    }

    # Then all are signed; the large one carries it, the others say why not and keep their pixels
    opened = {name: Image.open(io.BytesIO(file)) for name, file in files.items()}
    assert {read_provenance(file, "image/jpeg").state for file in files.values()} == {"valid"}
    assert watermark.is_marked(opened["large"].convert("RGB"))
    told = {name: record_of(image)["watermark"] for name, image in opened.items()}
    assert told["large"] == "AI-made" and told["small"] == "none: the picture is too small"
    assert told["plain"] in ("AI-made", "none: the picture is too plain")


def test_without_its_package_a_worker_that_wants_it_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an environment without the package
    monkeypatch.setitem(sys.modules, "imwatermark", None)

    # Then the marker says what to install
    with pytest.raises(MarkingBroken, match=r"hyperlora-portraits\[watermark\]"):
        Marker(settings(tmp_path, watermark="on"), version="1").check()

"""The example photographs and the command that makes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hyperlora.mini.__main__ import main
from hyperlora.mini.people import TEST
from hyperlora.mini.photos import PHOTOS, write_photos

COMMITTED = Path(__file__).parents[3] / "examples" / "photos"


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(np.float64)


def test_the_committed_photographs_are_those_of_the_list(tmp_path: Path) -> None:
    # Given the list, drawn anew
    paths = write_photos(tmp_path)
    # Then the repository holds the same pictures (JPEG codecs differ a little between versions)
    assert sorted(p.name for p in paths) == sorted(p.name for p in COMMITTED.glob("*.jpg"))
    for path in paths:
        drawn, kept = _pixels(path), _pixels(COMMITTED / path.name)
        assert drawn.shape == (512, 512, 3)
        assert np.abs(drawn - kept).mean() < 1.5, path.name


def test_the_photographs_are_few_and_small() -> None:
    assert len(PHOTOS) >= 6
    for seed, shots in PHOTOS.values():
        assert seed in TEST
        assert 1 <= len(shots) <= 4
    assert sum(path.stat().st_size for path in COMMITTED.glob("*.jpg")) < 1_500_000


def test_a_contact_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["sheet", str(tmp_path / "sheet.png"), "--people", "2", "--portraits", "3", "--size", "64"])
    # three pictures of 64 and four gaps of 6 across, two and three down
    assert _pixels(tmp_path / "sheet.png").shape == (2 * 64 + 3 * 6, 3 * 64 + 4 * 6, 3)
    assert capsys.readouterr().out.strip() == str(tmp_path / "sheet.png")

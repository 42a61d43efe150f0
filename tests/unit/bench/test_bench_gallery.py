"""The benchmark of galleries runs at toy size where there is a browser, and tells what it saw."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chromium import chromium_binary
from services import missing

from bench import gallery


def test_a_gallery_is_scrolled_both_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Given a browser
    if chromium_binary() is None:
        missing("Chromium (PORTRAITS_TEST_CHROMIUM)")

    # When a small gallery is measured, as sheets and as sprites
    assert gallery.main(["--toy", "--device", "cpu", "--pictures", "60", "--sprites", "--out", str(tmp_path)]) == 0

    # Then each way was scrolled in each order, to its end
    found = json.loads((tmp_path / "gallery.json").read_text())
    assert found["sheets"] == 2 and found["sheet_bytes"] > 60 * 1_000
    for way in ("sheets", "sprites"):
        for order in ("asked", "likeness"):
            measured = found["ways"][way][order]
            assert measured["frames"] > 1 and measured["pixels"] > 0 and 0 < measured["computed_share"] < 1.5
    assert "| sprites | likeness |" in capsys.readouterr().out

"""Fuzzing of the photo reader: every file ends as an upright photo or as `PhotoRefused`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fuzz_guard import run_fuzzer

CASES = 600
MOST_SECONDS, MOST_BYTES = 5.0, 256 * 2**20


def test_every_file_ends_as_a_photo_or_is_refused(tmp_path: Path, record_property: Any) -> None:
    # When damaged and hostile pictures are read, of at most a million pixels
    found = run_fuzzer("fuzz_images.py", tmp_path / "fuzz", str(CASES), seconds=240)

    # Then none crashed, hung, or opened a file, and both endings were reached
    assert sum(found["outcomes"].values()) >= CASES
    assert found["outcomes"].keys() == {"accepted", "photo_refused"}
    # And each was done in bounded time and memory: a picture, its RGB copy, and what a decoder needs
    assert found["slowest_seconds"] < MOST_SECONDS
    assert found["grown_bytes"] < MOST_BYTES
    record_property("measured", f"fuzzed photos: {found}")

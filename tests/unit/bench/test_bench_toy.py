"""Every benchmark runs at toy size, and what it writes can be read: finite numbers in order, and a table."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FIGURES: dict[str, tuple[str, ...]] = {
    "unet": (
        "tflop_a_row",
        "peak_tflops.median",
        "batches.0.ways.diffusers.step_seconds.median",
        "batches.0.ways.off-fused.tflops.median",
        "batches.0.ways.blocks.faster_than_diffusers.median",
        "batches.0.ways.blocks.ready_seconds",
        "recompilations.swaps",
    ),
    "job": (
        "images_per_second.portraits.median",
        "images_per_second.batched loop.median",
        "portraits_against.bare.median",
        "portraits_against.loop.median",
        "first_picture_seconds.median",
        "seconds_per_picture.denoise.median",
    ),
    "swap": (
        "milliseconds.stacked.mix.median",
        "milliseconds.fused.restore.median",
        "change_against_first.attached.median",
    ),
    "mixed": (
        "mixed_share.median",
        "rows.0.images_per_second.planned.median",
        "rows.1.foretold.together",
    ),
    "scale": ("factors.people.rows.1.seconds.median", "factors.size.rows.0.pictures", "asked_of_each.steps"),
    "people": ("milliseconds_per_person.median", "rows.0.together.stages.clip.median", "rows.1.faster_together.median"),
    "lossy": ("faster.int8.median", "seconds_a_picture.cache-2.median", "pictures_changed.int8.psnr_median"),
    "first": ("seconds.cold", "seconds.restarted", "seconds.warm.median"),
    "enqueue": ("databases.sqlite.rows_per_second", "databases.sqlite.seconds_check"),
    "queues": (
        "databases.sqlite.0.enqueued_per_second",
        "databases.sqlite.1.claims_per_second",
        "databases.sqlite.1.reap_ms",
        "versus.ways.portraits.images_per_second",
        "versus.ways.plain, nothing kept.broker_bytes",
    ),
    "memory": ("parts.decoding one.counted", "swaps.mixing, bases streamed.seconds.median", "workers.8 GB.foretold"),
    "marking": (
        "files.0.milliseconds.encode.median",
        "files.1.bytes_added",
        "files.2.signed_per_second_by_threads.low",
    ),
    "plan": ("worst", "rows.0.best_seconds", "rows.3.against_best.together"),
}
"""For each benchmark figures that it must have found: more than nothing."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list(FIGURES))
def test_a_benchmark_runs_at_toy_size(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # When it is run as small as can be
    ended = importlib.import_module(f"bench.{name}").main(["--toy", "--device", "cpu", "--out", str(tmp_path)])

    # Then it ends well and tells on what machine it ran
    assert ended in (None, 0)
    found = json.loads((tmp_path / f"{name}.json").read_text())
    assert found["bench"] == name
    assert found["machine"]["device"].startswith("cpu")
    assert {"torch", "diffusers"} <= found["machine"]["libraries"].keys()
    # And has the figures that are wanted, each more than nothing, and every number finite
    for place in FIGURES[name]:
        assert at(found, place) > 0, place
    for place, value in numbers(found):
        assert math.isfinite(value), place
    for place, spread in spreads(found):
        assert spread["low"] <= spread["median"] <= spread["high"], place
        assert spread["count"] >= 1, place
    # And the page is what was printed, with a table whose rows are as long as its head
    page = (tmp_path / f"{name}.md").read_text()
    assert page in capsys.readouterr().out
    cells = [line.count("|") for line in page.splitlines() if line.startswith("|")]
    assert len(cells) >= 3
    assert "nan" not in page and "inf " not in page


def test_compiling_is_timed_in_a_process_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    # When such a process is asked for one way
    unet = importlib.import_module("bench.unet")
    assert unet.main(["--toy", "--device", "cpu", "--child", "blocks"]) == 0
    # Then its last line is what the asking one reads
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["compile_seconds"] > 0


def at(found: Any, place: str) -> float:
    """The number that lies there."""
    for key in place.split("."):
        found = found[int(key)] if isinstance(found, list) else found[key]
    return float(found)


def numbers(found: Any, place: str = "") -> Iterator[tuple[str, float]]:
    """Every number, and where it lies."""
    if isinstance(found, bool) or found is None or isinstance(found, str):
        return
    if isinstance(found, int | float):
        yield place, float(found)
        return
    pairs = found.items() if isinstance(found, dict) else enumerate(found)
    for key, value in pairs:
        yield from numbers(value, f"{place}.{key}")


def spreads(found: Any, place: str = "") -> Iterator[tuple[str, dict[str, float]]]:
    """Every median with quartiles, and where it lies."""
    if isinstance(found, dict) and found.keys() == {"median", "low", "high", "count"}:
        yield place, found
    elif isinstance(found, dict | list):
        for key, value in found.items() if isinstance(found, dict) else enumerate(found):
            yield from spreads(value, f"{place}.{key}")

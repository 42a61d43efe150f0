"""What is wanted of an H100 is judged on an H100, and shown anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import targets


def job(device: str, rate: float, **more: Any) -> dict[str, Any]:
    """A result of bench/job.py, as far as it is read."""
    return {
        "bench": "job",
        "machine": {"device": device},
        "size": 1024,
        "steps": 20,
        "images_per_second": {"portraits": {"median": rate}},
        "portraits_against": {"loop": {"median": 6.5}, "bare": {"median": 0.96}},
        **more,
    }


def test_a_missed_target_is_told_on_an_h100(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Given a result that reaches two targets and misses one
    (tmp_path / "job.json").write_text(json.dumps(job("NVIDIA H100 80GB HBM3", 1.6)))
    # When it is judged
    code = targets.main([str(tmp_path)])
    # Then the program says so
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split(" | ")[3] for line in lines] == ["reached", "reached", "MISSED"]
    assert "| 1.6 | at least 1.5 (goals 1.75, 2) |" in lines[0]
    assert "share of the bare loop | 0.96 | at least 0.97" in lines[2]
    assert code == 1


@pytest.mark.parametrize(
    "result", [job("NVIDIA A10G", 0.1), job("NVIDIA H100 80GB HBM3", 0.1, size=512)], ids=["device", "size"]
)
def test_other_devices_and_sizes_are_not_judged(result: dict[str, Any]) -> None:
    told, missed = targets.table([result])
    assert missed == 0
    assert told.count("not judged") == 3


def test_thirty_steps_have_a_target_of_their_own() -> None:
    told, missed = targets.table([job("NVIDIA H100 80GB HBM3", 1.1, steps=30, portraits_against={})])
    assert "30 steps | 1.1 | at least 1.05 (goals 1.2, 1.35) | reached" in told
    assert missed == 0


def test_a_bound_from_above_is_kept_from_below() -> None:
    # Given a change of identity in 6 ms, and no compilation at all
    result = {"machine": {"device": "NVIDIA H100"}, "bench": "swap"}
    slow = {**result, "milliseconds": {"stacked": {"change": {"median": 6.0}}}}
    none = {**result, "bench": "unet", "recompilations": {"compilations": 0}}
    # Then the first is too slow and the second is right
    told, missed = targets.table([slow, none])
    assert missed == 1
    assert "change of identity | 6 | at most 5 | MISSED" in told
    assert "identity swaps | 0 | at most 0 | reached" in told

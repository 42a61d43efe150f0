"""What the benchmarks share: medians, ratios within a round, the machine's facts, the files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench import common
from bench.facts import told

CPU = torch.device("cpu")


def test_a_spread_is_the_median_and_its_quartiles() -> None:
    # Given five values, of which one is far away
    spread = common.Spread.of([4.0, 1.0, 2.0, 3.0, 100.0])
    # Then the median does not mind, and another unit or the things a second are of the same values
    assert (spread.median, spread.low, spread.high, spread.count) == (3.0, 2.0, 4.0, 5)
    assert spread.scaled(1000).told(0) == "3000 [2000, 4000]"
    assert spread.inverse(12) == common.Spread(4.0, 3.0, 6.0, 5)
    assert common.Spread.of([2.5]).told() == "2.50"


def test_ratios_are_taken_within_a_round() -> None:
    # Given a machine that was ten times as slow in one of the rounds
    turns = common.Turns({"ours": [1.0, 10.0, 1.0], "theirs": [2.0, 20.0, 2.0]})
    # Then we are twice as fast in every one of them
    assert turns.faster("ours", "theirs") == common.Spread(2.0, 2.0, 2.0, 3)
    assert turns.spread("ours").median == 1.0


def test_ways_take_turns_in_an_order_that_rotates() -> None:
    # Given three ways, of which one takes its own time
    order: list[str] = []
    ways = {
        "a": lambda: order.append("a"),
        "b": lambda: order.append("b"),
        "own": lambda: (order.append("own"), 7.0)[1],
    }
    # When there is a round to warm up and two that count
    turns = common.take_turns(ways, repeat=2, device=CPU)
    # Then everybody began once, and only two rounds are kept
    assert order == ["a", "b", "own", "b", "own", "a", "own", "a", "b"]
    assert turns.seconds["own"] == [7.0, 7.0]
    assert len(turns.seconds["a"]) == 2
    assert all(value > 0 for value in turns.seconds["a"])


def test_a_result_is_printed_and_written_with_the_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Given a command
    file, folder = tmp_path / "own.json", tmp_path / "results"
    options = common.parsed(
        common.parser(None), ["--device", "cpu", "--toy", "--json", str(file), "--out", str(folder)]
    )
    # When it has found something
    common.finish("thing", {"seconds": common.Spread.of([1.0, 2.0, 3.0])}, common.table(("a", "b"), [(1, 2)]), options)
    # Then the same lies in both places, with what it was measured on and asked for
    found = json.loads(file.read_text())
    assert found == json.loads((folder / "thing.json").read_text())
    assert found["bench"] == "thing"
    assert found["seconds"] == {"median": 2.0, "low": 1.5, "high": 2.5, "count": 3}
    assert found["asked"] == {
        "device": "cpu",
        "dtype": "float32",
        "model": "mini",
        "toy": True,
        "repeat": 1,
        "warm_up": 0,
    }
    assert found["machine"]["libraries"]["torch"] == torch.__version__
    assert found["machine"]["threads"] == torch.get_num_threads()
    # And people read it as a table
    page = (folder / "thing.md").read_text()
    assert page in capsys.readouterr().out
    assert page.splitlines() == [told(found["machine"]), "", "| a | b |", "|---|---|", "| 1 | 2 |"]


def test_a_number_that_is_none_is_not_written(tmp_path: Path) -> None:
    options = common.parsed(common.parser(None), ["--device", "cpu", "--out", str(tmp_path)])
    with pytest.raises(ValueError, match="JSON"):
        common.finish("thing", {"seconds": float("nan")}, "", options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_gpu_ends_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        common.parsed(common.parser(None), ["--device", "cuda"])
    assert ended.value.code == 3
    assert "a CUDA device is asked for, none is here" in capsys.readouterr().err

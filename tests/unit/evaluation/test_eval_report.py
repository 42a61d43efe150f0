"""Rows and reports: what is written can be read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hyperlora.evaluation.compare import Scores
from hyperlora.evaluation.plots import write_plots
from hyperlora.evaluation.report import Report
from hyperlora.evaluation.rows import ClaimResult, Row, measured, not_measured, number
from hyperlora.evaluation.statistics import Estimate, ratio_over_people

HALF = Estimate(0.5, 0.25, 0.75, 100)


def report() -> Report:
    """Two claims and a method."""
    reached = measured(
        "identity", "rank-1", "share", HALF, baseline=0.01, baseline_is="chance", bar="80 %", reached=False
    )
    infinite = measured("leak", "ratio", "ratio", ratio_over_people(np.ones(3), np.zeros(3)))
    missing = not_measured("leak", "a | pipe", "for want of a twin")
    claims = [ClaimResult("identity", (reached,), {"x": [1.0]}, 2.0), ClaimResult("leak", (infinite, missing))]
    scores = Scores("hyperlora-id", HALF, None, None, HALF, 12.4, 1234.5, 100, 1, 800, 7)
    return Report({"model": "mini", "judge": "coded"}, claims, [scores], ["pictures/identity.png"])


@pytest.mark.parametrize(
    ("unit", "text"), [("share", "50.0%"), ("cosine", "0.500"), ("ratio", "0.50"), ("ms", "0.5 ms")]
)
def test_numbers_have_their_units(unit: str, text: str) -> None:
    assert number(0.5, unit) == text and number(None, unit) == ""  # type: ignore[arg-type]


def test_a_row_tells_itself() -> None:
    row = measured("identity", "rank-1", "share", HALF, reached=True)
    assert (row.told, row.verdict, row.people) == ("50.0% [25.0%, 75.0%]", "reached", 100)
    assert Row("speed", "ms", "ms", 3.0).told == "3.0 ms" and Row("speed", "ms").verdict == ""


def test_json_holds_every_number_and_no_infinity(tmp_path: Path) -> None:
    # When a report is written
    report().write(tmp_path)

    # Then strict JSON comes back, an infinite ratio as null
    data = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    row = data["claims"][0]["rows"][0]
    assert (row["value"], row["low"], row["high"], row["baseline"], row["people"]) == (0.5, 0.25, 0.75, 0.01, 100)
    assert data["claims"][1]["rows"][0]["value"] is None
    assert data["methods"][0]["id_similarity"] == {"value": 0.5, "low": 0.25, "high": 0.75, "people": 100}


def test_a_claim_comes_back_from_json() -> None:
    result = report().claims[0]
    assert ClaimResult.from_data(json.loads(json.dumps(result.to_data()))) == result


def test_markdown_is_a_table_for_people(tmp_path: Path) -> None:
    report().write(tmp_path)
    text = (tmp_path / "evaluation.md").read_text(encoding="utf-8")
    assert "| identity | rank-1 | 50.0% [25.0%, 75.0%] | 1.0% (chance) | 100 | 80 % | missed |" in text
    assert "| leak | a / pipe | not measured |" in text and "- a | pipe: for want of a twin" in text
    assert "| hyperlora-id | - | 0.500 [0.250, 0.750] | - | 0.500 [0.250, 0.750] | 7 of 800 | 12 | 1,234 |" in text
    assert "![identity](pictures/identity.png)" in text


def test_missed_bars_are_listed() -> None:
    assert [row.measure for row in report().missed] == ["rank-1"]


def test_curves_are_plotted(tmp_path: Path) -> None:
    # Given claims with curves, and one without
    steps = [0.0, 0.25, 0.5, 0.75, 1.0]
    results = [
        ClaimResult("photos", (), {"photos": [1.0, 2.0], "similarity": [0.5, 0.6], "rank-1": [0.1, 0.2]}),
        ClaimResult("interpolation", (), {"t": steps, "to A": steps[::-1], "to B": steps}),
        ClaimResult("text", (), {kind: [0.9] * 5 for kind in ("drawn", "without", "with")}),
        ClaimResult("refine", (), {"ours": [0.5], "from ours": [0.7], "few from zero": [0.1], "many from zero": [0.4]}),
        ClaimResult("ceiling", ()),
    ]

    # When they are plotted, then each is a picture, and the same the next time
    files = write_plots(results, tmp_path / "a")
    assert [file.name for file in files] == [f"plot-{result.claim}.png" for result in results[:4]]
    for file in files:
        with Image.open(file) as image:
            assert image.size == (768, 480) and len(image.convert("L").getcolors(maxcolors=256) or []) > 10
    assert write_plots(results, tmp_path / "b")[0].read_bytes() == files[0].read_bytes()

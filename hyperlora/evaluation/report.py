"""The results as JSON and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyperlora.evaluation.compare import Scores
from hyperlora.evaluation.rows import ClaimResult, Row, number
from hyperlora.evaluation.statistics import Estimate

VERSION = 1
HEADS = ("claim", "measure", "value [95 %]", "baseline", "people", "bar", "")
_MEASURES = ("CLIP-I fidelity", "ID similarity", "CLIP-I editing", "CLIP-T")
METHOD_HEADS = ("method", *_MEASURES, "no face", "preprocess ms", "inference ms")


@dataclass(frozen=True)
class Report:
    """Everything that an evaluation found, and on what.

    Parameters
    ----------
    about
        Model, judge, extent, device: names and numbers for the head of the report.
    claims
        The mini world's claims.
    methods
        Methods side by side.
    """

    about: Mapping[str, Any]
    claims: Sequence[ClaimResult] = ()
    methods: Sequence[Scores] = ()
    files: Sequence[str] = field(default_factory=list)

    @property
    def rows(self) -> list[Row]:
        """Every row of every claim."""
        return [row for result in self.claims for row in result.rows]

    @property
    def missed(self) -> list[Row]:
        """Rows whose bar is not reached."""
        return [row for row in self.rows if row.reached is False]

    def to_data(self) -> dict[str, Any]:
        """For JSON; a number that does not exist, such as a ratio to nothing, is null."""
        data = {
            "version": VERSION,
            "about": dict(self.about),
            "claims": [result.to_data() for result in self.claims],
            "methods": [scores.to_data() for scores in self.methods],
            "files": list(self.files),
        }
        finite: dict[str, Any] = _finite(data)
        return finite

    def to_markdown(self) -> str:
        """Head, table of claims, table of methods, pictures."""
        parts = ["# Evaluation\n", _facts(self.about)]
        if self.claims:
            parts += ["## Claims\n", _table(HEADS, [claim_cells(row) for row in self.rows]), _notes(self.rows)]
        if self.methods:
            parts += ["## Methods\n", _table(METHOD_HEADS, [method_cells(scores) for scores in self.methods])]
        parts += [f"![{Path(file).stem}]({file})\n" for file in self.files]
        return "\n".join(part for part in parts if part)

    def write(self, folder: Path) -> None:
        """`evaluation.json` and `evaluation.md`."""
        folder.mkdir(parents=True, exist_ok=True)
        told = json.dumps(self.to_data(), indent=2, allow_nan=False) + "\n"
        (folder / "evaluation.json").write_text(told, encoding="utf-8")
        (folder / "evaluation.md").write_text(self.to_markdown(), encoding="utf-8")


def claim_cells(row: Row) -> list[str]:
    """A row's cells under `HEADS`."""
    baseline = f"{number(row.baseline, row.unit)} ({row.baseline_is})" if row.baseline is not None else ""
    people = str(row.people) if row.people else ""
    return [row.claim, row.measure, row.told, baseline, people, row.bar, row.verdict]


def method_cells(scores: Scores) -> list[str]:
    """A method's cells under `METHOD_HEADS`."""
    return [
        scores.method,
        _estimate(scores.clip_i_fidelity),
        _estimate(scores.id_similarity),
        _estimate(scores.clip_i_editing),
        _estimate(scores.clip_t),
        f"{scores.faceless} of {scores.pictures}",
        f"{scores.preprocess_ms:,.0f}",
        f"{scores.inference_ms:,.0f}",
    ]


def _estimate(estimate: Estimate | None) -> str:
    return "-" if estimate is None else f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _facts(about: Mapping[str, Any]) -> str:
    return "\n".join(f"- {name.replace('_', ' ')}: {value}" for name, value in about.items()) + "\n"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines) + "\n"


def _notes(rows: Sequence[Row]) -> str:
    noted = [f"- {row.measure.strip()}: {row.note}" for row in rows if row.note]
    return "Notes:\n\n" + "\n".join(noted) + "\n" if noted else ""


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if abs(data) < float("inf") else None
    if isinstance(data, Mapping):
        return {name: _finite(value) for name, value in data.items()}
    return [_finite(value) for value in data] if isinstance(data, list | tuple) else data

"""A row of the table: one number with its baseline, its interval over people, and the bar that it has to reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from hyperlora.evaluation.statistics import Estimate

Unit = Literal["share", "cosine", "ratio", "ms"]


@dataclass(frozen=True)
class Row:
    """One measurement.

    Parameters
    ----------
    claim, measure
        Which claim it belongs to, and what was measured.
    unit
        "share" (0 to 1), "cosine", "ratio" or "ms".
    value, low, high
        The number and its 95 % interval; None where it was not measured, and `note` says why.
    baseline, baseline_is
        What it is compared with, and what that is.
    people
        How many persons it rests on.
    bar, reached
        What has to be reached, in words, and whether it is; None without a bar or a value.
    note
        What a reader must know.
    """

    claim: str
    measure: str
    unit: Unit = "cosine"
    value: float | None = None
    low: float | None = None
    high: float | None = None
    baseline: float | None = None
    baseline_is: str = ""
    people: int = 0
    bar: str = ""
    reached: bool | None = None
    note: str = ""

    @property
    def told(self) -> str:
        """Value and interval as text."""
        if self.value is None:
            return "not measured"
        if self.low is None or self.high is None:
            return number(self.value, self.unit)
        return f"{number(self.value, self.unit)} [{number(self.low, self.unit)}, {number(self.high, self.unit)}]"

    @property
    def verdict(self) -> str:
        """What came of the bar, in a word."""
        return {None: "", True: "reached", False: "missed"}[self.reached]


def measured(claim: str, measure: str, unit: Unit, estimate: Estimate, **more: Any) -> Row:
    """A row with an estimate's numbers."""
    return Row(claim, measure, unit, estimate.value, estimate.low, estimate.high, people=estimate.people, **more)


def not_measured(claim: str, measure: str, why: str, *, unit: Unit = "cosine", bar: str = "") -> Row:
    """A row that says why there is no number."""
    return Row(claim, measure, unit, bar=bar, note=why)


def number(value: float | None, unit: Unit) -> str:
    """A number as the table writes it."""
    if value is None:
        return ""
    return {"share": f"{value:.1%}", "cosine": f"{value:.3f}", "ratio": f"{value:.2f}", "ms": f"{value:,.1f} ms"}[unit]


@dataclass(frozen=True)
class ClaimResult:
    """One claim's rows, what its plot shows (name -> numbers), and the seconds it took."""

    claim: str
    rows: tuple[Row, ...]
    series: Mapping[str, Sequence[float]] = field(default_factory=dict)
    seconds: float = 0.0

    def to_data(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "claim": self.claim,
            "rows": [asdict(row) for row in self.rows],
            "series": {name: list(values) for name, values in self.series.items()},
            "seconds": round(self.seconds, 2),
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> ClaimResult:
        """From JSON. Raises `KeyError` or `TypeError` for something else."""
        rows = tuple(Row(**row) for row in data["rows"])
        return cls(data["claim"], rows, dict(data["series"]), float(data["seconds"]))

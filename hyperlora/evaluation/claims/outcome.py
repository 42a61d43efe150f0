"""What a claim's measurement gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hyperlora.evaluation.grids import Grid
from hyperlora.evaluation.rows import Row


@dataclass(frozen=True, eq=False)
class Outcome:
    """Rows of the table, numbers for a plot, and pictures to look at by file name."""

    rows: Sequence[Row]
    series: Mapping[str, Sequence[float]] = field(default_factory=dict)
    grids: Mapping[str, Grid] = field(default_factory=dict)

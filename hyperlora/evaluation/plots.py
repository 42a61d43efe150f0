"""Plots of the claims that are curves or groups of bars; matplotlib, from the extra `evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperlora.evaluation.rows import ClaimResult
from hyperlora.evaluation.shots import SLOTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, SOFT, WARM, COOL = "#26231e", "#b9b2a7", "#c2562f", "#2f6f8f"
Series = Mapping[str, Sequence[float]]


def write_plots(results: Sequence[ClaimResult], folder: Path) -> list[Path]:
    """A PNG for each claim that has something to plot; answers with the files."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for result in results:
        if result.claim not in _PLOTS or not result.series:
            continue
        figure = Figure(figsize=(6.4, 4.0), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        _PLOTS[result.claim](axes, result.series)
        file = folder / f"plot-{result.claim}.png"
        figure.savefig(file, metadata={"Software": None})
        files.append(file)
    return files


def _photos(axes: Axes, series: Series) -> None:
    counts = [f"{count:g}" for count in series["photos"]]
    axes.plot(counts, series["similarity"], "o-", color=WARM, label="ID similarity")
    axes.plot(counts, series["rank-1"], "s--", color=COOL, label="rank-1")
    _finish(axes, "Several photos beat one", "photos", "")


def _interpolation(axes: Axes, series: Series) -> None:
    axes.plot(series["t"], series["to A"], "o-", color=WARM, label="to A")
    axes.plot(series["t"], series["to B"], "o-", color=COOL, label="to B")
    _finish(axes, "From one person to another", "t", "ID similarity")


def _text(axes: Axes, series: Series) -> None:
    kinds = (("drawn", SOFT), ("without", COOL), ("with", WARM))
    for offset, (kind, colour) in enumerate(kinds):
        places = [place + (offset - 1) * 0.27 for place in range(len(SLOTS))]
        told = {"drawn": "drawn portraits", "without": "without LoRA", "with": "with ID-LoRA"}[kind]
        axes.bar(places, series[kind], 0.25, color=colour, label=told)
    axes.set_xticks(range(len(SLOTS)), [slot.replace("_", "\n") for slot in SLOTS])
    axes.set_ylim(0, 1.02)
    _finish(axes, "Text still rules", "", "accuracy")


def _refine(axes: Axes, series: Series) -> None:
    ways = list(series)
    means = [sum(series[way]) / len(series[way]) for way in ways]
    axes.bar(ways, means, 0.6, color=[SOFT, WARM, COOL, COOL])
    _finish(axes, "The emitted LoRA is a good start", "", "ID similarity")


def _finish(axes: Axes, title: str, below: str, beside: str) -> None:
    axes.set_title(title, loc="left", color=INK)
    axes.set_xlabel(below)
    axes.set_ylabel(beside)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)


_PLOTS: dict[str, Callable[[Any, Series], None]] = {
    "photos": _photos,
    "interpolation": _interpolation,
    "text": _text,
    "refine": _refine,
}

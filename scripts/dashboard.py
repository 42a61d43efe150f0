"""Write docker/grafana/dashboards/portraits.json: `python scripts/dashboard.py [--check]`.

A dashboard's JSON is mostly boilerplate; what is ours of it, a title, a question in PromQL and a unit for each panel,
stands here, so that it can be read and reviewed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TARGET = Path(__file__).resolve().parents[1] / "docker" / "grafana" / "dashboards" / "portraits.json"
SOURCE = {"type": "prometheus", "uid": "prometheus"}
RATE = "$__rate_interval"
WIDTH = 24


@dataclass(frozen=True)
class Panel:
    """One panel: questions in PromQL, each with the legend of its series."""

    title: str
    told: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    stacked: bool = False
    most: float | None = None


def _share(part: str, whole: str) -> str:
    return f"{part} / ({whole} > 0)"


def _rate(metric: str, by: str = "") -> str:
    return f"sum{f' by ({by})' if by else ''} (rate({metric}[{RATE}]))"


def _quantile(share: float, metric: str, by: str = "") -> str:
    inner = f"sum by (le{f', {by}' if by else ''}) (rate({metric}_bucket[{RATE}]))"
    return f"histogram_quantile({share}, {inner})"


DEVICE = "portraits_device_seconds_total"
ROWS: dict[str, tuple[Panel, ...]] = {
    "Now": (
        Panel(
            "Pictures that wait",
            "Open pictures of every profile; what is paused or put off is not counted.",
            (('sum(max by (profile, state) (portraits_queue_pictures{state=~"ready|leased|expired"}))', ""),),
            kind="stat",
            width=4,
            height=4,
        ),
        Panel(
            "Oldest wait",
            "For how long the oldest due unit has waited.",
            (("max(portraits_queue_oldest_ready_seconds)", ""),),
            "s",
            kind="stat",
            width=4,
            height=4,
        ),
        Panel(
            "Images a second",
            "Recorded pictures of the whole fleet.",
            ((_rate('portraits_images_total{outcome="recorded"}'), ""),),
            kind="stat",
            width=4,
            height=4,
        ),
        Panel(
            "Time left",
            "Open pictures at the present rate; without a rate, nothing.",
            (
                (
                    'sum(max by (profile, state) (portraits_queue_pictures{state=~"ready|leased|expired"})) / ('
                    + _rate('portraits_images_total{outcome="recorded"}')
                    + " > 0)",
                    "",
                ),
            ),
            "s",
            kind="stat",
            width=4,
            height=4,
        ),
        Panel(
            "Device idle",
            "Of the time from a shift's first batch to its last, that between batches.",
            ((_share(_rate(DEVICE + '{doing="between"}'), _rate(DEVICE + '{doing=~"drawing|between"}')), ""),),
            "percentunit",
            kind="stat",
            width=4,
            height=4,
        ),
        Panel(
            "Workers",
            "Those at work or ready for it.",
            (('sum(max by (state) (portraits_workers{state=~"working|starting|idle"}))', ""),),
            kind="stat",
            width=4,
            height=4,
        ),
    ),
    "Queue": (
        Panel(
            "Units by state",
            "Ready, put off until later, held, held by a worker that fell silent, paused.",
            (("sum by (state) (max by (profile, state) (portraits_queue_units))", "{{state}}"),),
            stacked=True,
        ),
        Panel(
            "Oldest due unit",
            "By profile: one that grows has no worker.",
            (("max by (profile) (portraits_queue_oldest_ready_seconds)", "{{profile}}"),),
            "s",
        ),
        Panel(
            "Claim latency",
            "From a unit's being ready to its claim.",
            (
                (_quantile(0.5, "portraits_claim_latency_seconds"), "half"),
                (_quantile(0.95, "portraits_claim_latency_seconds"), "95 %"),
            ),
            "s",
        ),
    ),
    "Pictures": (
        Panel(
            "Images a second",
            "By what became of them.",
            ((_rate("portraits_images_total", "outcome"), "{{outcome}}"),),
            stacked=True,
        ),
        Panel(
            "Failures by reason",
            "Codes as the rows and the docs name them.",
            ((_rate("portraits_image_failures_total", "code"), "{{code}}"),),
            stacked=True,
        ),
        Panel(
            "ID similarity",
            "Of recorded pictures whose face was found.",
            (
                (_quantile(0.5, "portraits_id_similarity"), "half"),
                (_quantile(0.1, "portraits_id_similarity"), "lowest tenth"),
            ),
            "percentunit",
        ),
    ),
    "Devices": (
        Panel(
            "What devices do",
            "Seconds a second: drawing, between batches, before the first.",
            ((_rate(DEVICE, "doing"), "{{doing}}"),),
            stacked=True,
        ),
        Panel(
            "Seconds of a picture by stage",
            "The mean share of a recorded picture; upload and commit run beside the drawing.",
            (
                (
                    _share(
                        _rate("portraits_stage_seconds_sum", "stage"), _rate("portraits_stage_seconds_count", "stage")
                    ),
                    "{{stage}}",
                ),
            ),
            "s",
            stacked=True,
        ),
        Panel(
            "How full batches are",
            "Pictures for each place.",
            (
                (
                    _share(_rate("portraits_batch_pictures_total"), _rate("portraits_batch_places_total")),
                    "full",
                ),
                (
                    _share(_rate('portraits_batches_total{mixed="yes"}'), _rate("portraits_batches_total")),
                    "of several people",
                ),
            ),
            "percentunit",
            most=1.0,
        ),
        Panel(
            "Weight sets",
            "Where they came from: generated is once a person, memory and storage are hits.",
            ((_rate("portraits_weight_sets_total", "source"), "{{source}}"),),
            stacked=True,
        ),
        Panel(
            "Seconds to have a weight set",
            "The mean by where it came from.",
            (
                (
                    _share(
                        _rate("portraits_weight_set_seconds_sum", "source"),
                        _rate("portraits_weight_set_seconds_count", "source"),
                    ),
                    "{{source}}",
                ),
            ),
            "s",
        ),
        Panel(
            "A batch",
            "Drawing one.",
            (
                (_quantile(0.5, "portraits_batch_seconds"), "half"),
                (_quantile(0.95, "portraits_batch_seconds"), "95 %"),
            ),
            "s",
        ),
    ),
    "Trouble": (
        Panel(
            "Out of memory, retries, losses",
            "How often within an hour.",
            (
                ("sum by (what) (increase(portraits_out_of_memory_total[1h]))", "out of memory: {{what}}"),
                ("sum by (code) (increase(portraits_retries_total[1h]))", "tried again: {{code}}"),
                ("sum(increase(portraits_lease_losses_total[1h]))", "leases lost"),
                ("sum(increase(portraits_suspected_claims_total[1h]))", "claimed after a lost worker"),
                ("sum by (outcome) (increase(portraits_units_reaped_total[1h]))", "reaped: {{outcome}}"),
            ),
        ),
        Panel(
            "Workers by state",
            "Those that gave a sign of life within an hour.",
            (("max by (state) (portraits_workers)", "{{state}}"),),
            stacked=True,
        ),
        Panel(
            "Webhooks and galleries",
            "Deliveries that are not done, and galleries to be made.",
            (
                ("max by (state) (portraits_deliveries)", "deliveries {{state}}"),
                ("max(portraits_galleries_due)", "galleries due"),
            ),
        ),
    ),
}


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    return {
        "uid": "portraits",
        "title": "Portraits",
        "tags": ["portraits"],
        "timezone": "browser",
        "schemaVersion": 41,
        "version": 1,
        "editable": False,
        "refresh": "15s",
        "time": {"from": "now-3h", "to": "now"},
        "panels": list(_panels()),
    }


def _panels() -> Iterator[dict[str, Any]]:
    top, number = 0, 0
    for title, panels in ROWS.items():
        number += 1
        place = {"x": 0, "y": top, "w": WIDTH, "h": 1}
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
        top, left = top + 1, 0
        for panel in panels:
            number += 1
            if left + panel.width > WIDTH:
                top, left = top + panel.height, 0
            yield _panel(panel, number, {"x": left, "y": top, "w": panel.width, "h": panel.height})
            left += panel.width
        top += panels[-1].height


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    custom = {"fillOpacity": 25 if panel.stacked else 8, "showPoints": "never", "lineWidth": 1}
    custom["stacking"] = {"mode": "normal" if panel.stacked else "none", "group": "A"}  # type: ignore[assignment]
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0, "custom": custom if panel.kind == "timeseries" else {}}
    if panel.most is not None:
        defaults["max"] = panel.most
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.told,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _options(panel),
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": SOURCE, "expr": expression, "legendFormat": legend}
            for place, (expression, legend) in enumerate(panel.queries)
        ],
    }


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "graphMode": "area"}
    return {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}


def text() -> str:
    """The whole file."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        if not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text():
            sys.exit(f"{TARGET} is not what {Path(__file__).name} says; run it")
    else:
        TARGET.write_text(text(), encoding="utf-8")

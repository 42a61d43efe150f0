"""What a worker counts, for Prometheus.

Nothing is labelled by tenant, job or person: their number has no bound. A profile is one of the worker's own, and a
reason is the code of one of our errors. The child that draws counts into files of the worker's run folder, and its
parent, which outlives it, answers with the sums: so a killed child takes no count with it.

Import this module only where `PROMETHEUS_MULTIPROC_DIR` is set, or nobody will read what is counted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from jobs.repository.renders import Drawn as DrawnRow
from jobs.repository.renders import WaitingRender
from jobs.repository.units import ClaimedUnit
from worker.errors import INTERNAL, code_of
from worker.telemetry.events import BatchDrawn, Observer, Outcome, stages_of

if TYPE_CHECKING:
    from worker.shift import ShiftReport
    from worker.weight_making import Weights

WAITS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14_400, 86_400)
STAGES = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)
SIMILARITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
MOST_CODES = 100
_CODE = re.compile(r"[a-z0-9_]{1,64}")


class Counts:
    """The instruments; a process makes them once."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, told: str, *labels: str) -> Counter:
            return Counter(f"portraits_{name}", told, labels, registry=registry)

        def seconds(name: str, told: str, buckets: Sequence[float], *labels: str) -> Histogram:
            return Histogram(f"portraits_{name}", told, labels, buckets=buckets, registry=registry)

        self.claimed = counter("units_claimed", "Units that were leased to this worker.")
        self.waited = seconds("claim_latency_seconds", "From a unit's being ready to its claim.", WAITS)
        self.suspected = counter("suspected_claims", "Claims of units that a worker was lost with.")
        self.settled = counter("units_settled", "Units that left this worker's hands, and how.", "outcome")
        self.retries = counter("retries", "Units that are tried again later, by the reason.", "code")
        self.lost = counter("lease_losses", "Units whose lease this worker lost to somebody else.")
        self.reaped = counter("units_reaped", "Units of lost workers that this worker's reaper saw to.", "outcome")
        self.images = counter("images", "Pictures: recorded, put aside until the store answers, or failed.", "outcome")
        self.failures = counter("image_failures", "Renders that ended without a picture, by the reason.", "code")
        self.stages = seconds("stage_seconds", "A recorded picture's share of each stage.", STAGES, "stage")
        self.similarity = seconds("id_similarity", "ID similarity of recorded pictures.", SIMILARITIES)
        self.device = counter("device_seconds", "The device's time in shifts: drawing, between, before.", "doing")
        self.batches = counter("batches", "Batches that were drawn; mixed ones hold several people.", "mixed")
        self.pictures = counter("batch_pictures", "Pictures of all batches, follow-ups included.")
        self.places = counter("batch_places", "Pictures that these batches could have held.")
        self.batch_seconds = seconds("batch_seconds", "Drawing one batch.", STAGES)
        self.weight_sets = counter("weight_sets", "Weight sets that were made ready, by where from.", "source")
        self.weights_seconds = seconds("weight_set_seconds", "Making a weight set ready.", STAGES, "source")
        self.memory = counter("out_of_memory", "Batches, or people's photos, that did not fit.", "what")
        self.shifts = counter("shifts", "Shifts that ended.")
        self.info = Gauge(
            "portraits_profile_ready",
            "The profile that this worker can draw with: 1; another that it had before: 0.",
            ("profile", "device"),
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        self.loading = Gauge(
            "portraits_profile_load_seconds",
            "What loading and warming the profile took last.",
            ("stage",),
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """Every value that is known beforehand is there from the start: a rate needs a first point."""
        for settled in get_args(get_args(Outcome)[0]) + get_args(get_args(Outcome)[1]):
            self.settled.labels(settled)
        for reasons in (self.retries, self.failures):
            reasons.labels(INTERNAL)
        for outcome in ("handed back", "given up"):
            self.reaped.labels(outcome)
        for outcome in ("recorded", "put aside", "failed"):
            self.images.labels(outcome)
        for source in ("memory", "storage", "generated"):
            self.weight_sets.labels(source)
            self.weights_seconds.labels(source)
        for doing in ("drawing", "between", "before"):
            self.device.labels(doing)
        for what in ("batch", "people"):
            self.memory.labels(what)
        for mixed in ("yes", "no"):
            self.batches.labels(mixed)


class Metrics(Observer):
    """Counts what it is told."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._codes: set[str] = set()
        self._seen = (0.0, 0.0, 0.0)
        self._ready: tuple[str, str] | None = None

    def ready(self, profile: str, device: str, seconds_loading: float, seconds_warming: float) -> None:
        if self._ready is not None:
            self._counts.info.labels(*self._ready).set(0)
        self._ready = (profile, device)
        self._counts.info.labels(*self._ready).set(1)
        self._counts.loading.labels("loading").set(seconds_loading)
        self._counts.loading.labels("warming").set(seconds_warming)

    def shift_began(self, profile: str) -> None:
        self._seen = (0.0, 0.0, 0.0)

    def claimed(self, units: Sequence[ClaimedUnit]) -> None:
        self._counts.claimed.inc(len(units))
        for unit in units:
            if unit.is_suspected:  # it has been ready since before it was drawn
                self._counts.suspected.inc()
            else:
                self._counts.waited.observe(max(0.0, unit.waited_seconds))

    def weights_ready(self, tenant: str, weights: Weights) -> None:
        self._counts.weight_sets.labels(weights.source).inc()
        self._counts.weights_seconds.labels(weights.source).observe(weights.seconds)

    def out_of_memory(self, what: Literal["batch", "people"], pictures: int) -> None:
        self._counts.memory.labels(what).inc()

    def batch_drawn(self, batch: BatchDrawn) -> None:
        counts, pictures = self._counts, len(batch.renders)
        counts.batches.labels("yes" if batch.mixed else "no").inc()
        counts.pictures.inc(pictures)
        counts.places.inc(max(batch.places, pictures))
        counts.batch_seconds.observe(batch.seconds)
        now = (batch.shift.seconds_drawing, batch.shift.seconds_between, batch.shift.seconds_before)
        for doing, later, sooner in zip(("drawing", "between", "before"), now, self._seen, strict=True):
            counts.device.labels(doing).inc(max(0.0, later - sooner))
        self._seen = now

    def picture_recorded(self, render: WaitingRender, row: DrawnRow, seconds_commit: float) -> None:
        self._counts.images.labels("recorded").inc()
        for stage, seconds in stages_of(row, seconds_commit).items():
            self._counts.stages.labels(stage).observe(seconds)
        if row.id_similarity is not None:
            self._counts.similarity.observe(row.id_similarity)

    def picture_put_aside(self, render: WaitingRender) -> None:
        self._counts.images.labels("put aside").inc()

    def picture_failed(self, render: WaitingRender, error: Exception) -> None:
        self._failed(1, error)

    def pictures_failed(self, unit: ClaimedUnit, count: int, error: Exception) -> None:
        self._failed(count, error)

    def _failed(self, count: int, error: Exception) -> None:
        self._counts.images.labels("failed").inc(count)
        self._counts.failures.labels(self._code(error)).inc(count)

    def unit_settled(self, unit: ClaimedUnit, outcome: Outcome, error: Exception | None) -> None:
        self._counts.settled.labels(outcome).inc()
        if outcome == "retried" and error is not None:
            self._counts.retries.labels(self._code(error)).inc()
        if outcome == "lost":
            self._counts.lost.inc()

    def shift_ended(self, report: ShiftReport | None) -> None:
        self._counts.shifts.inc()

    def reaped(self, handed_back: int, given_up: int) -> None:
        self._counts.reaped.labels("handed back").inc(handed_back)
        self._counts.reaped.labels("given up").inc(given_up)

    def _code(self, error: Exception) -> str:
        """The error's code; the rest together, should there ever be more than anybody has written."""
        code = code_of(error)
        if code not in self._codes and (len(self._codes) >= MOST_CODES or not _CODE.fullmatch(code)):
            return "other"
        self._codes.add(code)
        return code

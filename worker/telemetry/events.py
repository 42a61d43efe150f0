"""The life of a unit in a worker, as a list of moments; whoever wants to know of one is an observer.

Drawing knows nothing of metrics, traces, logs or health: it tells an `Observer`, whose methods do nothing. Read from
top to bottom, they are what happens: a profile is loaded, a shift begins, units are claimed, weights are made ready,
batches are drawn, pictures recorded, units settled, the shift ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jobs.repository.renders import Drawn as DrawnRow
from jobs.repository.renders import WaitingRender
from jobs.repository.units import Became, ClaimedUnit

if TYPE_CHECKING:
    from worker.drawn import Drawn
    from worker.shift import ShiftReport
    from worker.weight_making import Weights

log = logging.getLogger(__name__)
Outcome = Became | Literal["retried", "handed back", "put off", "left"]
"""What became of a unit here: besides how it ended, tried again later, handed back, put off, or left to its lease."""


@dataclass(frozen=True)
class BatchDrawn:
    """A batch that came out: the pictures' renders, how many it could have held, and its shift's seconds so far."""

    renders: Sequence[WaitingRender]
    places: int
    mixed: bool
    seconds: float
    shift: Drawn

    @property
    def units(self) -> list[ClaimedUnit]:
        """The units that had a picture in it, each once."""
        return list({render.unit.id: render.unit for render in self.renders}.values())


class Observer:
    """Is told what happens, by whichever thread it happens in, and does nothing about it; subclasses do."""

    def loading(self, profile: str) -> None:
        """A profile is being loaded and warmed; nothing is claimed."""

    def ready(self, profile: str, device: str, seconds_loading: float, seconds_warming: float) -> None:
        """The profile can be drawn with."""

    def shift_began(self, profile: str) -> None:
        """A shift looks for units of this profile."""

    def claimed(self, units: Sequence[ClaimedUnit]) -> None:
        """These units of one person are leased to this worker."""

    def weights_ready(self, tenant: str, weights: Weights) -> None:
        """A weight set is at hand: from memory, from storage, or generated just now."""

    def prepared(self, units: Sequence[ClaimedUnit], seconds: float, error: Exception | None) -> None:
        """Everything these units need is at hand, after so many seconds, or cannot be had."""

    def out_of_memory(self, what: Literal["batch", "people"], pictures: int) -> None:
        """A batch of so many pictures, or one person's photos, did not fit into the device's memory."""

    def batch_began(self, pictures: int) -> None:
        """A batch of so many pictures goes into the device."""

    def batch_drawn(self, batch: BatchDrawn) -> None:
        """A batch came out of the device; its pictures are looked at next."""

    def picture_recorded(self, render: WaitingRender, row: DrawnRow, seconds_commit: float) -> None:
        """A picture lies in the store and its row says so."""

    def picture_put_aside(self, render: WaitingRender) -> None:
        """A picture waits on this machine's disk, as store or database are away."""

    def picture_failed(self, render: WaitingRender, error: Exception) -> None:
        """A render ends without a picture, and its row says why."""

    def pictures_failed(self, unit: ClaimedUnit, count: int, error: Exception) -> None:
        """So many renders of a unit end without a picture, all for the same reason, as the unit itself failed."""

    def unit_settled(self, unit: ClaimedUnit, outcome: Outcome, error: Exception | None) -> None:
        """Nothing more becomes of this unit here."""

    def alive(self) -> None:
        """The leases in hand were prolonged, and nothing stands still."""

    def stands_still(self, reason: str) -> None:
        """Something has not moved for longer than it may: the leases are left to run out."""

    def shift_ended(self, report: ShiftReport | None) -> None:
        """The shift is over; None where it ended in an error or never began to claim."""

    def drained(self) -> None:
        """This worker was asked to drain, and holds nothing any more."""

    def reaped(self, handed_back: int, given_up: int) -> None:
        """So many units of lost workers wait again, so many are given up; told by the parent."""


NOBODY = Observer()


class Observers(Observer):
    """Several observers as one; what one of them raises is logged, and hurts neither the others nor a picture."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def _tell(self, name: str, *told: Any) -> None:
        for observer in self._observers:
            try:
                getattr(observer, name)(*told)
            except Exception:
                log.exception("%s did not take note of %r", type(observer).__name__, name)


def _passed_on(name: str) -> Callable[..., None]:
    def tell(self: Observers, *told: Any) -> None:
        self._tell(name, *told)

    return tell


EVENTS = tuple(name for name in vars(Observer) if not name.startswith("_"))
for _name in EVENTS:
    setattr(Observers, _name, _passed_on(_name))


def ids_of(unit: ClaimedUnit) -> Mapping[str, object]:
    """What a log line or a span about this unit says."""
    return {"tenant": unit.tenant_id, "job": unit.job_id, "unit": unit.id, "identity": unit.identity_id}


def stages_of(row: DrawnRow, seconds_commit: float) -> Mapping[str, float]:
    """What each stage took of a recorded picture, in seconds, in the order in which they come."""
    stages = {name: getattr(row, f"seconds_{name}") for name in ("weights", "merge", "denoise", "decode")}
    stages |= {"detail": row.seconds_detail, "finish": row.seconds_finish, "encode": row.seconds_encode}
    stages |= {"upload": row.seconds_upload, "commit": seconds_commit}
    return {stage: seconds for stage, seconds in stages.items() if seconds is not None}

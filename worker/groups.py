"""The units of one person in this worker's hands, with all that drawing them needs."""

from __future__ import annotations

from dataclasses import dataclass, field

from jobs.repository.renders import WaitingRender
from jobs.repository.units import ClaimedUnit
from worker.cast import Cast
from worker.samples import Samples


@dataclass(eq=False)
class Group:
    """One person's units; `fault` where what drawing needs could not be had, or drawing met one.

    `cast` and `samples` are None where nothing is to be drawn.
    """

    units: list[ClaimedUnit]
    waiting: list[WaitingRender] = field(default_factory=list)
    cast: Cast | None = None
    samples: Samples | None = None
    fault: Exception | None = None
    is_settled: bool = False

    @property
    def is_suspected(self) -> bool:
        """Whether a worker was lost with it: it may be what ended that one, so nothing else is held beside it."""
        return any(unit.is_suspected for unit in self.units)

    @property
    def seconds_weights(self) -> float:
        """Each picture's share of the time that the weights took."""
        return 0.0 if self.cast is None else self.cast.seconds / max(1, len(self.waiting))

    def let_go(self) -> None:
        """Nothing more is drawn: the weights and the given pictures need not be held until the units are settled."""
        self.waiting, self.cast, self.samples = [], None, None

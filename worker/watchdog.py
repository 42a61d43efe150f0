"""Notices work that stands still, so that no heartbeat keeps a hung device's units for ever.

Whatever may hang in a driver (drawing, weights, a look at a finished picture) is a stage, and every denoising step is a
sign of progress. How long a stage may go without one follows from what it took before: twenty times the longest pause
seen with the same shape, at least `LEAST_SECONDS`; before anything was measured, and never more than,
`PORTRAITS_STALL_SECONDS`. Who stands still longer is not waited for: see `worker.leases`.

One device does one thing at a time, so a stage may wait for another: as long as any goes on, none stands still. What
hangs while others go on is noticed when they are done: drawing waits for the looks at its pictures before long.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from worker.renderer import Batch, GeneratedWeights, Order, Renderer, Sample, Setting

PATIENCE = 20.0
LEAST_SECONDS = 60.0
# What the renderer does in one go, without telling of steps, on a device or on a long way through a native library; of
# those that look at a picture, its size decides how long they take, and for `upscale` the upscaler.
STAGES = ("generate", "apply", "load", "keypoints")
LOOKS = ("faces", "small_faces", "similarity", "most_alike", "refusal", "upscale", "face_mask")


class Stage:
    """Something under way: `step` tells that it goes on."""

    def __init__(self, what: str, kind: Hashable, now: float) -> None:
        self.what, self.kind, self.since, self.longest = what, kind, now, 0.0

    def step(self, now: float) -> None:
        """Note a sign of progress."""
        self.longest, self.since = max(self.longest, now - self.since), now


class Watchdog:
    """What is under way in this process, by any thread, and how long each may stand still."""

    def __init__(
        self,
        stall_seconds: float,
        *,
        least_seconds: float = LEAST_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most, self._least, self._clock = stall_seconds, min(least_seconds, stall_seconds), clock
        self._lock = threading.Lock()
        self._stages: set[Stage] = set()
        self._progress = clock()
        self._longest: dict[tuple[str, Hashable], float] = {}

    @contextmanager
    def stage(self, what: str, kind: Hashable = None) -> Iterator[Callable[[], None]]:
        """Watch what is done in this block; yields what is to be called at each sign of progress.

        `kind` is what decides how long it takes, such as a batch's shape. What ends in an error teaches nothing.
        """
        stage = Stage(what, kind, self._clock())
        with self._lock:
            self._stages.add(stage)
        try:
            yield lambda: self._step(stage)
            self._step(stage)
            with self._lock:
                self._longest[what, kind] = max(self._longest.get((what, kind), 0.0), stage.longest)
        finally:
            with self._lock:
                self._stages.discard(stage)
                self._progress = self._clock()

    def _step(self, stage: Stage) -> None:
        with self._lock:
            self._progress = self._clock()
            stage.step(self._progress)

    def limit(self, what: str, kind: Hashable = None) -> float:
        """How long a stage of this kind may stand still now, in seconds."""
        longest = self._longest.get((what, kind))
        return self._most if longest is None else min(self._most, max(self._least, PATIENCE * longest))

    def overdue(self) -> str | None:
        """What stands still for longer than it may, in words; None while everything goes on."""
        now = self._clock()
        with self._lock:
            for stage in self._stages:
                stands, limit = now - max(stage.since, self._progress), self.limit(stage.what, stage.kind)
                if stands > limit:
                    return f"{stage.what!r} stands still for {stands:.0f} s, at most {limit:.0f} s"
        return None


class Watched:
    """A renderer of which everything that takes long is a stage; the rest is its own."""

    def __init__(self, renderer: Renderer, watchdog: Watchdog) -> None:
        self._renderer, self._watchdog = renderer, watchdog

    @classmethod
    def of(cls, renderer: Renderer, watchdog: Watchdog) -> Renderer:
        """This renderer, watched."""
        return cast(Renderer, cls(renderer, watchdog))

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._renderer, name)
        if name not in STAGES and name not in LOOKS:
            return found

        def watched(*args: Any, **named: Any) -> Any:
            kind = (args[0].size, *(args[1:] if name == "upscale" else ())) if name in LOOKS else None
            with self._watchdog.stage(name, kind):
                return found(*args, **named)

        return watched

    def generate_many(self, orders: Sequence[Order]) -> Sequence[GeneratedWeights | Exception]:
        """As the renderer does; how long it takes depends on the number of photos."""
        photos = sum(len(person.photos) for order in orders for person in order.people)
        with self._watchdog.stage("generate", photos):
            return self._renderer.generate_many(orders)

    def draw(
        self,
        samples: Sequence[Sample],
        setting: Setting,
        *,
        stacks: Sequence[Sequence[tuple[Any, float]]] | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Batch:
        """As the renderer does; every step counts as progress, and so do both ends."""
        controls = tuple(name for name, *_ in setting.controls)
        is_guided = any(sample.guidance > 1 for sample in samples)
        kind = (len(samples), setting.width, setting.height, controls, is_guided, stacks is not None)
        with self._watchdog.stage("draw", kind) as tell:

            def step(number: int, steps: int) -> None:
                tell()
                if on_step is not None:
                    on_step(number, steps)

            return self._renderer.draw(samples, setting, stacks=stacks, on_step=step)

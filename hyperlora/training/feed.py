"""The samples of a process, pass by pass, read one pass ahead."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from hyperlora.training.draws import Dice, Draws

if TYPE_CHECKING:
    from hyperlora.dataset import PortraitBatch, Portraits


class Feed:
    """Joins draws and data.

    A step's samples are dealt out by passes first and processes second, so that every sample of a step is seen once
    whatever their numbers are.
    """

    def __init__(
        self, dataset: Portraits, dice: Dice, *, batch_size: int, passes: int, process: int = 0, processes: int = 1
    ) -> None:
        self._dataset, self._dice = dataset, dice
        self._batch_size, self._passes = batch_size, passes
        self._process, self._processes = process, processes
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="portraits-feed")
        self._ahead: tuple[int, int, Future[tuple[Draws, PortraitBatch]]] | None = None

    def passes(self, step: int) -> Iterator[tuple[Draws, PortraitBatch]]:
        """What this process sees in a step; the next step's first pass is begun to be read meanwhile."""
        for number in range(self._passes):
            if self._ahead is None or self._ahead[:2] != (step, number):
                self._begin(step, number)
            assert self._ahead is not None
            read = self._ahead[2].result()
            last = number + 1 == self._passes
            self._begin(step + 1 if last else step, 0 if last else number + 1)
            yield read

    def close(self) -> None:
        """End the reading thread."""
        self._reader.shutdown(cancel_futures=True)

    def _begin(self, step: int, number: int) -> None:
        self._ahead = (step, number, self._reader.submit(self._read, step, number))

    def _read(self, step: int, number: int) -> tuple[Draws, PortraitBatch]:
        start = (number * self._processes + self._process) * self._batch_size
        draws = self._dice.step(step).rows(start, start + self._batch_size)
        return draws, self._dataset.batch(draws.indices, references=draws.references)

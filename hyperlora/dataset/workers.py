"""Blocks made by several processes beside each other, and how far they are."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from hyperlora.dataset.block import BlockRecord, make_block
from hyperlora.dataset.encoders import EncoderNames, Encoders
from hyperlora.dataset.screen import Rules
from hyperlora.dataset.sources import Source
from hyperlora.errors import DatasetError

_POLL_SECONDS = 0.5

OnPhoto = Callable[[int, int], object]


class Progress:
    """Tells how many photos are done, those of earlier calls included."""

    def __init__(self, on_photo: OnPhoto | None, before: int, total: int) -> None:
        self._on_photo, self._before, self._total = on_photo, before, total
        self._done = 0

    def one(self) -> None:
        """One more is done."""
        self.now(self._done + 1)

    def now(self, done: int) -> None:
        """So many of this call are done."""
        self._done = done
        if self._on_photo is not None:
            self._on_photo(self._before + done, self._total)


def make_together(
    folder: Path,
    blocks: Sequence[Sequence[Source]],
    missing: Sequence[int],
    names: EncoderNames,
    rules: Rules,
    workers: int,
    told: Progress,
) -> dict[int, BlockRecord]:
    """Blocks in processes of their own; each loads the networks once. An error in one ends all.

    Raises `DatasetError` where a process dies.
    """
    # A process that is forked would inherit the locks of torch's and OpenCV's threads.
    spawn = multiprocessing.get_context("spawn")
    counter = spawn.Value("q", 0)
    threads = max(1, (os.cpu_count() or 1) // workers)
    pool = ProcessPoolExecutor(workers, spawn, _start_worker, (names, threads, counter))
    try:
        waiting: set[Future[BlockRecord]] = {
            pool.submit(_block_in_worker, folder, number, blocks[number], rules) for number in missing
        }
        records: dict[int, BlockRecord] = {}
        while waiting:
            done, waiting = wait(waiting, timeout=_POLL_SECONDS, return_when="FIRST_COMPLETED")
            for future in done:
                record = future.result()
                records[record.block] = record
            told.now(int(counter.value))
        return records
    except BrokenProcessPool as fault:
        raise DatasetError(
            "a process ended in the middle of its block, most often for want of memory; the same command with fewer "
            "workers goes on with what is missing"
        ) from fault
    finally:
        pool.shutdown(cancel_futures=True)


_worker: dict[str, Any] = {}


def _start_worker(names: EncoderNames, threads: int, counter: Any) -> None:
    import cv2
    import torch

    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    if names.clip_vision is not None:
        from transformers.utils import logging

        # A bar for each process that loads a few files tells nobody anything.
        silent: Any = logging
        silent.disable_progress_bar()
    _worker["encoders"], _worker["counter"] = Encoders.load(names), counter


def _block_in_worker(folder: Path, number: int, sources: Sequence[Source], rules: Rules) -> BlockRecord:
    counter = _worker["counter"]

    def count() -> None:
        with counter.get_lock():
            counter.value += 1

    return make_block(folder, number, sources, _worker["encoders"], rules, count)

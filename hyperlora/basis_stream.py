"""Tensors of host memory on the device piece by piece, through two buffers.

While one piece is computed with, the next is copied beside it, on a stream of its own where the device is a GPU. So
bases that would take 3 GB of the device take two buffers, and mixing costs what the copy costs.

Shapes: L rows of a tensor, X numbers of a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

BUFFER_BYTES = 64 << 20
"""Of one of the two buffers: large enough for a copy at full rate, small beside everything else."""


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of one of the tensors, on the device until the next piece is asked for."""

    tensor: int
    rows: slice
    data_LX: torch.Tensor


class HostStream:
    """Copies rows to `device` in pieces of at most `buffer_bytes`, or of one row where that is larger."""

    def __init__(self, device: torch.device, buffer_bytes: int = BUFFER_BYTES) -> None:
        self.device, self.buffer_bytes = device, buffer_bytes

    def pieces(self, tensors_LX: Sequence[torch.Tensor]) -> Iterator[Piece]:
        """Every row of all tensors (L, X) of one dtype, in order; each piece is overwritten after the next one.

        Copies run beside the computing only from pinned memory.
        """
        cuts = [
            (number, slice(start, min(start + step, len(tensor_LX))))
            for number, tensor_LX in enumerate(tensors_LX)
            for step in [max(1, self.buffer_bytes // _row_bytes(tensor_LX))]
            for start in range(0, len(tensor_LX), step)
        ]
        room = max((tensors_LX[number][rows].numel() for number, rows in cuts), default=0)
        lane = _Lane(self.device, room, tensors_LX[0].dtype)
        ready = [lane.copy(place, tensors_LX[number][rows]) for place, (number, rows) in enumerate(cuts[:1])]
        for place, (number, rows) in enumerate(cuts):
            if place + 1 < len(cuts):
                following, those = cuts[place + 1]
                ready.append(lane.copy(place + 1, tensors_LX[following][those]))
            yield Piece(number, rows, lane.arrived(ready.pop(0)))
            lane.used(place)


class _Lane:
    """Two buffers on the device and, on a GPU, the stream that fills them and the events that keep the order."""

    def __init__(self, device: torch.device, room: int, dtype: torch.dtype) -> None:
        self._buffers = [torch.empty(room, dtype=dtype, device=device) for _ in range(2)]
        stream: Any = torch.cuda.Stream
        self._side = stream(device) if device.type == "cuda" else None
        self._free: list[torch.cuda.Event | None] = [None, None]
        self._device = device
        if self._side is not None:  # what computes now may still use the memory that the buffers were given
            self._side.wait_stream(torch.cuda.current_stream(device))

    def copy(self, place: int, rows_LX: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event | None]:
        """Begin to fill a buffer as soon as it is free; gives its view and the event that says it is filled."""
        which = place % 2
        view_LX = self._buffers[which][: rows_LX.numel()].view(rows_LX.shape)
        with self._beside():
            free = self._free[which]
            if self._side is not None and free is not None:
                self._side.wait_event(free)
            view_LX.copy_(rows_LX, non_blocking=True)
        return view_LX, None if self._side is None else self._side.record_event()

    def arrived(self, copied: tuple[torch.Tensor, torch.cuda.Event | None]) -> torch.Tensor:
        """Let the computing wait until the buffer is filled."""
        view_LX, filled = copied
        if filled is not None:
            torch.cuda.current_stream(self._device).wait_event(filled)
        return view_LX

    def used(self, place: int) -> None:
        """The computing with this buffer has been asked for: when it is done, the buffer is free."""
        if self._side is not None:
            self._free[place % 2] = torch.cuda.current_stream(self._device).record_event()

    def _beside(self) -> AbstractContextManager[object]:
        return nullcontext() if self._side is None else torch.cuda.stream(self._side)


def _row_bytes(tensor_LX: torch.Tensor) -> int:
    return max(1, tensor_LX.numel() // max(1, len(tensor_LX))) * tensor_LX.element_size()

"""Host memory for what a GPU reads from there, and networks that come to the device only while they are used."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

PICTURES = 4
"""Dimensions of a convolution's weights, whose order in memory is chosen."""


def on_host(tensor: torch.Tensor, *, for_device: torch.device) -> torch.Tensor:
    """A copy in host memory, page-locked where a GPU shall read it, so that copies run beside its computing.

    It lies in the same order as the tensor: channels that come last stay last.
    """
    return torch.empty_like(tensor, device="cpu", pin_memory=for_device.type == "cuda").copy_(tensor)


class Visitor:
    """A network that lives in host memory and visits a device: its weights are copied there, used and let go.

    Nothing is copied back, as inference changes no weight.
    """

    def __init__(self, network: nn.Module, device: torch.device, turn: threading.RLock) -> None:
        """Move the network to host memory. It comes only while nobody else holds `turn`, and holds it meanwhile."""
        self._device, self._turn, self._visits = device, turn, 0
        self._tensors = [*network.parameters(), *network.buffers()]
        with torch.inference_mode(False), torch.no_grad():
            for tensor in self._tensors:
                tensor.data = on_host(tensor.data, for_device=device)
        self._at_home = [tensor.data for tensor in self._tensors]

    def lay_out(self, memory_format: torch.memory_format) -> None:
        """Lay pictures' weights out in this order at home, and so wherever they go from the next visit on."""
        with self._turn, torch.inference_mode(False), torch.no_grad():
            self._at_home = [
                on_host(at_home.contiguous(memory_format=memory_format), for_device=self._device)
                if at_home.ndim == PICTURES
                else at_home
                for at_home in self._at_home
            ]
            if not self._visits:
                self._go()

    @contextmanager
    def visit(self) -> Iterator[None]:
        """On the device while the context is open; contexts may be nested. Out of memory, it is at home again."""
        with self._turn:
            self._visits += 1
            try:
                if self._visits == 1:
                    self._come()
                yield
            finally:
                self._visits -= 1
                if not self._visits:
                    self._go()

    def _come(self) -> None:
        with torch.inference_mode(False), torch.no_grad():
            for tensor, at_home in zip(self._tensors, self._at_home, strict=True):
                tensor.data = at_home.to(self._device, non_blocking=True, copy=True)

    def _go(self) -> None:
        for tensor, at_home in zip(self._tensors, self._at_home, strict=True):
            tensor.data = at_home


_VISITORS: WeakKeyDictionary[nn.Module, Visitor] = WeakKeyDictionary()


def make_visitor(network: nn.Module, device: torch.device, turn: threading.RLock) -> None:
    """From now on the network is on the device only inside `present(network)`."""
    _VISITORS[network] = Visitor(network, device, turn)


def lay_out(network: Any, memory_format: torch.memory_format) -> None:
    """`network.to(memory_format=...)` that lasts: a visitor is laid out at home, where its next visit begins."""
    visitor = _VISITORS.get(network)
    if visitor is None:
        network.to(memory_format=memory_format)
    else:
        visitor.lay_out(memory_format)


def present(network: nn.Module) -> AbstractContextManager[None]:
    """Wherever a network is used: brings it to its device if it is a visitor, and does nothing otherwise."""
    visitor = _VISITORS.get(network)
    return nullcontext() if visitor is None else visitor.visit()

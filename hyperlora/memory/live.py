"""How much memory the tensors of a computation take at most, counted without doing it and without a GPU.

The networks are on PyTorch's meta device, where tensors have shapes and no numbers. Every operation's results are
counted from the moment they are made until nobody holds them, which is what an allocator on a device has to give. What
is not seen: scratch memory inside a kernel, and what an allocator loses between tensors of different sizes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages that operations make, while they are alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0
        self.peak = 0
        self._known: dict[int, weakref.finalize[Any, Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = {storage._cdata for storage in _storages((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            name = storage._cdata
            if name not in given and name not in self._known:
                size = storage.nbytes()
                self._known[name] = weakref.finalize(storage, self._gone, name, size)
                self.bytes += size
                self.peak = max(self.peak, self.bytes)
        return result

    def _gone(self, name: int, size: int) -> None:
        del self._known[name]
        self.bytes -= size


class _FusedAttention(TorchFunctionMode):
    """Attention as GPUs compute it, in one kernel that keeps nothing but its result."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        named = dict(zip(("query", "key", "value"), args, strict=False)) | dict(kwargs or {})
        query, value = named["query"], named["value"]
        return query.new_empty((*query.shape[:-1], value.shape[-1]))


def live_bytes(run: Callable[[], object]) -> int:
    """The most bytes that tensors made by `run` take at one time, its result included."""
    # Inference mode hands tensors past the dispatcher's modes.
    live = _Live()
    with torch.inference_mode(False), torch.no_grad(), _FusedAttention(), live:
        run()
    return live.peak


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [each.untyped_storage() for each in tree_leaves(values) if isinstance(each, torch.Tensor)]

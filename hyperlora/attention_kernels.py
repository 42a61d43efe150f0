"""Which of PyTorch's exact attention kernels is the fastest on a device.

All of them compute the same attention and differ in rounding alone. Which wins depends on card, precision and size, so
it is measured.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

log = logging.getLogger(__name__)
CANDIDATES = (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION)
REPEATS, WARM_UPS = 7, 2


def chosen_kernels(order: Sequence[SDPBackend]) -> AbstractContextManager[Any]:
    """A context in which the first of these that can do a call does it; the device's own choice for an empty list."""
    return sdpa_kernel([*order, SDPBackend.MATH], set_priority=True) if order else nullcontext()


def fastest_first(
    measure: Callable[[SDPBackend], float], candidates: Sequence[SDPBackend] = CANDIDATES
) -> tuple[SDPBackend, ...]:
    """The kernels that can do it, the fastest first; one that `measure` raises RuntimeError for is left out."""
    seconds: dict[SDPBackend, float] = {}
    for kernel in candidates:
        try:
            seconds[kernel] = measure(kernel)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            log.info("attention kernel %s cannot be used here: %s", kernel.name, error)
    return tuple(sorted(seconds, key=seconds.__getitem__))


def measured_kernels(
    device: torch.device, dtype: torch.dtype, *, rows: int, heads: int, tokens: int, width: int
) -> tuple[SDPBackend, ...]:
    """Kernels in order of their measured speed for self-attention of (rows, heads, tokens, width).

    Empty where there is no choice: on a CPU, and in float32, for which only one of them is exact and fast.
    """
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return ()
    q, k, v = torch.randn((3, rows, heads, tokens, width), device=device, dtype=dtype)

    def seconds(kernel: SDPBackend) -> float:
        with sdpa_kernel(kernel):
            for _ in range(WARM_UPS):
                F.scaled_dot_product_attention(q, k, v)
            return statistics.median(_timed(lambda: F.scaled_dot_product_attention(q, k, v)) for _ in range(REPEATS))

    # Events are recorded on the current device's stream, which need not be this device's.
    with torch.cuda.device(device):
        order = fastest_first(seconds)
    log.info("attention kernels, the fastest first: %s", ", ".join(kernel.name for kernel in order))
    return order


def attention_size(unet: Any) -> dict[str, int]:
    """The most expensive self-attention of a UNet of SDXL's kind in a batch of eight pictures with guidance."""
    from diffusers.models.attention_processor import Attention

    module = next(each for each in unet.modules() if isinstance(each, Attention))
    side = max(1, int(unet.config.sample_size) // 2)
    return {"rows": 16, "heads": module.heads, "tokens": side * side, "width": module.inner_dim // module.heads}


def _timed(act: Callable[[], Any]) -> float:
    marks: list[Any] = [torch.cuda.Event(enable_timing=True) for _ in range(2)]  # type: ignore[no-untyped-call]
    begin, end = marks
    begin.record()
    act()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3

"""Linear layers in 8-bit integers: weights scaled by output channel, activations by token, both symmetric.

    y_MO = (q_MI @ w_OI^T) * scale_M1 * scale_O        q = round(x / scale_M1),  scale_M1 = max |x| / 127

Shapes: M tokens, I input features, O output features, N layers of one shape. Sums are exact integers, so what a GPU and
a CPU draw differs by no more than float32 does.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from hyperlora.errors import LossyMismatch

DTYPE = torch.int8
MULTIPLE = 8
LARGEST = 127
LEAST_CAPABILITY = (7, 5)

_LEAST_ROWS = 17
"""torch's product of integers takes no fewer rows on a GPU."""
_EXACT = 1 << 10
"""Features whose products, at most 127 * 127 each, float32 adds up without rounding: 1040, of which a power of two."""


def require_device(device: torch.device) -> None:
    """Raise `LossyMismatch` where the device multiplies no 8-bit integers."""
    if device.type == "cuda":
        found = torch.cuda.get_device_capability(device)
        if found < LEAST_CAPABILITY:
            raise LossyMismatch(
                f"int8 linears need a GPU of compute capability 7.5 (Turing) or above, found {found[0]}.{found[1]}; "
                "leave `linears` out"
            )
    elif device.type != "cpu":
        raise LossyMismatch(f"int8 linears run on CUDA and on a CPU, found {device.type}; leave `linears` out")


def quantise(weights_NOI: torch.Tensor, into_NOI: torch.Tensor, scales_NO: torch.Tensor) -> None:
    """Write integers and scales over what is there; addresses stay."""
    scales_NO.copy_(_scale(weights_NOI))
    scratch_NOI = weights_NOI / scales_NO[..., None]
    into_NOI.copy_(scratch_NOI.round_().clamp_(-LARGEST, LARGEST))


def linear(
    x: torch.Tensor, weight_OI: torch.Tensor, scale_O: torch.Tensor, bias_O: torch.Tensor | None
) -> torch.Tensor:
    """(..., I) to (..., O), in the dtype of x."""
    # In rows, as the products want them: what is pointwise keeps the order that a tensor has in memory.
    x_MI = x.reshape(-1, x.shape[-1]).contiguous()
    scale_M1 = _scale(x_MI)[:, None]
    q_MI = (x_MI / scale_M1).round().clamp(-LARGEST, LARGEST).to(DTYPE)
    y_MO = product(q_MI, weight_OI).float() * scale_M1 * scale_O
    if bias_O is not None:
        y_MO = y_MO + bias_O
    return y_MO.to(x.dtype).view(*x.shape[:-1], -1)


def product(q_MI: torch.Tensor, weight_OI: torch.Tensor) -> torch.Tensor:
    """(M, O) whole numbers, in int32 or in float32: exactly those of both integer matrices."""
    if q_MI.device.type == "cpu":
        return _product_by_floats(q_MI, weight_OI)
    rows = q_MI.shape[0]
    if rows < _LEAST_ROWS:
        q_MI = F.pad(q_MI, (0, 0, 0, _LEAST_ROWS - rows))
    return torch._int_mm(q_MI, weight_OI.t())[:rows]


def _product_by_floats(q_MI: torch.Tensor, weight_OI: torch.Tensor) -> torch.Tensor:
    """The same integers by float32 products, in pieces that round nothing.

    torch's own product of integers is a plain loop on CPUs without VNNI: 25 times slower than this.
    """
    if q_MI.shape[1] <= _EXACT:
        return q_MI.float() @ weight_OI.float().t()
    begins = range(0, q_MI.shape[1], _EXACT)
    pieces = [(q_MI[:, begin : begin + _EXACT], weight_OI[:, begin : begin + _EXACT]) for begin in begins]
    sums = [(q.float() @ weight.float().t()).int() for q, weight in pieces]
    return torch.stack(sums).sum(dim=0, dtype=torch.int32)


def _scale(rows: torch.Tensor) -> torch.Tensor:
    """float32, what each row (the last dimension) is divided by; a row of zeros stays one."""
    largest: torch.Tensor = torch.linalg.vector_norm(rows, float("inf"), dim=-1)
    return (largest.float() / LARGEST).clamp_min(torch.finfo(torch.float32).tiny)

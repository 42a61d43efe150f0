"""Linear layers in 8-bit floats (e4m3): weights scaled by output channel, activations by token.

    y_MO = bfloat16((q_MI @ w_OI^T) * scale_M1 * scale_O)        q = e4m3(x / scale_M1),  scale_M1 = max |x| / 448

Shapes: M tokens, I input features, O output features, N layers of one shape. The result is bfloat16, as that is what
GPUs give for scales by row; its rounding, 0.2 % of a number, is far below that of e4m3, 2 %.

`emulated` gives the same numbers, but for the order in which products are added, by float32 products on any device.
"""

from __future__ import annotations

import torch

from hyperlora.errors import LossyMismatch

DTYPE = torch.float8_e4m3fn
MULTIPLE = 16
LARGEST = 448.0
LEAST_CAPABILITY = (8, 9)


def require_device(device: torch.device) -> None:
    """Raise `LossyMismatch` where the device multiplies no 8-bit floats."""
    if device.type != "cuda":
        wanted, found = "a CUDA GPU of compute capability 8.9 (Ada, Hopper or later)", device.type
    elif (capability := torch.cuda.get_device_capability(device)) < LEAST_CAPABILITY:
        wanted, found = "compute capability 8.9 (Ada, Hopper) or above", f"{capability[0]}.{capability[1]}"
    else:
        return
    raise LossyMismatch(
        f"fp8 linears need {wanted}, found {found}; use `int8`, or `fp8-emulated` to see what fp8 changes in pictures"
    )


def quantise(weights_NOI: torch.Tensor, into_NOI: torch.Tensor, scales_NO: torch.Tensor) -> None:
    """Write 8-bit floats and scales over what is there; addresses stay."""
    scales_NO.copy_(_scale(weights_NOI))
    # Conversion rounds to the nearest; what it would round beyond the largest number is NaN.
    into_NOI.copy_((weights_NOI / scales_NO[..., None]).clamp_(-LARGEST, LARGEST))


def linear(
    x: torch.Tensor, weight_OI: torch.Tensor, scale_O: torch.Tensor, bias_O: torch.Tensor | None
) -> torch.Tensor:
    """(..., I) to (..., O), in the dtype of x, by the GPU's own product."""
    q_MI, scale_M1 = _tokens(x)
    y_MO = torch._scaled_mm(
        q_MI,
        weight_OI.t(),
        scale_a=scale_M1,
        scale_b=scale_O[None],
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )
    return _finished(y_MO, x, bias_O)


def emulated(
    x: torch.Tensor, weight_OI: torch.Tensor, scale_O: torch.Tensor, bias_O: torch.Tensor | None
) -> torch.Tensor:
    """The same by a float32 product of the rounded numbers."""
    q_MI, scale_M1 = _tokens(x)
    y_MO = (q_MI.float() @ weight_OI.float().t()) * scale_M1 * scale_O
    return _finished(y_MO.to(torch.bfloat16), x, bias_O)


def _tokens(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens in 8 bits, (M, I), and their scales, (M, 1)."""
    # In rows, as the products want them: what is pointwise keeps the order that a tensor has in memory.
    x_MI = x.reshape(-1, x.shape[-1]).contiguous()
    scale_M1 = _scale(x_MI)[:, None]
    return (x_MI / scale_M1).clamp(-LARGEST, LARGEST).to(DTYPE), scale_M1


def _finished(y_MO: torch.Tensor, x: torch.Tensor, bias_O: torch.Tensor | None) -> torch.Tensor:
    y_MO = y_MO.to(x.dtype)
    if bias_O is not None:
        y_MO = y_MO + bias_O
    return y_MO.view(*x.shape[:-1], -1)


def _scale(rows: torch.Tensor) -> torch.Tensor:
    """float32, what each row (the last dimension) is divided by; a row of zeros stays one."""
    largest: torch.Tensor = torch.linalg.vector_norm(rows, float("inf"), dim=-1)
    return (largest.float() / LARGEST).clamp_min(torch.finfo(torch.float32).tiny)

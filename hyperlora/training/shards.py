"""Tensors that FSDP has split among processes: this process's part, the whole, and back.

Where nothing is split, all of these are the tensor itself. FSDP of version 2 is meant (accelerate's `fsdp_version: 2`),
whose parameters keep their names and know how they are split.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor, sharing its memory."""
    split: Any = tensor
    local: torch.Tensor = split.to_local() if _is_split(tensor) else tensor
    return local.detach()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The whole tensor, gathered from all processes: all of them must call this."""
    split: Any = tensor
    gathered: torch.Tensor = split.full_tensor() if _is_split(tensor) else tensor
    return gathered.detach()


def as_split(part: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A process's part as a tensor that is split as `like` is; single numbers are never split."""
    if not _is_split(like) or not part.ndim:
        return part
    from torch.distributed.tensor import DTensor

    known: Any = like
    # The whole shape is told: it cannot be seen from a part where a dimension does not divide evenly.
    split: torch.Tensor = DTensor.from_local(
        part.to(known.device), known.device_mesh, known.placements, shape=known.shape, stride=known.stride()
    )
    return split


def reshard(module: nn.Module) -> None:
    """Let go of the whole weights that FSDP's forward pass gathered; nothing to do without FSDP."""
    for each in module.modules():
        if hasattr(each, "reshard"):
            each.reshard()  # type: ignore[operator]


def _is_split(tensor: torch.Tensor) -> bool:
    # By attribute: importing torch.distributed takes its time, and most runs have no use for it.
    return hasattr(tensor, "to_local")

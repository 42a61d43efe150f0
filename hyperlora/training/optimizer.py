"""The optimizer and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hyperlora.errors import PackageMissing

if TYPE_CHECKING:
    from hyperlora.training.config import TrainingConfig


def make_optimizer(config: TrainingConfig, parameters: Iterable[nn.Parameter], device: torch.device) -> Any:
    """AdamW, or its 8-bit form; `PackageMissing` where that is asked for and bitsandbytes or CUDA is not there."""
    common: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": (config.beta_1, config.beta_2),
        "weight_decay": config.weight_decay,
    }
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, fused=device.type in ("cpu", "cuda"), **common)
    if find_spec("bitsandbytes") is None:
        raise PackageMissing("optimizer adamw8bit needs bitsandbytes: pip install bitsandbytes, or use adamw")
    if device.type != "cuda":
        raise PackageMissing(f"optimizer adamw8bit needs a CUDA device, this run is on {device.type}; use adamw")
    return import_module("bitsandbytes.optim").AdamW8bit(parameters, **common)


def rate_at(config: TrainingConfig, step: int) -> float:
    """The learning rate of a step, counted from 0: a linear rise, then constant or half a cosine down to zero."""
    if step < config.warm_up:
        return config.learning_rate * (step + 1) / config.warm_up
    if config.schedule == "constant":
        return config.learning_rate
    done = min(1.0, (step - config.warm_up) / max(1, config.steps - config.warm_up))
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

"""One loop for every network of the mini pack: AdamW, warm-up and cosine, an average of the weights, resume at a step.

A slot may be shorter than the training: `fit` ends when its time is up, and goes on from its file when called again.
All chance is drawn from (seed, step), so where it was interrupted changes nothing.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

KEEP_SECONDS = 60.0  # between two states on disk
GRADIENT_LIMIT = 1.0

Loss = Callable[[int, torch.Generator], Mapping[str, torch.Tensor]]
"""(step, chance) -> named parts of the loss; their sum is minimised."""


@dataclass(frozen=True)
class Plan:
    """How long and how fast: optimiser steps, samples in each, AdamW's highest rate, share of the average kept."""

    steps: int
    batch: int
    rate: float
    warm_up: int = 100
    average: float = 0.998
    seed: int = 0

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warm_up:
            return self.rate * (step + 1) / self.warm_up
        done = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return self.rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


@dataclass(frozen=True)
class Outcome:
    """Where a training stands: steps done, whether that is all, seconds of all slots, smoothed parts of the loss."""

    steps: int
    finished: bool
    seconds: float
    losses: dict[str, float]


def fit(
    module: nn.Module,
    loss: Loss,
    plan: Plan,
    file: Path,
    *,
    max_seconds: float = math.inf,
    tell: Callable[[str], None] = print,
) -> Outcome:
    """Train the module's parameters that want gradients; the module ends with the averaged weights.

    The state lies in `file` (safetensors) with a JSON file of the same name beside it. A finished training is only
    read. Raises `FileExistsError` if the state belongs to another plan, `FloatingPointError` for a loss that is NaN.
    """
    run = _Run(module, plan, file)
    started = begun = time.monotonic()
    while run.step < plan.steps and time.monotonic() - begun < max_seconds:
        run.take(loss)
        if run.step % 100 == 0:
            shown = " ".join(f"{name} {value:.4f}" for name, value in run.losses.items())
            rate = run.step - run.first
            left = (plan.steps - run.step) * (time.monotonic() - begun) / max(rate, 1)
            tell(f"{file.stem} {run.step}/{plan.steps} {shown}, {left:.0f} s left")
        if time.monotonic() - started > KEEP_SECONDS:
            run.save(time.monotonic() - begun)
            started = time.monotonic()
    if run.step > run.first:
        run.save(time.monotonic() - begun)
    run.end()
    return Outcome(run.step, run.step >= plan.steps, run.seconds, dict(run.losses))


class _Run:
    """Parameters, their average, the optimiser, and the file of all three."""

    def __init__(self, module: nn.Module, plan: Plan, file: Path) -> None:
        self.plan, self.file = plan, file
        self.named = {name: each for name, each in module.named_parameters() if each.requires_grad}
        self.optimiser = torch.optim.AdamW(
            self.named.values(), lr=plan.rate, betas=(0.9, 0.99), weight_decay=0.01, foreach=True
        )
        self.average = {name: each.detach().clone() for name, each in self.named.items()}
        self.step, self.seconds = 0, 0.0
        self.losses: dict[str, float] = {}
        self._module = module
        if file.exists():
            self._load()
        self.first, self._before = self.step, self.seconds

    def take(self, loss: Loss) -> None:
        """One step of the optimiser."""
        chance = torch.Generator().manual_seed(self.plan.seed * 1_000_003 + self.step)
        self._module.train()
        parts = loss(self.step, chance)
        whole = torch.stack([part.float() for part in parts.values()]).sum()
        if not torch.isfinite(whole):
            raise FloatingPointError(f"the loss of step {self.step} of {self.file.stem} is {whole.item()}")
        for group in self.optimiser.param_groups:
            group["lr"] = self.plan.rate_at(self.step)
        self.optimiser.zero_grad(set_to_none=True)
        whole.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.named.values(), GRADIENT_LIMIT)
        self.optimiser.step()
        self.step += 1
        kept = min(self.plan.average, self.step / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), [p.detach() for p in self.named.values()], 1 - kept)
        for name, part in parts.items():
            before = self.losses.get(name, part.item())
            self.losses[name] = 0.98 * before + 0.02 * part.item()

    def end(self) -> None:
        """Give the module the averaged weights."""
        with torch.no_grad():
            for name, each in self.named.items():
                each.copy_(self.average[name])
        self._module.eval()

    def save(self, seconds: float) -> None:
        """Write the state in one step, the JSON last."""
        self.seconds = self._before + seconds
        tensors: dict[str, torch.Tensor] = {}
        for name, each in self.named.items():
            tensors[f"weight.{name}"] = each.detach()
            tensors[f"average.{name}"] = self.average[name]
            for key, value in self.optimiser.state[each].items():
                tensors[f"{key}.{name}"] = torch.as_tensor(value)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        _replace(self.file, lambda path: save_file({k: v.contiguous() for k, v in tensors.items()}, path))
        told = {"plan": asdict(self.plan), "step": self.step, "seconds": self.seconds, "losses": self.losses}
        _replace(self.file.with_suffix(".json"), lambda path: path.write_text(json.dumps(told, indent=2) + "\n"))

    def _load(self) -> None:
        told = json.loads(self.file.with_suffix(".json").read_text())
        if told["plan"] != asdict(self.plan):
            raise FileExistsError(f"{self.file} is the state of another plan, {told['plan']}; remove it to begin anew")
        self.step, self.seconds, self.losses = told["step"], told["seconds"], told["losses"]
        tensors = load_file(self.file)
        with torch.no_grad():
            for name, each in self.named.items():
                each.copy_(tensors[f"weight.{name}"])
                self.average[name].copy_(tensors[f"average.{name}"])
                if f"step.{name}" not in tensors:
                    continue  # nothing ever reached it: the layer behind the one that is read
                self.optimiser.state[each] = {
                    "step": tensors[f"step.{name}"],
                    "exp_avg": torch.zeros_like(each).copy_(tensors[f"exp_avg.{name}"]),
                    "exp_avg_sq": torch.zeros_like(each).copy_(tensors[f"exp_avg_sq.{name}"]),
                }


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    beside = path.with_name(f".{path.name}-{os.getpid()}")
    write(beside)
    beside.replace(path)

"""Training steps that can be interrupted and taken up again.

A step's draws depend on the seed and the step's number alone; weights and the optimizer's moments are kept in one
safetensors file beside the number of the steps done. So a run that was cut off ends where it would have ended.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from hyperlora.errors import CheckpointMismatch, NonFiniteWeights

_Batch = TypeVar("_Batch")
OnStep = Callable[[str, int, int, float], None]
_DRAWN_AHEAD = 4  # batches a thread


@dataclass(frozen=True)
class Steps:
    """AdamW with a rate that rises for a tenth of the steps and falls to nothing as a cosine."""

    count: int
    batch: int
    rate: float
    seed: int = 0
    decay: float = 0.05
    keep_every: int = 100


def take_steps(
    name: str,
    model: nn.Module,
    steps: Steps,
    draw: Callable[[np.random.Generator, int], _Batch],
    loss_of: Callable[[_Batch], torch.Tensor],
    place: Path,
    *,
    threads: int = 0,
    until: float | None = None,
    on_step: OnStep | None = None,
) -> bool:
    """Train the model in place, from what `place/NAME.safetensors` holds of an earlier run; whether all steps are done.

    Parameters
    ----------
    draw
        Makes a batch from (dice, size).
    loss_of
        A batch's loss.
    threads
        Batches are drawn ahead on so many threads; 0 draws them in between.
    until
        The `time.monotonic()` after which no step is begun; what was done is kept for the next run.
    on_step
        Called with (name, done, count, loss) after every step; what it raises ends the training, which can be resumed.

    Raises
    ------
    CheckpointMismatch
        The file is of another network or other steps.
    NonFiniteWeights
        A loss is NaN or infinite.
    """
    file = place / f"{name}.safetensors"
    optimizer = torch.optim.AdamW(model.parameters(), lr=steps.rate, weight_decay=steps.decay, betas=(0.9, 0.99))
    done = _resumed(file, model, optimizer, steps)
    model.train()
    for step, batch in _batches(done, steps, draw, threads):
        if until is not None and time.monotonic() > until:
            break
        for group in optimizer.param_groups:
            group["lr"] = steps.rate * share_of_rate(step, steps.count)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(steps.seed * 1_000_003 + step)
            loss = loss_of(batch)
        if not torch.isfinite(loss):
            raise NonFiniteWeights(f"the loss of step {step + 1} of {name} is {loss.item()}; lower the rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        done = step + 1
        if done % steps.keep_every == 0 or done == steps.count:
            _keep(file, model, optimizer, steps, done)
        if on_step is not None:
            on_step(name, done, steps.count, loss.item())
    if done % steps.keep_every and done != steps.count:
        _keep(file, model, optimizer, steps, done)
    model.eval()
    return done == steps.count


def on_device(model: nn.Module, device: str) -> None:
    """Move a network, its channels innermost: half as fast again on a CPU."""
    movable: Any = model
    movable.to(device, memory_format=torch.channels_last)


def share_of_rate(step: int, count: int) -> float:
    """0 to 1: what part of the rate the step is taken with."""
    rise = max(1, count // 10)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, count - rise)))


def _batches(
    done: int, steps: Steps, draw: Callable[[np.random.Generator, int], _Batch], threads: int
) -> Iterator[tuple[int, _Batch]]:
    def of(step: int) -> _Batch:
        return draw(np.random.default_rng((steps.seed, step)), steps.batch)

    if threads < 1:
        for step in range(done, steps.count):
            yield step, of(step)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting = [pool.submit(of, step) for step in range(done, min(done + threads * _DRAWN_AHEAD, steps.count))]
        for step in range(done, steps.count):
            ready = waiting.pop(0)
            ahead = step + threads * _DRAWN_AHEAD
            if ahead < steps.count:
                waiting.append(pool.submit(of, ahead))
            yield step, ready.result()


def _described(steps: Steps) -> str:
    return json.dumps([steps.count, steps.batch, steps.rate, steps.seed, steps.decay])


def _keep(file: Path, model: nn.Module, optimizer: torch.optim.Optimizer, steps: Steps, done: int) -> None:
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    for place, state in optimizer.state_dict()["state"].items():
        tensors |= {f"moments.{place}.{key}": value for key, value in state.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}-{os.getpid()}")
    kept = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    save_file(kept, beside, {"done": str(done), "steps": _described(steps)})
    beside.replace(file)


def _resumed(file: Path, model: nn.Module, optimizer: torch.optim.Optimizer, steps: Steps) -> int:
    if not file.is_file():
        return 0
    with safe_open(file, framework="pt") as opened:
        told = opened.metadata() or {}
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    if told.get("steps") != _described(steps):
        raise CheckpointMismatch(
            f"{file} is of steps {told.get('steps')}, wanted are {_described(steps)}; remove it to begin anew"
        )
    weights = {key.removeprefix("model."): value for key, value in tensors.items() if key.startswith("model.")}
    try:
        model.load_state_dict(weights)
    except RuntimeError as fault:
        raise CheckpointMismatch(f"{file} is of another network: {fault}; remove it to begin anew") from fault
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("moments."):
            _, place, what = key.split(".")
            moments.setdefault(int(place), {})[what] = value
    state = optimizer.state_dict()
    optimizer.load_state_dict({**state, "state": moments})
    return int(told["done"])

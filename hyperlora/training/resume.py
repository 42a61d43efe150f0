"""Where a run stands: saved with all that decides its next numbers, and checked before it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from hyperlora.errors import TrainingStateInvalid
from hyperlora.training.checkpoints import CheckpointFolder, Tensors, optimizer_state, optimizer_tensors, restore
from hyperlora.training.record import versions
from hyperlora.training.shards import as_split, own_part

if TYPE_CHECKING:
    from hyperlora.training.trainer import Trainer

# What may change when a run goes on: places, logs, and how a step's samples are dealt out.
_FREE = frozenset(
    {
        "base_model",
        "dataset",
        "out",
        "init",
        "network",
        "batch_size",
        "accumulation",
        "device",
        "in_memory",
        "gradient_checkpointing",
        "text_cache",
        "checkpoint_every",
        "keep",
        "log_every",
        "loggers",
        "grids",
        "export_dtype",
    }
)


class RunState:
    """The checkpoints of a trainer's run."""

    def __init__(self, trainer: Trainer) -> None:
        accelerator = trainer.accelerator
        self._split = bool(accelerator.is_fsdp2)
        self._trainer = trainer
        self._folder = CheckpointFolder(
            trainer.config.out,
            trainer.config.keep,
            process=accelerator.process_index,
            writers=accelerator.num_processes if self._split else 1,
            wait=accelerator.wait_for_everyone,
        )

    @property
    def steps(self) -> list[int]:
        """The steps that there are checkpoints of."""
        return self._folder.steps

    def save(self, step: int) -> None:
        """Write a checkpoint."""
        trainer = self._trainer
        names = list(trainer.trained)
        moments, rest = optimizer_tensors(trainer.optimizer.state_dict()["state"], names)
        parts: dict[str, Tensors] = {
            "weights": {name: own_part(each) for name, each in trainer.trained.items()},
            "optimizer": {name: own_part(each) for name, each in moments.items()},
        }
        state: dict[str, Any] = {"optimizer": rest, "versions": versions(), **self._made_of()}
        if trainer.ema is not None:
            parts["ema"] = {n: own_part(e) for n, e in zip(names, trainer.ema.shadow_params, strict=True)}
            state["ema_steps"] = trainer.ema.optimization_step
        if trainer.accelerator.scaler is not None:
            state["scaler"] = trainer.accelerator.scaler.state_dict()
        self._folder.save(step, parts, state)

    def load(self) -> int:
        """Put the latest checkpoint in place; returns its step, 0 where there is none.

        Raises `TrainingStateInvalid` where it was made with something else than this run.
        """
        if not self.steps:
            return 0
        step, trainer = self.steps[-1], self._trainer
        state = self._folder.state(step)
        self._check(state, step)
        names, parameters = list(trainer.trained), list(trainer.trained.values())
        own = {name: own_part(each) for name, each in trainer.trained.items()}
        restore(own, self._folder.tensors(step, "weights"), "weights")
        found = optimizer_state(self._folder.tensors(step, "optimizer"), state["optimizer"], names)
        split = {
            index: {key: as_split(value, parameters[index]) if isinstance(value, torch.Tensor) else value
                    for key, value in entries.items()}
            for index, entries in found.items()
        }  # fmt: skip
        groups = trainer.optimizer.state_dict()["param_groups"]
        trainer.optimizer.load_state_dict({"state": split, "param_groups": groups})
        if trainer.ema is not None:
            shadows = {n: own_part(e) for n, e in zip(names, trainer.ema.shadow_params, strict=True)}
            restore(shadows, self._folder.tensors(step, "ema"), "averaged weights")
            trainer.ema.optimization_step = state["ema_steps"]
        if trainer.accelerator.scaler is not None:
            trainer.accelerator.scaler.load_state_dict(state["scaler"])
        return step

    def _made_of(self) -> dict[str, Any]:
        """What must be the same when the run goes on."""
        trainer = self._trainer
        return {
            "config": trainer.config.as_data(),
            "began_with": trainer.start_fingerprint,
            "samples": len(trainer.dataset),
            "samples_per_step": trainer.samples_per_step,
        }

    def _check(self, state: Mapping[str, Any], step: int) -> None:
        now = self._made_of()
        before, config = state["config"], now["config"]
        free = _FREE if config["schedule"] == "cosine" else _FREE | {"steps"}
        changed = [f"{key} was {before.get(key)!r}, is {config[key]!r}" for key in config if key not in free
                   and before.get(key) != config[key]]  # fmt: skip
        for key in ("began_with", "samples", "samples_per_step"):
            if state[key] != now[key]:
                changed.append(f"{key} was {state[key]!r}, is {now[key]!r}")
        if changed:
            raise TrainingStateInvalid(
                f"the run in {self._trainer.config.out} stands at step {step} and cannot go on with other numbers: "
                f"{'; '.join(changed)}"
            )

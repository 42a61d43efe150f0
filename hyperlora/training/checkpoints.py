"""Checkpoints of a run: all that going on needs, in safetensors and JSON, whole or not at all.

    checkpoints/step-00001000/
        state.json                      step, config, what the run is made of, sizes that tensors do not say
        weights-00000.safetensors       trained parameters; a file for each process where they are split among them
        ema-00000.safetensors
        optimizer-00000.safetensors

A checkpoint is written beside its place and renamed. Random states are not kept: every draw comes from (seed, step).
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hyperlora.errors import TrainingStateInvalid

CHECKPOINTS = "checkpoints"
STATE = "state.json"
_NAME = re.compile(r"step-(\d{8,})")

Tensors = dict[str, torch.Tensor]


class CheckpointFolder:
    """The checkpoints of one run.

    Parameters
    ----------
    run
        The run's folder.
    keep
        How many of the latest stay.
    process, writers
        This process's number, and how many of them write a part: 1 where all hold the same.
    wait
        Called where all processes must have come.
    """

    def __init__(
        self, run: Path, keep: int, *, process: int = 0, writers: int = 1, wait: Callable[[], None] = lambda: None
    ) -> None:
        self.folder, self._keep = run / CHECKPOINTS, keep
        self._process, self._writers, self._wait = process, writers, wait

    @property
    def steps(self) -> list[int]:
        """The steps of the whole checkpoints, in order."""
        if not self.folder.is_dir():
            return []
        found = (_NAME.fullmatch(each.name) for each in self.folder.iterdir() if (each / STATE).is_file())
        return sorted(int(match[1]) for match in found if match)

    def save(self, step: int, parts: Mapping[str, Tensors], state: Mapping[str, Any]) -> Path:
        """Write what stands for this step, then remove what is too old."""
        place = self.folder / f"step-{step:08d}"
        beside = self.folder / f".{place.name}.part"
        if self._process == 0:
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
        self._wait()
        if self._process < self._writers:
            for name, tensors in parts.items():
                _write(beside / f"{name}-{self._process:05d}.safetensors", tensors)
        self._wait()
        if self._process == 0:
            text = json.dumps({**state, "step": step, "writers": self._writers}, indent=1)
            _synced(beside / STATE, lambda path: path.write_text(text + "\n", encoding="utf-8"))
            if place.exists():
                shutil.rmtree(place)
            beside.rename(place)
            for old in self.steps[: -self._keep]:
                shutil.rmtree(self.folder / f"step-{old:08d}")
        self._wait()
        return place

    def state(self, step: int) -> dict[str, Any]:
        """What `state.json` of a checkpoint says; `TrainingStateInvalid` where it cannot be read."""
        path = self.folder / f"step-{step:08d}" / STATE
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise TrainingStateInvalid(f"{path} cannot be read: {error}; remove the checkpoint's folder") from error
        if found.get("writers") != self._writers:
            raise TrainingStateInvalid(
                f"{path.parent} was written by {found.get('writers')} processes, this run has {self._writers}; parts "
                "that are split among processes go on with as many"
            )
        return found

    def tensors(self, step: int, part: str) -> Tensors:
        """This process's tensors of a part; `TrainingStateInvalid` where they cannot be read."""
        number = min(self._process, self._writers - 1)
        path = self.folder / f"step-{step:08d}" / f"{part}-{number:05d}.safetensors"
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise TrainingStateInvalid(f"{path} cannot be read: {error}; remove the checkpoint's folder") from error


def optimizer_tensors(state: Mapping[str, Any], names: list[str]) -> tuple[Tensors, dict[str, dict[str, Any]]]:
    """An optimizer's state (`state_dict()["state"]`) as tensors by name, and what is not a tensor as JSON."""
    tensors: Tensors = {}
    rest: dict[str, dict[str, Any]] = {}
    for index, entries in state.items():
        for key, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{names[int(index)]}/{key}"] = value
            else:
                rest.setdefault(names[int(index)], {})[key] = value
    return tensors, rest


def optimizer_state(
    tensors: Mapping[str, torch.Tensor], rest: Mapping[str, Mapping[str, Any]], names: list[str]
) -> dict[int, dict[str, Any]]:
    """The reverse of `optimizer_tensors`; `TrainingStateInvalid` for a parameter that is not trained now."""
    places = {name: index for index, name in enumerate(names)}
    state: dict[int, dict[str, Any]] = {}
    entries: list[tuple[str, str, Any]] = []
    for path, tensor in tensors.items():
        name, _, key = path.rpartition("/")
        entries.append((name, key, tensor))
    entries += [(name, key, value) for name, keys in rest.items() for key, value in keys.items()]
    for name, key, value in entries:
        if name not in places:
            raise TrainingStateInvalid(f"the checkpoint's optimizer knows {name}, which this stage does not train")
        state.setdefault(places[name], {})[key] = value
    return state


def restore(places: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], what: str) -> None:
    """Copy tensors over those of the same names; `TrainingStateInvalid` where names or shapes differ."""
    if places.keys() != found.keys():
        name = min(places.keys() ^ found.keys())
        raise TrainingStateInvalid(f"the checkpoint's {what} and this stage's differ: {name} is only in one of them")
    for name, place in places.items():
        if place.shape != found[name].shape:
            raise TrainingStateInvalid(
                f"the checkpoint's {what}: {name} is {tuple(found[name].shape)}, wanted {tuple(place.shape)}"
            )
        with torch.no_grad():
            place.copy_(found[name])


def _write(path: Path, tensors: Tensors) -> None:
    # A copy each: tensors that share memory cannot be saved.
    own = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    _synced(path, lambda place: save_file(own, place))


def _synced(path: Path, write: Callable[[Path], object]) -> None:
    write(path)
    with path.open("rb") as file:
        os.fsync(file.fileno())

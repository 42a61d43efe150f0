"""`portraits train`: the three stages of training and the distillation, from a config to a network folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.extras import need_worker_extra
from worker.cli.options import AsJson
from worker.cli.output import ago, clean, err, facts, hint, print_json, say

if TYPE_CHECKING:
    from hyperlora.training import StepReport, TrainingConfig

LINE_SECONDS = 30.0


class TrainStage(StrEnum):
    """What may be trained."""

    BASE = "base"
    ID_CLIP = "id-clip"
    ID_FACE = "id-face"
    DISTILL = "distill"


def train(
    stage: Annotated[
        TrainStage,
        typer.Argument(help="base, then id-clip, then id-face; distill brings a part of Base-LoRA into ID-LoRA."),
    ],
    config: Annotated[Path, typer.Option("--config", "-c", metavar="FILE", help="YAML; docs/training.md lists keys.")],
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Replace a key of the file, as in grids.every=500. Repeatable."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the latest checkpoint, if there is one, at the exact step.")
    ] = False,
    minutes: Annotated[
        float | None,
        typer.Option("--minutes", min=0, help="End after so many, with a checkpoint and the network as far as it is."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a stage. Several GPUs: `accelerate launch -m worker.cli train ...`, with accelerate's own config.

    The run's folder (`out` of the config) gets network/ in the released layout, checkpoints/, logs/ and samples/.
    SIGTERM and Ctrl-C write a checkpoint before the end; a crash loses what came after the last one.
    """
    need_worker_extra("`portraits train`")
    from hyperlora.training import TrainingConfig
    from hyperlora.training import train as run

    told = TrainingConfig.from_file(config, changes=changes or (), stage=stage.value)
    began = time.monotonic()
    stop = None if minutes is None else lambda: time.monotonic() - began >= minutes * 60
    seen: list[StepReport] = []
    with _progress(told) as show:

        def on_step(report: StepReport) -> None:
            seen[:] = [report]
            show(report)

        folder = run(told, resume=resume, on_step=on_step, stop=stop)
    if _is_main_process():
        _answer(told, folder, seen, time.monotonic() - began, as_json=as_json)


def _answer(config: TrainingConfig, folder: Path, seen: list[StepReport], seconds: float, *, as_json: bool) -> None:
    record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    last = record["losses"][-1] if record["losses"] else {}
    losses = {name: value for name, value in last.items() if name.startswith("loss")}
    if as_json:
        print_json(
            {
                "stage": config.stage,
                "network": folder,
                "fingerprint": record["fingerprint"],
                "step": record["step"],
                "steps": config.steps,
                "finished": record["finished"],
                "losses": losses,
                "seconds": round(seconds, 2),
            }
        )
        return
    done = "trained" if seen else "was trained already"
    say(f"stage {config.stage} {done}: step {record['step']} of {config.steps}, {ago(seconds)}")
    facts({"network": folder, **{name: f"{value:.5f}" for name, value in losses.items()}})
    if not record["finished"]:
        hint("the rest: the same command with --resume")


@contextmanager
def _progress(config: TrainingConfig) -> Iterator[Callable[[StepReport], None]]:
    """A bar with the time that is left on a terminal; else a line now and then. On stderr, in the main process."""
    console = err()
    if not console.is_terminal:
        yield _Lines(console, config.steps)
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TextColumn("{task.fields[told]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not _is_main_process()) as bar:
        task = bar.add_task(config.stage, total=config.steps, told="")
        yield lambda report: bar.update(task, completed=report.step, told=_losses(report))


class _Lines:
    """A line for the first step, for the last, and every half minute between."""

    def __init__(self, console: Any, steps: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._steps, self._clock = console, steps, clock
        self._first: tuple[float, int] | None = None
        self._last = 0.0

    def __call__(self, report: StepReport) -> None:
        now = self._clock()
        if self._first is not None and report.step < self._steps and now - self._last < LINE_SECONDS:
            return
        left = ""
        if self._first is None:
            self._first = (now, report.step)
        elif report.step < self._steps and report.step > self._first[1]:
            pace = (now - self._first[0]) / (report.step - self._first[1])
            left = f", {ago(pace * (self._steps - report.step))} left"
        self._last = now
        line = f"step {report.step}/{self._steps}: {_losses(report)}{left}"
        self._console.print(clean(line), markup=False, soft_wrap=True)


def _losses(report: StepReport) -> str:
    return ", ".join(f"{name} {loss:.4f}" for name, loss in report.losses.items())


def _is_main_process() -> bool:
    """One process of a launch speaks; without a launcher there is only this one."""
    import os

    return os.environ.get("RANK", "0") == "0"

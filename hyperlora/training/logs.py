"""What a run tells while it goes: losses to a file, to TensorBoard, to Weights & Biases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hyperlora.errors import PackageMissing
from hyperlora.training.record import LossLog

if TYPE_CHECKING:
    from PIL import Image

    from hyperlora.training.trainer import StepReport, Trainer

LOGS = "logs"


class Sink(Protocol):
    """Where numbers and pictures go."""

    def numbers(self, step: int, values: dict[str, float]) -> None:
        """Take the means since the last call."""
        ...

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        """Take a grid of samples."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


class Means:
    """The means since they were last taken, each setting's over its own samples."""

    def __init__(self) -> None:
        self._steps = 0
        self._loss = self._norm = self._rate = 0.0
        self._totals: dict[str, tuple[float, int]] = {}

    def add(self, report: StepReport) -> None:
        """Take in a step."""
        self._steps += 1
        self._loss += report.loss
        self._norm += report.gradient_norm
        self._rate = report.learning_rate
        for name, loss in report.losses.items():
            total, count = self._totals.get(name, (0.0, 0))
            self._totals[name] = (total + loss * report.counts[name], count + report.counts[name])

    def take(self) -> dict[str, float]:
        """The means; begin anew."""
        values = {
            "loss": self._loss / self._steps,
            **{f"loss/{name}": total / count for name, (total, count) in self._totals.items()},
            "gradient_norm": self._norm / self._steps,
            "learning_rate": self._rate,
        }
        self._steps, self._loss, self._norm, self._totals = 0, 0.0, 0.0, {}
        return values


class Logs:
    """The logs of a run's main process; in the others nothing is written."""

    def __init__(self, trainer: Trainer, losses: LossLog | None, sinks: Sequence[Sink]) -> None:
        self._trainer, self._losses, self._sinks = trainer, losses, sinks
        self._means = Means()

    def step(self, report: StepReport) -> None:
        """Take in a step; write at every `log_every`-th, and draw where a grid is due."""
        config = self._trainer.config
        self._means.add(report)
        if report.step % config.log_every == 0 or report.step == config.steps:
            values = self._means.take()
            if self._losses is not None:
                self._losses.add({"step": report.step, **values})
            for sink in self._sinks:
                sink.numbers(report.step, values)
        # Where weights are split among processes, all of them must draw.
        draws = self._losses is not None or self._trainer.accelerator.is_fsdp2
        if config.grids.every and report.step % config.grids.every == 0 and draws:
            from hyperlora.training.grids import draw_grid

            grid = draw_grid(self._trainer, report.step)
            for sink in self._sinks:
                sink.picture(report.step, "samples", grid)


@contextmanager
def open_logs(trainer: Trainer, step: int) -> Iterator[Logs]:
    """The logs of a run that stands at a step; raises `PackageMissing` for a logger that is not installed."""
    config = trainer.config
    if not trainer.accelerator.is_main_process:
        yield Logs(trainer, None, ())
        return
    config.out.mkdir(parents=True, exist_ok=True)
    sinks: list[Sink] = []
    try:
        for name in config.loggers:
            sinks.append(_SINKS[name](config.out / LOGS, step, config.as_data()))
        yield Logs(trainer, LossLog(config.out, step), sinks)
    finally:
        for sink in sinks:
            sink.close()


class _TensorBoard:
    def __init__(self, folder: Path, step: int, config: dict[str, Any]) -> None:
        _need("tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        # What was written after the checkpoint is shown no more.
        self._writer: Any = SummaryWriter(str(folder), purge_step=step + 1 if step else None)
        self._writer.add_text("config", "\n".join(f"    {key}: {value}" for key, value in config.items()))

    def numbers(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        import numpy as np

        self._writer.add_image(name, np.asarray(picture), step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class _WandB:
    def __init__(self, folder: Path, step: int, config: dict[str, Any]) -> None:
        _need("wandb", "wandb")
        del step
        folder.mkdir(parents=True, exist_ok=True)
        self._module: Any = import_module("wandb")
        self._run: Any = self._module.init(project="hyperlora", dir=str(folder), config=config)

    def numbers(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        self._run.log({name: self._module.Image(picture)}, step=step)

    def close(self) -> None:
        self._run.finish()


_SINKS: dict[str, type[_TensorBoard] | type[_WandB]] = {"tensorboard": _TensorBoard, "wandb": _WandB}


def _need(module: str, package: str) -> None:
    if find_spec(module) is None:
        raise PackageMissing(
            f"logging to {package} needs it installed: pip install {package}, or leave it out of `loggers`"
        )

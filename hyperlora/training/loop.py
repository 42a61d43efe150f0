"""The training run from config to network folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperlora.components import SDXLComponents
from hyperlora.errors import InvalidRequest, TrainingConfigInvalid, TrainingInterrupted
from hyperlora.training.config import TrainingConfig
from hyperlora.training.data import check_latents, open_data
from hyperlora.training.export import export_network
from hyperlora.training.logs import open_logs
from hyperlora.training.resume import RunState
from hyperlora.training.signals import Interruption, interruption
from hyperlora.training.trainer import StepReport, Trainer, weight_dtype

if TYPE_CHECKING:
    from accelerate import Accelerator

    from hyperlora.dataset import Portraits

__all__ = ["StepReport", "train"]


def train(
    config: TrainingConfig,
    *,
    components: SDXLComponents | None = None,
    dataset: Portraits | None = None,
    resume: bool = False,
    on_step: Callable[[StepReport], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Path:
    """Train one stage; returns the folder of the network, in the released layout, with its training record.

    A run that is resumed ends as one that was never interrupted: on one machine's CPU, bit for bit.

    Parameters
    ----------
    config
        What to train, on what, for how long.
    components, dataset
        Base model and data, for callers that have them in memory; else they are read from the config's places.
    resume
        Go on from the latest checkpoint in the run's folder; from the beginning where there is none.
    on_step
        Called after every step in the main process.
    stop
        Asked after every step; True ends the run early, with a checkpoint and the network as far as it is.

    Raises
    ------
    InvalidRequest
        The folder holds a run already, and `resume` was not asked for.
    TrainingMismatch, CheckpointMismatch, FaceEncoderMismatch, WeightsMissing, DatasetError
        Base model, data, checkpoint and stage do not go together, or are not there.
    TrainingStateInvalid
        The checkpoint was made with another config, start or data.
    NonFiniteLoss
        NaN or infinity; nothing of that step is kept.
    TrainingInterrupted
        SIGTERM or SIGINT; a checkpoint was written.
    """
    with _accelerator(config) as accelerator, interruption() as interrupted:
        # 1. Models and data.
        trainer = Trainer(config, accelerator, *_material(config, accelerator, components, dataset))
        try:
            # 2. Where the run stands.
            state = RunState(trainer)
            if state.steps and not resume:
                raise InvalidRequest(
                    f"{config.out} holds a training at step {state.steps[-1]}; resume it or choose another folder"
                )
            begun = state.load()
            # 3. The steps.
            with open_logs(trainer, begun) as logs:
                done = begun
                while done < config.steps:
                    report = trainer.step(done)
                    done = report.step
                    logs.step(report)
                    if on_step is not None and accelerator.is_main_process:
                        on_step(report)
                    ending = _ends(accelerator, interrupted, stop)
                    if ending or done % config.checkpoint_every == 0 or done == config.steps:
                        state.save(done)
                    if interrupted.name is not None:
                        raise TrainingInterrupted(
                            f"stopped by {interrupted.name} at step {done} of {config.steps}; the checkpoint is "
                            "written, resume to go on"
                        )
                    if ending:
                        break
            # 4. The network.
            return export_network(trainer, done)
        finally:
            trainer.close()


def _material(
    config: TrainingConfig, accelerator: Accelerator, components: SDXLComponents | None, dataset: Portraits | None
) -> tuple[SDXLComponents, Portraits]:
    data = open_data(config, accelerator.device) if dataset is None else dataset
    if components is None:
        check_latents(data.info, config.base_model)
        components = SDXLComponents.load(config.base_model, device=accelerator.device, dtype=weight_dtype(config))
    return components, data


def _ends(accelerator: Accelerator, interrupted: Interruption, stop: Callable[[], bool] | None) -> bool:
    """Whether this was the last step, for all processes alike: a signal may have reached only one of them."""
    wish = interrupted.name is not None or (stop is not None and stop())
    if accelerator.num_processes == 1:
        return wish
    import torch

    wishes: Any = accelerator.reduce(torch.tensor(float(wish), device=accelerator.device), "sum")
    if float(wishes) and interrupted.name is None and stop is None:
        interrupted.name = "a signal to another process"
    return bool(float(wishes))


@contextmanager
def _accelerator(config: TrainingConfig) -> Iterator[Accelerator]:
    """accelerate, with what it was configured for; its process-wide state ends with the run, so that another may begin.

    Several GPUs and FSDP come from accelerate's own config or launcher.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    accelerator: Any = Accelerator(
        cpu=config.device == "cpu",
        mixed_precision=config.precision,
        gradient_accumulation_steps=config.accumulation,
    )
    try:
        _check_distribution(accelerator)
        yield accelerator
    finally:
        AcceleratorState._reset_state()


def _check_distribution(accelerator: Any) -> None:
    """Raise `TrainingConfigInvalid` for ways of splitting that a checkpoint of ours could not hold."""
    kind = str(accelerator.distributed_type.value)
    if kind == "DEEPSPEED":
        raise TrainingConfigInvalid(
            "DeepSpeed keeps its optimizer in pickle files of its own, which are not written here; for the same split "
            "of optimizer, gradients and weights use FSDP: `accelerate config`, fsdp_version: 2"
        )
    if kind == "FSDP" and not accelerator.is_fsdp2:
        raise TrainingConfigInvalid("FSDP of version 1 hides the parameters' names; set fsdp_version: 2")

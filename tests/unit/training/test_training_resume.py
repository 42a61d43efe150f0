"""A run that is interrupted ends as one that was not, to the last bit; what is written is whole or not there."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import TinyPortraits, tiny_config

from hyperlora import HyperLoRA
from hyperlora.components import SDXLComponents
from hyperlora.errors import InvalidRequest, NonFiniteLoss, TrainingInterrupted, TrainingStateInvalid
from hyperlora.training import StepReport, train
from hyperlora.training.checkpoints import CheckpointFolder

STEPS = 6


def run(config: Any, components: SDXLComponents, portraits: Any, **more: Any) -> list[StepReport]:
    reports: list[StepReport] = []
    more.setdefault("on_step", reports.append)
    train(config, components=components, dataset=portraits, **more)
    return reports


def network_bytes(run_folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (run_folder / "network").glob("*.safetensors")}


def after(step: int) -> Any:
    """A wish to stop when so many steps are done."""
    count = iter(range(1, 1000))
    return lambda: next(count) >= step


@pytest.mark.parametrize("stage", ["base", "id-clip", "id-face", "distill"])
def test_a_resumed_run_ends_bit_for_bit_like_one_that_never_stopped(
    stage: str, components: SDXLComponents, portraits: TinyPortraits, runs: dict[str, Path], tmp_path: Path
) -> None:
    # Given a stage with everything on: other photos, averaging, accumulation
    before = {"base": None, "id-clip": "base", "id-face": "id-clip", "distill": "id-face"}[stage]
    init = before and str(runs[before])

    def config(name: str, **more: Any) -> Any:
        return tiny_config(
            stage, tmp_path / name, init=init, steps=3, accumulation=2, reference="other", schedule="cosine", **more
        )

    whole = run(config("whole"), components, portraits)

    # When another is stopped twice and resumed
    first = run(config("parts"), components, portraits, stop=after(1))
    second = run(config("parts"), components, portraits, stop=after(1), resume=True)
    third = run(config("parts"), components, portraits, resume=True)

    # Then losses and weights are the same, and nothing was done twice
    assert [report.step for report in first + second + third] == [1, 2, 3]
    assert first + second + third == whole
    assert network_bytes(tmp_path / "parts") == network_bytes(tmp_path / "whole")
    losses = [(tmp_path / name / "losses.jsonl").read_text() for name in ("parts", "whole")]
    assert losses[0] == losses[1]


def test_a_crash_loses_at_most_the_steps_since_the_last_checkpoint(
    components: SDXLComponents, portraits: TinyPortraits, tmp_path: Path
) -> None:
    # Given a run with a checkpoint every two steps that dies in its fifth
    def die(report: StepReport) -> None:
        if report.step == 5:
            raise MemoryError("no more")

    config = tiny_config("base", tmp_path / "run", steps=STEPS, checkpoint_every=2)
    with pytest.raises(MemoryError):
        run(config, components, portraits, on_step=die)

    # When it is resumed, then it goes on after the fourth, and its log has each step once
    assert [report.step for report in run(config, components, portraits, resume=True)] == [5, 6]
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "losses.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]
    whole = tiny_config("base", tmp_path / "whole", steps=STEPS)
    run(whole, components, portraits)
    assert network_bytes(tmp_path / "run") == network_bytes(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_writes_a_checkpoint_and_ends_cleanly(
    number: signal.Signals, components: SDXLComponents, portraits: TinyPortraits, tmp_path: Path
) -> None:
    # Given a run that gets a signal in its third step
    handler = signal.getsignal(number)

    def kill(report: StepReport) -> None:
        if report.step == 3:
            os.kill(os.getpid(), number)

    config = tiny_config("base", tmp_path / "run", steps=STEPS)

    # When it happens, then the run ends with an error of its own and a checkpoint of that step
    with pytest.raises(TrainingInterrupted, match=f"{number.name} at step 3 of 6") as caught:
        run(config, components, portraits, on_step=kill)
    assert caught.value.retryable
    assert CheckpointFolder(tmp_path / "run", 2).steps == [3]
    assert signal.getsignal(number) == handler
    assert [report.step for report in run(config, components, portraits, resume=True)] == [4, 5, 6]


def test_the_order_does_not_depend_on_how_a_step_is_dealt_out(
    components: SDXLComponents, portraits: TinyPortraits, tmp_path: Path
) -> None:
    # Given eight samples a step, as one pass, as two, as four
    losses = []
    for size, passes in ((8, 1), (4, 2), (2, 4)):
        config = tiny_config("base", tmp_path / f"{passes}", batch_size=size, accumulation=passes, steps=3)
        losses.append([report.loss for report in run(config, components, portraits)])

    # Then the losses are the same but for rounding
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[2] == pytest.approx(losses[0], rel=1e-4)


def test_only_the_latest_checkpoints_stay_and_parts_of_one_are_none(
    components: SDXLComponents, portraits: TinyPortraits, tmp_path: Path
) -> None:
    folder = tmp_path / "run" / "checkpoints"
    # Given what a crash left: a checkpoint half-written, and one without its last file
    (folder / ".step-00000003.part").mkdir(parents=True)
    (folder / "step-00000099").mkdir()

    # When a run writes one after every step
    config = tiny_config("base", tmp_path / "run", steps=5, checkpoint_every=1, keep=2)
    run(config, components, portraits)

    # Then the last two are there, in safetensors and JSON, and whole
    assert CheckpointFolder(tmp_path / "run", 2).steps == [4, 5]
    names = {file.name for file in (folder / "step-00000005").iterdir()}
    assert names == {f"{part}-00000.safetensors" for part in ("weights", "ema", "optimizer")} | {"state.json"}
    assert load_file(folder / "step-00000005" / "optimizer-00000.safetensors")

    # And a finished run that is resumed does nothing and answers with the network
    before = network_bytes(tmp_path / "run")
    assert run(config, components, portraits, resume=True) == []
    assert network_bytes(tmp_path / "run") == before


def test_the_network_has_the_averaged_weights(
    components: SDXLComponents, portraits: TinyPortraits, tmp_path: Path
) -> None:
    # Given a run with averaging and one without
    for name, decay in (("mean", 0.9), ("plain", None)):
        run(tiny_config("base", tmp_path / name, ema_decay=decay), components, portraits)

    # Then both trained the same, and the first one's network is the mean and not what was trained
    parts = {
        (name, part): load_file(tmp_path / name / "checkpoints" / "step-00000004" / f"{part}-00000.safetensors")
        for name, part in (("mean", "weights"), ("mean", "ema"), ("plain", "weights"))
    }
    key = "base_resampler.proj_out.weight"
    networks = {
        name: load_file(tmp_path / name / "network" / "base_resampler.safetensors")["proj_out.weight"]
        for name in ("mean", "plain")
    }
    assert torch.equal(parts["mean", "weights"][key], parts["plain", "weights"][key])
    assert torch.equal(networks["plain"], parts["plain", "weights"][key])
    assert torch.equal(networks["mean"], parts["mean", "ema"][key])
    assert not torch.equal(networks["mean"], networks["plain"])


def test_a_run_is_not_begun_over_another_and_not_resumed_with_other_numbers(
    components: SDXLComponents, portraits: TinyPortraits, runs: dict[str, Path], tmp_path: Path
) -> None:
    place = tmp_path / "run"
    run(tiny_config("base", place, steps=2), components, portraits)
    with pytest.raises(InvalidRequest, match="holds a training at step 2"):
        run(tiny_config("base", place, steps=2), components, portraits)
    with pytest.raises(TrainingStateInvalid, match=r"learning_rate was 0\.01, is 0\.5"):
        run(tiny_config("base", place, steps=4, learning_rate=0.5), components, portraits, resume=True)
    with pytest.raises(TrainingStateInvalid, match="samples was 24, is 6"):
        run(tiny_config("base", place, steps=4), components, TinyPortraits(2), resume=True)
    with pytest.raises(TrainingStateInvalid, match="began_with"):
        run(tiny_config("base", place, steps=4, init=str(runs["distill"])), components, portraits, resume=True)
    with pytest.raises(TrainingStateInvalid, match="samples_per_step was 4, is 8"):
        run(tiny_config("base", place, steps=4, accumulation=2), components, portraits, resume=True)
    # More steps are no other numbers
    assert [report.step for report in run(tiny_config("base", place, steps=3), components, portraits, resume=True)] == [
        3
    ]


@pytest.mark.parametrize("damage", ["state.json", "weights-00000.safetensors", "optimizer-00000.safetensors"])
def test_a_damaged_checkpoint_is_told(
    damage: str, components: SDXLComponents, portraits: TinyPortraits, tmp_path: Path
) -> None:
    run(tiny_config("base", tmp_path / "run", steps=1, warm_up=0), components, portraits)
    (tmp_path / "run" / "checkpoints" / "step-00000001" / damage).write_bytes(b"\x00\x01")
    with pytest.raises(TrainingStateInvalid, match=damage):
        run(tiny_config("base", tmp_path / "run", steps=2, warm_up=0), components, portraits, resume=True)


def test_nan_is_refused_and_not_kept(components: SDXLComponents, portraits: TinyPortraits, tmp_path: Path) -> None:
    # Given a dataset with a picture of NaN, seen after the checkpoint of the second step
    poisoned = TinyPortraits()
    assert poisoned.latents is not None
    asked: list[Any] = []

    class Poisoned(TinyPortraits):
        def batch(self, indices: Any, *, references: Any = None, pixels: bool = False) -> Any:
            asked.append(indices)
            made = poisoned.batch(indices, references=references, pixels=pixels)
            assert made.latents_BCHW is not None
            return (
                made if len(asked) < 3 else type(made)(**{**vars(made), "latents_BCHW": made.latents_BCHW * torch.nan})
            )

    config = tiny_config("base", tmp_path / "run", steps=STEPS, checkpoint_every=2)
    with pytest.raises(NonFiniteLoss, match="step 3"):
        run(config, components, Poisoned())

    # Then the run can go on from before
    assert [report.step for report in run(config, components, portraits, resume=True)] == [3, 4, 5, 6]
    assert HyperLoRA.from_pretrained(tmp_path / "run" / "network")

"""What a run tells while it goes: numbers for TensorBoard, grids to look at, and none of it changes the training."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_training import SIDE, TinyPortraits, tiny_config

from hyperlora.components import SDXLComponents
from hyperlora.errors import PackageMissing
from hyperlora.training import StepReport, train
from hyperlora.training.grids import GAP
from hyperlora.training.logs import Means
from hyperlora.training.record import LossLog, thinned


def test_each_settings_mean_is_over_its_own_samples() -> None:
    # Given two steps with unequal numbers of samples
    means = Means()
    means.add(StepReport(1, 9, 1.0, {"reconstruct": 1.0, "base": 0.5}, {"reconstruct": 3, "base": 1}, 0.1, 2.0))
    means.add(StepReport(2, 9, 2.0, {"reconstruct": 2.0}, {"reconstruct": 1}, 0.2, 4.0))

    # Then (3 * 1 + 1 * 2) / 4, and what did not occur in a step does not count there
    expected = {"loss": 1.5, "loss/reconstruct": 1.25, "loss/base": 0.5, "gradient_norm": 3.0, "learning_rate": 0.2}
    assert means.take() == pytest.approx(expected)
    means.add(StepReport(3, 9, 7.0, {"base": 7.0}, {"base": 1}, 0.3, 1.0))
    assert means.take() == pytest.approx({"loss": 7.0, "loss/base": 7.0, "gradient_norm": 1.0, "learning_rate": 0.3})


def test_a_log_is_cut_at_the_checkpoint_and_survives_half_a_line(tmp_path: Path) -> None:
    log = LossLog(tmp_path, 0)
    for step in (1, 2, 3):
        log.add({"step": step})
    with log.path.open("a") as file:
        file.write('{"step": 4, "lo')
    assert [entry["step"] for entry in log.entries()] == [1, 2, 3]
    assert [entry["step"] for entry in LossLog(tmp_path, 2).entries()] == [1, 2]
    assert [entry["step"] for entry in thinned([{"step": step} for step in range(1, 11)], 4)] == [1, 4, 7, 10]


@pytest.mark.parametrize(("stage", "columns"), [("base", 3), ("id-face", 4)])
def test_grids_and_tensorboard(
    stage: str,
    columns: int,
    components: SDXLComponents,
    portraits: TinyPortraits,
    runs: dict[str, Path],
    tmp_path: Path,
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # Given a run without logs, and the same with a grid after the second step
    init = None if stage == "base" else str(runs["id-clip"])
    plain = tiny_config(stage, tmp_path / "plain", init=init)
    grids = {"every": 2, "count": 2, "steps": 2, "guidance": 3.0, "weight": 1.0}
    logged = tiny_config(stage, tmp_path / "logged", init=init, grids=grids, loggers=["tensorboard"])
    for config in (plain, logged):
        train(config, components=components, dataset=portraits)

    # Then the networks are the same, to the last bit
    for file in (tmp_path / "plain" / "network").glob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "logged" / "network" / file.name).read_bytes()

    # And there are grids of two rows, whose columns differ
    files = sorted(file.name for file in (tmp_path / "logged" / "samples").iterdir())
    assert files == ["step-00000002.png", "step-00000004.png"]
    sheet = Image.open(tmp_path / "logged" / "samples" / files[-1])
    assert sheet.size == (columns * (SIDE + GAP) - GAP, 2 * (SIDE + GAP) - GAP)
    cells = [np.asarray(sheet.crop((left, 0, left + SIDE, SIDE))) for left in range(0, sheet.width, SIDE + GAP)]
    assert all((one != other).any() for one, other in itertools.pairwise(cells))

    # And TensorBoard has the losses, each setting's apart, and the pictures
    events = EventAccumulator(str(tmp_path / "logged" / "logs")).Reload()
    assert {"loss", "loss/reconstruct", "learning_rate", "gradient_norm"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]
    assert [event.step for event in events.Images("samples")] == [2, 4]
    lines = [json.loads(line) for line in (tmp_path / "logged" / "losses.jsonl").read_text().splitlines()]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx([line["loss"] for line in lines])


def test_a_logger_that_is_not_installed_is_named(
    components: SDXLComponents, portraits: TinyPortraits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hyperlora.training.logs.find_spec", lambda name: None)
    with pytest.raises(PackageMissing, match="pip install wandb"):
        train(tiny_config("base", tmp_path / "run", loggers=["wandb"]), components=components, dataset=portraits)


def test_data_without_latents_is_encoded_on_the_way(components: SDXLComponents, tmp_path: Path) -> None:
    # Given pictures without latents, when they are trained on
    seen: list[StepReport] = []
    train(
        tiny_config("base", tmp_path / "run", steps=2),
        components=components,
        dataset=TinyPortraits(latents=False),
        on_step=seen.append,
    )
    # Then the losses are those of noise
    assert len(seen) == 2 and all(0.5 < report.loss < 2 for report in seen)

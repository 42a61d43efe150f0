"""`portraits train`, as people call it: from a config file and a dataset on the disk to a network."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_training import SIZES, tiny_dataset, tiny_pipeline
from typer.testing import CliRunner, Result

from hyperlora import HyperLoRA
from hyperlora.training import StepReport
from worker.cli.app import app
from worker.cli.train import _Lines


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model and a dataset, as folders."""
    folder = tmp_path_factory.mktemp("world")
    tiny_pipeline(folder).save_pretrained(folder / "sdxl")
    tiny_dataset(folder / "data")
    return folder


@pytest.fixture
def config(world: Path, tmp_path: Path) -> Path:
    content: dict[str, Any] = {
        "base_model": str(world / "sdxl"),
        "dataset": str(world / "data"),
        "out": str(tmp_path / "run"),
        "network": SIZES,
        "steps": 3,
        "batch_size": 2,
        "warm_up": 1,
        "device": "cpu",
        "in_memory": True,
        "reference": "other",
        "loggers": [],
        "ema_decay": 0.5,
    }
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file


def run(*arguments: object, exit_code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["train", *map(str, arguments)], prog_name="portraits")
    assert result.exit_code == exit_code, f"{result.output}\n{result.exception!r}"
    return result


def test_a_stage_from_files_and_the_next_one_from_it(config: Path, tmp_path: Path) -> None:
    # Given files, when a stage is trained
    answer = json.loads(run("base", "--config", config, "--json").stdout)

    # Then the answer names the network, which is there
    assert (answer["stage"], answer["step"], answer["finished"]) == ("base", 3, True)
    assert HyperLoRA.from_pretrained(answer["network"]).fingerprint == answer["fingerprint"]
    assert answer["losses"]["loss/reconstruct"] > 0

    # And it is what the next stage begins with
    told = run("id-clip", "-c", config, "--set", f"init={tmp_path / 'run'}", "--set", f"out={tmp_path / 'next'}")
    assert "stage id-clip trained: step 3 of 3" in told.stdout
    record = json.loads((tmp_path / "next" / "network" / "training.json").read_text())
    assert record["began_with"] == answer["fingerprint"]
    # Quiet where there is no terminal: the first step and the last
    assert told.stderr.count("step ") == 2


def test_time_runs_out_and_the_rest_follows(config: Path) -> None:
    part = json.loads(run("base", "-c", config, "--minutes", "0", "--json").stdout)
    assert (part["step"], part["finished"]) == (1, False)
    rest = json.loads(run("base", "-c", config, "--resume", "--json").stdout)
    assert (rest["step"], rest["finished"]) == (3, True)


@pytest.mark.parametrize(
    ("arguments", "code", "exit_code"),
    [
        (("--set", "steps=none"), "training_config_invalid", 2),
        (("--set", "dataset=nowhere"), "dataset_missing", 2),
        (("--set", "base_model=no/such/model/here"), "weights_missing", 3),
        (("--set", "network.base_rank=null", "--set", "init=nowhere"), "weights_missing", 3),
    ],
)
def test_faults_have_codes(arguments: tuple[str, ...], code: str, exit_code: int, config: Path) -> None:
    answer = json.loads(run("base", "-c", config, *arguments, "--json", exit_code=exit_code).stdout)
    assert answer["error"]["code"] == code


def test_a_run_is_not_begun_twice_and_not_resumed_as_another(config: Path) -> None:
    run("base", "-c", config)
    assert "resume it" in run("base", "-c", config, exit_code=2).stderr
    assert "seed was 0, is 4" in run("base", "-c", config, "--resume", "--set", "seed=4", exit_code=6).stderr
    assert "was trained already" in run("base", "-c", config, "--resume").stdout


def test_a_signal_ends_it_with_a_code_of_its_own(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Lines, "__call__", lambda self, report: os.kill(os.getpid(), signal.SIGTERM))
    assert "resume to go on" in run("base", "-c", config, exit_code=130).stderr


def test_lines_come_now_and_then_with_the_time_that_is_left() -> None:
    # Given a clock, and a console that keeps lines
    now, told = 0.0, []

    class Console:
        def print(self, line: str, **_: Any) -> None:
            told.append(line)

    lines = _Lines(Console(), 100, lambda: now)

    # When a hundred steps take ten seconds each
    for step in range(1, 101):
        now = 10.0 * step
        lines(StepReport(step, 100, 0.5, {"reconstruct": 0.5}, {"reconstruct": 1}, 1e-4, 1.0))

    # Then there is a line for the first step, for every 30 s, and for the last
    assert told[0] == "step 1/100: reconstruct 0.5000"
    assert told[1] == "step 4/100: reconstruct 0.5000, 16 min left"
    assert told[-1] == "step 100/100: reconstruct 0.5000"
    assert len(told) == 34

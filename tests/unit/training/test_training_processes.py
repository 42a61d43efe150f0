"""Several processes share a step: what they train is what one process trains with all their samples."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_training import SIZES, tiny_dataset, tiny_pipeline

from hyperlora.training import TrainingConfig, train


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def launch(file: Path, processes: int) -> list[subprocess.CompletedProcess[str]]:
    """What a launcher does: a process for each rank, which find each other by a port."""
    port = str(free_port())
    started = []
    for rank in range(processes):
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1"}
        environment = {**os.environ, **{name: str(value) for name, value in places.items()}, "MASTER_PORT": port}
        environment |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "worker.cli", "train", "base", "--config", str(file), "--json"]
        started.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    done = []
    for each in started:
        out, err = each.communicate(timeout=240)
        done.append(subprocess.CompletedProcess(each.args, each.returncode, out, err))
    return done


def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    # Given a base model and a dataset on the disk, and eight samples a step
    tiny_pipeline(tmp_path).save_pretrained(tmp_path / "sdxl")
    tiny_dataset(tmp_path / "data")
    common: dict[str, Any] = {
        "base_model": str(tmp_path / "sdxl"), "dataset": str(tmp_path / "data"), "network": SIZES, "steps": 2,
        "warm_up": 0, "device": "cpu", "loggers": [], "export_dtype": "float32", "ema_decay": None, "log_every": 1,
    }  # fmt: skip
    file = tmp_path / "config.yaml"
    shared = {**common, "out": str(tmp_path / "two"), "batch_size": 2, "accumulation": 2}
    file.write_text(yaml.safe_dump(shared), encoding="utf-8")

    # When two processes take four each, and one process takes all
    two = launch(file, 2)
    assert [each.returncode for each in two] == [0, 0], "\n".join(each.stderr for each in two)
    one = train(TrainingConfig.checked({**common, "stage": "base", "out": str(tmp_path / "one"), "batch_size": 8}))

    # Then losses and weights are the same but for rounding, and only the first process speaks
    answer = json.loads(two[0].stdout)
    assert (answer["step"], two[1].stdout) == (2, "")
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "losses.jsonl").read_text().splitlines()]
        for name in ("two", "one")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name in ("hyper_lora_modules.safetensors", "base_resampler.safetensors"):
        ours, theirs = load_file(Path(answer["network"]) / name), load_file(one / name)
        for key, tensor in theirs.items():
            # Adam divides by the gradient's size: where that is nothing but rounding, its direction is chance.
            assert (ours[key] - tensor).abs().mean() < 1e-5, key
            assert torch.isfinite(ours[key]).all()

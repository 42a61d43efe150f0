"""The config is read from YAML, changed by key=value, and refused with the key's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import tiny_config

from hyperlora.errors import PackageMissing, TrainingConfigInvalid
from hyperlora.training import TrainingConfig
from hyperlora.training.optimizer import make_optimizer, rate_at

ROOT = Path(__file__).resolve().parents[3]
TEXT = """
base_model: models/sdxl
dataset: data
out: runs/base
learning_rate: 1e-5
grids: {every: 100}
"""


def read(tmp_path: Path, text: str = TEXT, *changes: str, stage: str = "base") -> TrainingConfig:
    file = tmp_path / "config.yaml"
    file.write_text(text, encoding="utf-8")
    return TrainingConfig.from_file(file, changes=changes, stage=stage)


def test_a_file_with_changes(tmp_path: Path) -> None:
    config = read(
        tmp_path, TEXT, "steps=7", "grids.count=2", "shares={reconstruct: 1, foundation: 0, base: 0}", "init=x"
    )
    assert (config.stage, config.steps, config.learning_rate, config.init) == ("base", 7, 1e-5, "x")
    assert (config.grids.every, config.grids.count, config.shares.reconstruct) == (100, 2, 1)
    # And it comes back from its own record
    assert TrainingConfig.checked(config.as_data()) == config


def test_the_defaults_are_the_methods() -> None:
    config = TrainingConfig(stage="id-face", base_model="m", dataset=Path("d"), out=Path("o"))
    shares = config.shares
    assert (shares.reconstruct, shares.foundation, shares.base) == (0.90, 0.05, 0.05)
    assert (config.learning_rate, config.caption_dropout, config.base_share) == (1e-4, 0.1, 0.25)
    sizes = config.network
    assert (sizes.rank, sizes.base_rank, sizes.bases, sizes.width, sizes.alpha_over_rank) == (8, 4, 128, 1024, 0.5)


@pytest.mark.parametrize(
    ("text", "changes", "words"),
    [
        (TEXT, ("stepz=7",), "stepz"),
        (TEXT, ("steps=0",), "steps"),
        (TEXT, ("steps=soon",), "steps"),
        (TEXT, ("steps",), "key=value"),
        (TEXT, ("steps={",), "no YAML"),
        (TEXT, ("out.deep=1",), "out holds no keys"),
        (TEXT, ("shares={reconstruct: 0, foundation: 0, base: 0}",), "above zero"),
        (TEXT, ("network.base_rank=null",), "base_rank"),
        (TEXT, ("schedule=cosine", "steps=10"), "shorter warm_up"),
        (TEXT, ("loggers=[csv]",), "loggers"),
        ("- a\n- b\n", (), "keys and values"),
        ("a: [1", (), "no YAML"),
        ("out: x\n", (), "base_model: Field required"),
    ],
)
def test_faults_are_told_by_name(text: str, changes: tuple[str, ...], words: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingConfigInvalid, match=words):
        read(tmp_path, text, *changes)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TrainingConfigInvalid, match=r"nowhere\.yaml"):
        TrainingConfig.from_file(tmp_path / "nowhere.yaml", stage="base")


def test_one_file_for_all_stages(tmp_path: Path) -> None:
    text = TEXT + "stages:\n  base: {steps: 3}\n  id-clip: {steps: 5, init: runs/base, out: runs/id-clip}\n"
    base, clip = read(tmp_path, text), read(tmp_path, text, "steps=6", stage="id-clip")
    assert (base.steps, base.init, base.out.name) == (3, None, "base")
    assert (clip.steps, clip.init, clip.out.name) == (6, "runs/base", "id-clip")
    for wrong in ("stages: {bass: {steps: 3}}", "stages: [base]", "stages: {base: 3}"):
        with pytest.raises(TrainingConfigInvalid, match="stages"):
            read(tmp_path, f"{TEXT}\n{wrong}\n")


@pytest.mark.parametrize("name", ["1x80gb.yaml", "8x80gb.yaml"])
def test_the_examples_pass_every_stage_on_to_the_next(name: str) -> None:
    # Given a config of the examples, read for every stage
    stages = ("base", "id-clip", "id-face", "distill")
    configs = [TrainingConfig.from_file(ROOT / "examples" / "training" / name, stage=stage) for stage in stages]

    # Then each begins with the one before, in a folder of its own, with 32 samples a step
    assert [config.init for config in configs] == [None, *(str(config.out) for config in configs[:-1])]
    assert len({config.out for config in configs}) == 4
    assert {config.batch_size * config.accumulation * int(name[0]) for config in configs} == {32}
    assert [config.steps for config in configs[:3]] == [20_000, 15_000, 55_000]


def test_the_learning_rate_rises_and_then_keeps_or_falls() -> None:
    config = tiny_config("base", Path("run"), steps=10, warm_up=4, learning_rate=0.8)
    assert [rate_at(config, step) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])
    cosine = tiny_config("base", Path("run"), steps=8, warm_up=4, learning_rate=0.8, schedule="cosine")
    # half a cosine over four steps: (1 + cos(k * pi / 4)) / 2
    assert [rate_at(cosine, step) for step in range(4, 9)] == pytest.approx([0.8, 0.6828, 0.4, 0.1172, 0.0], abs=1e-4)


def test_the_eight_bit_optimizer_says_what_it_lacks() -> None:
    config: Any = tiny_config("base", Path("run"), optimizer="adamw8bit")
    with pytest.raises(PackageMissing, match=r"bitsandbytes|CUDA"):
        make_optimizer(config, [torch.nn.Parameter(torch.zeros(2))], torch.device("cpu"))

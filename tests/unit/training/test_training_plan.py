"""The plan for full size is counted from the real shapes, and the measured step runs what training runs."""

from __future__ import annotations

import json
from pathlib import Path

import full_size_step
import pytest
import torch
import training_plan

from hyperlora.config import HyperLoRAConfig
from hyperlora.network import HyperLoRA

ROOT = Path(__file__).resolve().parents[3]


def test_the_parameters_at_full_size() -> None:
    # Given the released sizes with both branches, then the counts are those that are known of them
    counts = training_plan.count(training_plan.full_size_network())
    assert (counts.id_bases, counts.id_resampler, counts.projector) == (1_486_356_480, 74_750_080, 8_407_040)
    assert counts.base_bases == counts.id_bases // 2
    assert counts.whole == pytest.approx(2.37e9, rel=2e-3)
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert f"**{counts.whole:,}**" in page, "python scripts/training_plan.py --write"

    # And stage by stage: each trains its branch, without what it freezes
    assert counts.trained["base"] == counts.base_bases + counts.base_resampler
    assert counts.trained["id-clip"] < counts.id_bases + counts.id_resampler
    assert counts.trained["id-face"] < counts.id_bases + counts.id_resampler + counts.projector
    both = counts.trained["id-face"] + counts.trained["id-clip"]
    assert both > counts.id_bases + counts.id_resampler + counts.projector


def test_activations_and_operations_of_a_small_model() -> None:
    # Given a small network on the meta device
    config = full_size_step.SMALL_UNET
    with torch.device("meta"):
        network = HyperLoRA(HyperLoRAConfig.from_unet(config, base_rank=4, **full_size_step.SMALL_SIZES))
    one, four = (training_plan.one_sample(network, config, latents=side) for side in (8, 16))

    # Then checkpoints keep less, and four times the pixels cost some four times as much
    assert 0 < one.kept < one.kept_plain
    assert 3 < four.flops / one.flops < 5
    assert 2 < four.kept_plain / one.kept_plain < 5


def test_the_full_size_step_runs_small(capsys: pytest.CaptureFixture[str]) -> None:
    assert full_size_step.main(["--small", "--device", "cpu", "--batch", "2", "--steps", "1", "--warm-up", "0"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["device"], told["stage"], told["batch"]) == ("cpu", "id-face", 2)
    assert told["seconds_per_step"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure on")
def test_without_a_gpu_it_refuses_with_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert full_size_step.main([]) == 3
    assert "needs a CUDA device" in capsys.readouterr().err

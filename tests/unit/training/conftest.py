"""Fixtures of the training's tests: one tiny base model for all, whose weights nobody changes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_training import TinyPortraits, tiny_components, tiny_config

from hyperlora.components import SDXLComponents
from hyperlora.training import train

# Programs that a test calls as modules.
ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "bench")]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors on a shared machine are fastest on one thread, and sums come out the same everywhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def components(tmp_path_factory: pytest.TempPathFactory) -> SDXLComponents:
    return tiny_components(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def portraits() -> TinyPortraits:
    return TinyPortraits()


@pytest.fixture(scope="session")
def runs(
    components: SDXLComponents, portraits: TinyPortraits, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Every stage after the one before, some steps each: stage -> folder of its run."""
    folder = tmp_path_factory.mktemp("runs")
    made: dict[str, Path] = {}
    begin = None
    for stage in ("base", "id-clip", "id-face", "distill"):
        config = tiny_config(stage, folder / stage, init=begin, steps=3)
        train(config, components=components, dataset=portraits)
        made[stage] = folder / stage
        begin = str(folder / stage)
    return made

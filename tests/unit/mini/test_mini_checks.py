"""What is measured after each slot: the judge sees what is put before it, and nothing else."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hyperlora.mini.learn.checks import Checks, shown
from hyperlora.mini.learn.drawings import Drawings, DrawingSet, draw_set
from hyperlora.mini.learn.judge import MiniJudge

JUDGE = Path(__file__).resolve().parents[2] / "assets" / "mini-judge"
PEOPLE = 4


class Passing:
    """An autoencoder that loses nothing, or turns pictures about."""

    def __init__(self, flips: bool) -> None:
        self._flips = flips

    def encode(self, images: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: images))

    def decode(self, latents: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=latents.flip(-2) if self._flips else latents)


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> Checks:
    place = draw_set(DrawingSet("validation", 1_000_000, PEOPLE, 4, 128), tmp_path_factory.mktemp("drawings"), 1)
    return Checks(Drawings.load(place), MiniJudge.load(JUDGE), 64)


def test_portraits_that_come_back_whole_are_known(checks: Checks) -> None:
    # When nothing is lost
    told = checks.autoencoder(Passing(flips=False))

    # Then everybody is known and what they wear is read, as well as the judge can
    assert (told["people"], told["rank1"], told["background"]) == (PEOPLE, 1.0, 1.0)
    assert told["clothing"] >= 0.75
    assert shown(told).startswith("rank-1 100% (100% to 100%) of 4 people; clothing ")


def test_portraits_that_come_back_upside_down_are_not(checks: Checks) -> None:
    told = checks.autoencoder(Passing(flips=True))
    assert told["rank1"] < 1.0 and told["clothing"] < 0.75


def test_a_prompt_says_who_it_is_or_that_nobody_is_meant(checks: Checks) -> None:
    # Given what is asked for: the last portrait of everybody
    assert len(checks._prompts) == PEOPLE
    for prompt, caption in zip(checks._prompts, checks.drawings.captions[-PEOPLE:], strict=True):
        assert prompt.startswith("portrait photo of a person, wearing ")
        assert prompt.partition(", ")[2] == caption.partition(", ")[2]

"""What tests of the evaluation share."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperlora.evaluation.model import PortraitModel
from hyperlora.mini import build_untrained_pack


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The untrained pack."""
    return build_untrained_pack(tmp_path_factory.mktemp("packs") / "mini-untrained")


@pytest.fixture(scope="session")
def small(untrained: Path) -> PortraitModel:
    """The untrained pack, drawing as little as can be: 64 pixels in one step."""
    return PortraitModel.from_pack(untrained, size=64, steps=1, batch_size=2)

"""Golden losses: the numbers of the first steps of every stage, with a fixed seed.

A change here is a change of what is trained. `python tests/unit/training/test_training_golden.py` prints them anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import TinyPortraits, tiny_components, tiny_config

from hyperlora.components import SDXLComponents
from hyperlora.training import train

STEPS = 5
GOLDEN: dict[str, list[float]] = {
    "base": [1.064427, 1.108545, 1.11547, 1.041754, 1.090591],
    "id-clip": [0.5103787, 0.8161292, 0.562206, 1.033778, 0.3076314],
    "id-face": [0.5042009, 0.8088168, 0.5597179, 1.025669, 0.3132253],
    "distill": [0.005581139, 0.004247918, 0.004326615, 0.001283778, 0.004982469],
}  # fmt: skip


def losses_of(folder: Path, components: SDXLComponents, portraits: TinyPortraits) -> dict[str, list[float]]:
    """The losses of each stage, each beginning with the one before."""
    found: dict[str, list[float]] = {}
    init = None
    for stage in ("base", "id-clip", "id-face", "distill"):
        seen: list[float] = []
        changes: dict[str, Any] = {"steps": STEPS, "seed": 3, "init": init, "reference": "other", "min_snr_gamma": 5.0}
        train(
            tiny_config(stage, folder / stage, **changes),
            components=components,
            dataset=portraits,
            on_step=lambda report, seen=seen: seen.append(report.loss),  # type: ignore[misc]
        )
        found[stage], init = seen, str(folder / stage)
    return found


def test_the_first_losses_are_the_golden_ones(
    components: SDXLComponents, portraits: TinyPortraits, tmp_path: Path
) -> None:
    found = losses_of(tmp_path, components, portraits)
    assert found.keys() == GOLDEN.keys()
    for stage, losses in found.items():
        # Another processor rounds otherwise; what a LoRA adds is in the third digit. The distillation's loss is the
        # square of a difference of two nearly equal predictions.
        assert losses == pytest.approx(GOLDEN[stage], rel=2e-3 if stage == "distill" else 1e-4, abs=1e-6), stage


if __name__ == "__main__":
    import tempfile

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        made = losses_of(Path(place), tiny_components(Path(place)), TinyPortraits())
    for name, values in made.items():
        print(f'    "{name}": [{", ".join(f"{value:.7g}" for value in values)}],')

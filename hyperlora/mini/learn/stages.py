"""HyperLoRA's three stages on the small world, by the same training code as at full size."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hyperlora.mini.learn.sizes import Sizes
from hyperlora.training import StepReport, TrainingConfig, train

BEFORE = {"base": None, "id-clip": "base", "id-face": "id-clip"}
TWIN_BEFORE = {"id-clip": None, "id-face": "id-clip"}
STAGES_FOLDER, TWIN_FOLDER = "stages", "twin"


def stage_config(stage: str, sizes: Sizes, work: Path, device: str, *, twin: bool = False) -> TrainingConfig:
    """The config of one stage; the twin's differs in having no Base branch, and so no stage before id-clip."""
    before = (TWIN_BEFORE if twin else BEFORE)[stage]
    place = work / (TWIN_FOLDER if twin else STAGES_FOLDER)
    return TrainingConfig.checked(
        {
            "stage": stage,
            "base_model": str(work / "sdxl"),
            "dataset": str(work / "rows"),
            "out": str(place / stage),
            "init": None if before is None else str(place / before),
            "network": {**sizes.hyperlora, **({"base_rank": None} if twin else {})},
            "steps": sizes.stages[stage],
            "batch_size": sizes.batch,
            "learning_rate": sizes.rate,
            "warm_up": min(100, sizes.stages[stage] // 4),
            "schedule": "cosine",
            "ema_decay": 0.998 if sizes.name == "tiny" else 0.999,
            "reference": "same" if stage == "base" else "other",
            "min_snr_gamma": 5.0,
            "timesteps": [150, 900],
            "device": "cpu" if device == "cpu" else "auto",
            "in_memory": True,
            "checkpoint_every": 200,
            "keep": 1,
            "log_every": 20,
            "export_dtype": "float32",
        },
        f"stage {stage} of the mini world",
    )


def train_stage(
    stage: str,
    sizes: Sizes,
    work: Path,
    *,
    twin: bool = False,
    device: str = "cpu",
    max_seconds: float = math.inf,
    tell: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train, or go on training, one stage; answers with where it stands and the smoothed losses of each setting."""
    config = stage_config(stage, sizes, work, device, twin=twin)
    place = config.out.with_suffix(".json")
    if place.exists():
        return dict(json.loads(place.read_text(encoding="utf-8")))
    begun = time.monotonic()
    smooth: dict[str, float] = {}
    last = 0

    def on_step(report: StepReport) -> None:
        nonlocal last
        last = report.step
        for name, value in report.losses.items():
            smooth[name] = 0.98 * smooth.get(name, value) + 0.02 * value
        if report.step % 50 == 0:
            shown = " ".join(f"{name} {value:.4f}" for name, value in smooth.items())
            tell(f"{stage} {report.step}/{report.steps} {shown}, {time.monotonic() - begun:.0f} s")

    train(config, resume=True, on_step=on_step, stop=lambda: time.monotonic() - begun > max_seconds)
    outcome = {"steps": last, "finished": last >= config.steps, "losses": smooth}
    if outcome["finished"]:
        place.write_text(json.dumps(outcome, indent=2) + "\n", encoding="utf-8", newline="\n")
    return outcome

"""Training of HyperLoRA: Base-LoRA, ID-LoRA with CLIP, ID-LoRA with the face embedding, and distillation.

from hyperlora.training import TrainingConfig, train

folder = train(TrainingConfig.from_file("base.yaml", stage="base"))
network = HyperLoRA.from_pretrained(folder)
"""

from __future__ import annotations

from hyperlora.training.config import TrainingConfig
from hyperlora.training.loop import StepReport, train

__all__ = ["StepReport", "TrainingConfig", "train"]

"""How much memory drawing takes, and how to draw in less: facts, measures and plans."""

from __future__ import annotations

from hyperlora.memory.blank import BlankModel
from hyperlora.memory.facts import ModelFacts
from hyperlora.memory.measures import Measure
from hyperlora.memory.plan import GIB, MemoryPlan, plan_memory

__all__ = ["GIB", "BlankModel", "Measure", "MemoryPlan", "ModelFacts", "plan_memory"]

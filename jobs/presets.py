"""Few-step base models by name, as far as a job is concerned: what a profile with a preset draws by default.

How a preset's weights are fused is the model's side (`hyperlora.presets`), which a producer need not have installed;
a test compares both tables. Guidance up to 1 means without classifier-free guidance: it is distilled into the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any


def _drawn(scheduler: str, steps: int) -> Mapping[str, Any]:
    return MappingProxyType({"scheduler": scheduler, "steps": steps, "guidance": 0.0})


PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "lightning-2": _drawn("euler_trailing", 2),
        "lightning-4": _drawn("euler_trailing", 4),
        "lightning-8": _drawn("euler_trailing", 8),
        "hyper-sd-1": _drawn("tcd", 1),
        "hyper-sd-2": _drawn("ddim_trailing", 2),
        "hyper-sd-4": _drawn("ddim_trailing", 4),
        "hyper-sd-8": _drawn("ddim_trailing", 8),
        "lcm-4": _drawn("lcm", 4),
        "lcm-8": _drawn("lcm", 8),
        "dmd2-4": _drawn("dmd2", 4),
    }
)
"""Name to the drawing defaults `scheduler`, `steps` and `guidance`."""

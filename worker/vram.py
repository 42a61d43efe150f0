"""A profile on a device that may take only so much memory: the plan, and the networks where it wants them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch

from hyperlora.clip import ClipVision
from hyperlora.components import SDXLComponents
from hyperlora.memory import GIB, BlankModel, MemoryPlan, ModelFacts, plan_memory
from hyperlora.memory.placement import Placement, place
from hyperlora.memory.plan import CONTEXT
from hyperlora.network import HyperLoRA
from jobs.profiles import Profile
from jobs.settings import Settings

log = logging.getLogger(__name__)
DECODE_AT_ONCE = 4
CONTROLNET = 0.5
"""A ControlNet for SDXL has half the UNet's weights: counted so before it is loaded."""


class Room:
    """What of a profile lies where, and how many pictures fit; without a limit everything, and as many as asked."""

    def __init__(self, asked: int, plan: MemoryPlan | None, placement: Placement) -> None:
        self.plan, self._asked = plan, asked
        self.components, self.decode_at_once = placement.components, placement.decode_at_once
        self.drawing = placement.drawing

    @property
    def batch_size(self) -> int:
        """The largest batch of the size that the model was trained for."""
        return self._asked if self.plan is None else self.plan.batch

    @property
    def told(self) -> str:
        """The plan in words."""
        return f"no limit; batches of {self._asked}" if self.plan is None else str(self.plan)

    def largest_batch(
        self, width: int, height: int, *, guided: bool, given: bool, controls: Sequence[int | None]
    ) -> int:
        """The largest batch of such pictures; at least 1, as the plan's allowances may be too large.

        `controls` are the bytes of the ControlNets at work, None for one that is not loaded yet.
        """
        if self.plan is None:
            return self._asked
        more = sum(int(CONTROLNET * self.plan.facts.unet) if each is None else each for each in controls)
        return max(1, self.plan.largest_batch(width, height, guided=guided, own=True, given=given, more=more))


def loading_device(settings: Settings, device: str) -> str:
    """Where networks are loaded: in host memory if a plan is to place them."""
    return device if settings.vram_gb is None else "cpu"


def make_room(
    profile: Profile,
    settings: Settings,
    components: SDXLComponents,
    network: HyperLoRA,
    clip: ClipVision,
    *,
    device: str,
) -> Room:
    """Place what was loaded on `loading_device`, and hold PyTorch to the limit. Make the pipeline from the answer.

    What lies on the device already, such as a safety checker, counts too. Raises `MemoryTooSmall`.
    """
    asked = settings.batch_size or profile.batch_size
    if settings.vram_gb is None:
        return Room(asked, None, Placement(components, DECODE_AT_ONCE, nullcontext))
    facts = ModelFacts.of(BlankModel.of(components, network, clip.model))
    on = torch.device(device)
    beside = torch.cuda.memory_allocated(on) if on.type == "cuda" else 0
    plan = plan_memory(settings.vram_gb, facts, asked=asked, decode_at_once=DECODE_AT_ONCE, beside=beside)
    _hold_to(settings.vram_gb, on)
    log.info("profile %s %s", profile.name, plan)
    return Room(asked, plan, place(plan, components, network, clip, on))


def _hold_to(vram_gb: float, device: torch.device) -> None:
    """PyTorch's allocator gets the limit less what CUDA's context takes beside it; a CPU has no such limit."""
    if device.type != "cuda":
        return
    _free, total = torch.cuda.mem_get_info(device)
    torch.cuda.set_per_process_memory_fraction(min(1.0, (vram_gb * GIB - CONTEXT) / total), device)


def plan_of(profile: Profile, settings: Settings, dtype: torch.dtype) -> MemoryPlan:
    """The plan of a profile whose files lie on this machine, without loading weights; a hub id is taken for SDXL.

    Raises `MemoryTooSmall`, and what reading configs raises.
    """
    here = lies_here(profile)
    blank = BlankModel.of_folders(*_places(profile), dtype) if here else BlankModel.released(dtype)
    asked = settings.batch_size or profile.batch_size
    return plan_memory(settings.vram_gb, ModelFacts.of(blank), asked=asked, decode_at_once=DECODE_AT_ONCE)


def lies_here(profile: Profile) -> bool:
    """Whether the profile's networks are folders of this machine, which can be counted."""
    return all(each.is_dir() for each in _places(profile))


def _places(profile: Profile) -> tuple[Path, Path, Path]:
    base, hyperlora, clip = (Path(each).expanduser() for each in (profile.base, profile.hyperlora, profile.clip_vision))
    return base, hyperlora, clip

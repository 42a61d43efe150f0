"""A profile on a device that may take only so much memory: the plan, and the networks where it wants them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hyperlora.clip import ClipVision
from hyperlora.components import SDXLComponents
from hyperlora.memory import GIB, BlankModel, MemoryPlan, ModelFacts, plan_memory
from hyperlora.memory.placement import Placement, place
from hyperlora.memory.plan import CONTEXT
from hyperlora.network import HyperLoRA
from jobs.profiles import Profile
from jobs.settings import Settings
from worker.lossy import lossy_of

log = logging.getLogger(__name__)
DECODE_AT_ONCE = 4
CONTROLNET = 0.5
"""A ControlNet for SDXL has half the UNet's weights: counted so before it is loaded."""
FACE_NETWORKS = 3
"""Detector, landmarks and recogniser of a pack, each with an allocator of its own."""
FACE_BYTES = 1 << 30
"""Of a GPU, for each of them: weights of the largest recogniser and a full batch of photos take two thirds of it."""
CPU_PROVIDERS = frozenset({"cpu", "cpuexecutionprovider"})


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
        self, width: int, height: int, *, guided: bool, given: bool, rank: int, controls: Sequence[int | None]
    ) -> int:
        """The largest batch of such pictures; at least 1, as the plan's allowances may be too large.

        `rank` is that of a picture's own LoRAs together; `controls` are the bytes of the ControlNets at work, None for
        one that is not loaded yet.
        """
        if self.plan is None:
            return self._asked
        more = self._bytes_of(controls)
        return max(1, self.plan.largest_batch(width, height, guided=guided, rank=rank, given=given, more=more))

    def has_room(
        self,
        batch: int,
        width: int,
        height: int,
        *,
        guided: bool,
        given: bool,
        rank: int,
        controls: Sequence[int | None],
    ) -> bool:
        """Whether so many such pictures fit beside these ControlNets, at work or not; always without a limit."""
        if self.plan is None or self.plan.limit_bytes is None:
            return True
        more = self._bytes_of(controls)
        peak = self.plan.peak_bytes(batch, width, height, guided=guided, rank=rank, given=given, more=more)
        return peak <= self.plan.limit_bytes

    def _bytes_of(self, controls: Sequence[int | None]) -> int:
        unet = 0 if self.plan is None else self.plan.facts.unet
        return sum(int(CONTROLNET * unet) if each is None else each for each in controls)


@dataclass(frozen=True)
class FaceRoom:
    """Where the face networks run, and what they may take there.

    Parameters
    ----------
    providers
        ONNX Runtime's, the preferred one first; None for the best that is present.
    gpu
        Number of the GPU; None where PyTorch uses none.
    gpu_bytes
        What each of the networks may take of it; None for as much as it wants.
    """

    providers: list[str] | None
    gpu: int | None
    gpu_bytes: int | None

    @property
    def options(self) -> dict[str, Any]:
        """For `load_analyzer`."""
        return {"providers": self.providers, "gpu": self.gpu, "gpu_bytes": self.gpu_bytes}

    @property
    def taken(self) -> int:
        """Bytes of the GPU that a plan counts for all of them."""
        return FACE_NETWORKS * (self.gpu_bytes or 0)


def face_room(profile: Profile, settings: Settings, device: str) -> FaceRoom:
    """Face networks run where PORTRAITS_FACE_PROVIDERS says; unsaid and under a limit on the CPU, as all of the GPU's
    memory is planned for drawing."""
    on = torch.device(device)
    gpu = (torch.cuda.current_device() if on.index is None else on.index) if on.type == "cuda" else None
    names = [name.strip() for name in settings.face_providers.split(",") if name.strip()]
    if settings.vram_gb is None:
        return FaceRoom(names or None, gpu, None)
    on_gpu = profile.faces.startswith("insightface:") and any(name.lower() not in CPU_PROVIDERS for name in names)
    return FaceRoom(names or ["cpu"], gpu, FACE_BYTES if on_gpu else None)


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
    facts = _facts(profile, BlankModel.of(components, network, clip.model))
    on, faces = torch.device(device), face_room(profile, settings, device).taken
    beside = faces + (torch.cuda.memory_allocated(on) if on.type == "cuda" else 0)
    plan = plan_memory(settings.vram_gb, facts, asked=asked, decode_at_once=DECODE_AT_ONCE, beside=beside)
    _hold_to(int(settings.vram_gb * GIB) - CONTEXT - faces, on)
    log.info("profile %s %s", profile.name, plan)
    return Room(asked, plan, place(plan, components, network, clip, on))


def _facts(profile: Profile, model: BlankModel) -> ModelFacts:
    """What the profile's networks take, with the lossy linear layers that it asks for."""
    facts, linears = ModelFacts.of(model), lossy_of(profile).linears
    return facts if linears is None else facts.with_linears(model, linears)


def _hold_to(most: int, device: torch.device) -> None:
    """PyTorch's allocator gets so many bytes, the limit less what others take beside it; a CPU has no such limit."""
    if device.type != "cuda":
        return
    _free, total = torch.cuda.mem_get_info(device)
    torch.cuda.set_per_process_memory_fraction(min(1.0, most / total), device)


def plan_of(profile: Profile, settings: Settings, dtype: torch.dtype) -> MemoryPlan:
    """The plan of a profile whose files lie on this machine, without loading weights; a hub id is taken for SDXL.

    Raises `MemoryTooSmall`, and what reading configs raises.
    """
    here = lies_here(profile)
    blank = BlankModel.of_folders(*_places(profile), dtype) if here else BlankModel.released(dtype)
    asked = settings.batch_size or profile.batch_size
    beside = face_room(profile, settings, "cpu").taken
    return plan_memory(
        settings.vram_gb, _facts(profile, blank), asked=asked, decode_at_once=DECODE_AT_ONCE, beside=beside
    )


def lies_here(profile: Profile) -> bool:
    """Whether the profile's networks are folders of this machine, which can be counted."""
    return all(each.is_dir() for each in _places(profile))


def _places(profile: Profile) -> tuple[Path, Path, Path]:
    base, hyperlora, clip = (Path(each).expanduser() for each in (profile.base, profile.hyperlora, profile.clip_vision))
    return base, hyperlora, clip

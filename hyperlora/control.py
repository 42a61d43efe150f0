"""ControlNets: a second network looks at a conditioning picture and adds to what the UNet's blocks hand on.

Shapes: B rows of the UNet's batch: with guidance every sample twice, negative prompts first, and so the pictures.

Any SDXL ControlNet in diffusers' layout serves, InstantID's among them: it is used alone, on key points (see
`hyperlora.faces.keypoints`), and reads the prompt as every ControlNet does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hyperlora.errors import ControlMismatch, InvalidRequest, WeightsMissing
from hyperlora.hub import files_fingerprint, resolve
from hyperlora.one_at_a_time import LOADING

# What must be equal in both configs for the one's residuals to fit the other's blocks, and its inputs to be readable.
# Small ControlNets have fewer transformer layers than the UNet, which does no harm.
_SHARED = (
    "in_channels",
    "block_out_channels",
    "layers_per_block",
    "cross_attention_dim",
    "addition_embed_type",
    "addition_time_embed_dim",
    "projection_class_embeddings_input_dim",
)
_WEIGHTS = "diffusion_pytorch_model"


class ControlNet:
    """One ControlNet for SDXL, in evaluation mode: openpose, depth, InstantID's key points and the like."""

    def __init__(self, model: Any, name: str, fingerprint: Callable[[], str]) -> None:
        self.model = model.eval().requires_grad_(False)
        self.name = name
        self._fingerprint = fingerprint

    @classmethod
    def from_pretrained(
        cls,
        folder_or_hub_id: str | Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        revision: str | None = None,
    ) -> ControlNet:
        """Load a diffusers folder or a hub id (`owner/name`, `owner/name/folder`), safetensors only.

        Full weights are preferred; where a folder has those of one variant only (fp16), these are taken. Raises
        `WeightsMissing` where they are not there, `ControlMismatch` for another kind of network.
        """
        import diffusers

        loader: Any = diffusers.ControlNetModel
        folder = resolve(folder_or_hub_id, revision)
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise WeightsMissing(f"a ControlNet's folder needs a config.json that can be read: {error}") from error
        kind = config.get("_class_name") if isinstance(config, dict) else None
        if kind != "ControlNetModel":
            raise ControlMismatch(
                f"wanted a diffusers ControlNetModel, {folder} holds {kind}; choose a plain ControlNet"
            )
        variant = _variant(folder)
        try:
            with LOADING:
                model = loader.from_pretrained(
                    folder, dtype=dtype, variant=variant, use_safetensors=True, local_files_only=True
                )
        except (OSError, ValueError, RuntimeError) as error:
            raise ControlMismatch(f"{folder} cannot be loaded as a ControlNet in safetensors: {error}") from error
        files = {file.name: file for file in (folder / "config.json", *_weight_files(folder, variant))}
        # Older diffusers call the loading option differently and then load float32.
        model = model.to(device) if model.dtype == dtype else model.to(device, dtype)
        return cls(model, str(folder_or_hub_id), lambda: files_fingerprint(files))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over names and contents of config and weights, 64 hex digits. Computed when first asked for."""
        return self._fingerprint()

    def require_fit(self, unet: Any, size_step: int) -> None:
        """Raise `ControlMismatch` where this was not made for UNets like this one, with `size_step` pixels a latent."""
        for key in _SHARED:
            own, theirs = (_plain(each.config.get(key)) for each in (self.model, unet))
            if own != theirs:
                raise ControlMismatch(
                    f"the ControlNet {self.name} does not fit the base model: its {key} is {own}, the base model's is "
                    f"{theirs}; choose a ControlNet made for SDXL"
                )
        channels = self.model.config.conditioning_channels
        reduced = 1 << (len(self.model.config.conditioning_embedding_out_channels) - 1)
        if channels != 3 or reduced != size_step:
            raise ControlMismatch(
                f"a ControlNet for this model reads RGB pictures, {size_step} pixels a latent; {self.name} reads "
                f"{channels} channels, {reduced} pixels a latent"
            )


@dataclass(frozen=True)
class Control:
    """A ControlNet at work: how strongly, and from which share of the steps to which (0 to 1)."""

    net: ControlNet
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale) or not 0 <= self.start < self.end <= 1:
            raise InvalidRequest(
                f"a control needs a finite scale and 0 <= start < end <= 1, found scale {self.scale}, "
                f"start {self.start}, end {self.end}"
            )

    def is_on(self, step: int, total: int) -> bool:
        """Whether it acts in a step, counted from 0: one that lies wholly between start and end, as in diffusers."""
        return self.scale != 0 and not (step / total < self.start or (step + 1) / total > self.end)


@dataclass(frozen=True, eq=False)
class ControlInput:
    """A control with its conditioning pictures, (B, 3, H, W), from 0 to 1."""

    control: Control
    pictures_B3HW: torch.Tensor


def make_inputs(
    controls: Sequence[Control], pictures: Sequence[Sequence[Image.Image]], *, guided: bool
) -> list[ControlInput]:
    """Pair each control with its picture of each sample: `pictures[sample][control]`, doubled for guidance."""
    inputs = []
    for number, control in enumerate(controls):
        rows = [np.asarray(own[number].convert("RGB"), dtype=np.uint8) for own in pictures]
        pixels_B3HW = torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).float() / 255
        model = control.net.model
        pixels_B3HW = pixels_B3HW.to(model.device, model.dtype)
        inputs.append(ControlInput(control, torch.cat([pixels_B3HW, pixels_B3HW]) if guided else pixels_B3HW))
    return inputs


def at_work(controls: Sequence[ControlInput], total: int) -> list[tuple[bool, ...]]:
    """For each of so many steps which of the controls are on."""
    return [tuple(each.control.is_on(step, total) for each in controls) for step in range(total)]


def residuals(
    controls: Sequence[ControlInput],
    latents_BCHW: torch.Tensor,
    timestep: torch.Tensor,
    tokens_BTC: torch.Tensor,
    added: Mapping[str, torch.Tensor],
    *,
    share: tuple[int, int],
) -> dict[str, Any]:
    """What the controls add to the UNet in step `share` (step from 0, of how many), as the UNet's own arguments.

    Several controls add up. Empty where no control is on.
    """
    down: list[torch.Tensor] | None = None
    mid: torch.Tensor | None = None
    for each in controls:
        if not each.control.is_on(*share):
            continue
        model = each.control.net.model
        blocks, middle = model(
            latents_BCHW.to(model.device, model.dtype),
            timestep,
            encoder_hidden_states=tokens_BTC.to(model.device, model.dtype),
            controlnet_cond=each.pictures_B3HW,
            conditioning_scale=each.control.scale,
            added_cond_kwargs={name: tensor.to(model.device, model.dtype) for name, tensor in added.items()},
            return_dict=False,
        )
        blocks, middle = [block.to(latents_BCHW) for block in blocks], middle.to(latents_BCHW)
        down = blocks if down is None else [a + b for a, b in zip(down, blocks, strict=True)]
        mid = middle if mid is None else mid + middle
    if down is None:
        return {}
    return {"down_block_additional_residuals": tuple(down), "mid_block_additional_residual": mid}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def _variant(folder: Path) -> str | None:
    """The variant to load: None for full weights, else the only one there is."""
    if _weight_files(folder, None):
        return None
    found = {file.name.removeprefix(f"{_WEIGHTS}.").split(".")[0].split("-")[0] for file in _weight_files(folder, "*")}
    if len(found) != 1:
        names = ", ".join(sorted(found)) or "none"
        raise WeightsMissing(f"a ControlNet's folder needs {_WEIGHTS}.safetensors, {folder} has variants: {names}")
    return found.pop()


def _weight_files(folder: Path, variant: str | None) -> list[Path]:
    """Weights of a variant, whole or in numbered pieces; "*" is any variant."""
    stem = _WEIGHTS if variant is None else f"{_WEIGHTS}.{variant}"
    return sorted({*folder.glob(f"{stem}.safetensors"), *folder.glob(f"{stem}-*-of-*.safetensors")})

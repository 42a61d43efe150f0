"""Weights of few-step models into a UNet, for good: a LoRA that reaches any layer, or a whole UNet.

Unlike `WeightMerger`, which swaps people in the attention projections, this happens once, before anything keeps a
pristine copy. Shapes: r rank, in and out features, kh x kw kernel of a convolution.

    W += weight * (alpha / r) * up (out, r) @ down (r, in * kh * kw)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from hyperlora.errors import CheckpointMismatch, LoRAMismatch, NonFiniteWeights
from hyperlora.unet_names import module_paths, original_name

WeightsKind = Literal["lora", "unet"]

# How a tensor's name ends, and what it then is. Longer endings come first where one ends with the other.
_ENDINGS = {
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    "_lora.down.weight": "down",
    "_lora.up.weight": "up",
    ".lora_A.default.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".alpha": "alpha",
}
_LORA_LIKE = re.compile(r"[._](lora|hada|lokr|dora)[._]|\.(diff|diff_b|oft_blocks)$", re.IGNORECASE)
_PREFIXES = ("base_model.model.", "lora_unet_", "unet.", "model.diffusion_model.", "diffusion_model.")
_TEXT_ENCODER = re.compile(r"(base_model\.model\.)?(lora_te\d?_|text_encoder(_2)?\.|te\d?\.)")
_OTHER_PARTS = ("first_stage_model.", "conditioner.", "cond_stage_model.", "vae.", "text_encoder")


@dataclass(frozen=True)
class _Change:
    """What one module receives."""

    key: str
    down: torch.Tensor
    up: torch.Tensor
    factor: float


def kind_of(tensors: Mapping[str, Any]) -> WeightsKind:
    """Tell by the names whether tensors are a LoRA or a UNet; `LoRAMismatch` where they are neither."""
    if any(_LORA_LIKE.search(key) for key in tensors):
        return "lora"
    if any(_without_prefix(key) in ("conv_in.weight", "input_blocks.0.0.weight") for key in tensors):
        return "unet"
    first = min(tensors, default="")
    raise LoRAMismatch(
        f"weights of a few-step model are a LoRA or a UNet, found {len(tensors)} tensors that are neither, "
        f"first {first!r}"
    )


@torch.no_grad()
def fuse_lora(unet: Any, tensors: Mapping[str, torch.Tensor], weight: float = 1.0) -> int:
    """Add a LoRA to the UNet's own weights, in float32 with one rounding; returns how many modules it changed.

    Reads diffusers', peft's, kohya's and the original SDXL names, linear and convolutional layers alike. A LoRA
    without alphas has factor 1. Raises `LoRAMismatch` naming the tensor that has no place or not the right shape,
    or where text encoders would be changed too, and `NonFiniteWeights`. After `LoRAMismatch` the UNet is as before.
    """
    if not abs(weight) < float("inf"):
        raise NonFiniteWeights(f"a LoRA's weight must be a finite number, found {weight}")
    changes = _changes(unet, tensors)
    for path, change in changes.items():
        own = unet.get_submodule(path).weight
        down_RI = change.down.to(own.device, torch.float32).flatten(1)
        up_OR = change.up.to(own.device, torch.float32).flatten(1)
        delta_OI = torch.mm(up_OR, down_RI).mul_(weight * change.factor)
        fused = own.float().add_(delta_OI.view(own.shape)).to(own.dtype)
        if not torch.isfinite(fused).all():
            raise NonFiniteWeights(
                f"with the LoRA's {change.key!r} the weights of {path} leave the range of {own.dtype}"
            )
        own.copy_(fused)
    return len(changes)


@torch.no_grad()
def load_unet(unet: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Replace all weights of the UNet, names as in diffusers or as in the original SDXL code.

    Every tensor must be there, none may be left over: `CheckpointMismatch` names those, `NonFiniteWeights` one with
    NaN, infinity or numbers beyond the UNet's dtype. After `CheckpointMismatch` the UNet is as before.
    """
    own = unet.state_dict()
    names = _state_names(unet, own)
    given: dict[str, str] = {}
    extra: list[str] = []
    for key in tensors:
        name = names.get(_without_prefix(key))
        if name is None or name in given:
            extra.append(key)
        else:
            given[name] = key
    _check_unet(own, tensors, given, extra)
    for name, key in given.items():
        if not torch.isfinite(own[name].copy_(tensors[key])).all():
            raise NonFiniteWeights(f"tensor {key!r} holds NaN, infinity or numbers beyond {own[name].dtype}")


def _check_unet(
    own: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], given: Mapping[str, str], extra: list[str]
) -> None:
    others = [key for key in extra if key.startswith(_OTHER_PARTS)]
    if others:
        raise CheckpointMismatch(
            f"the file holds more than a UNet ({others[0]!r}); load a whole checkpoint as the base model instead"
        )
    missing = [name for name in own if name not in given]
    if missing or extra:
        found = [f"{len(missing)} missing, first {missing[0]!r}"] if missing else []
        found += [f"{len(extra)} that it has not, first {extra[0]!r}"] if extra else []
        raise CheckpointMismatch(f"the file does not fit this UNet of {len(own)} tensors: {'; '.join(found)}")
    for name, key in given.items():
        tensor = tensors[key]
        if tensor.shape != own[name].shape or not tensor.is_floating_point():
            raise CheckpointMismatch(
                f"tensor {key!r} must be floating point of shape {tuple(own[name].shape)}, "
                f"found {tensor.dtype} of {tuple(tensor.shape)}"
            )


def _state_names(unet: Any, own: Mapping[str, Any]) -> dict[str, str]:
    """diffusers' and the original names of all tensors, with dots, to diffusers' own."""
    names = {name: name for name in own}
    for name in own:
        path, _, part = name.rpartition(".")
        original = original_name(path, unet.config)
        if original is not None:
            names[f"{original}.{part}"] = name
    return names


def _without_prefix(key: str) -> str:
    for prefix in _PREFIXES:
        key = key.removeprefix(prefix)
    return key


def _changes(unet: Any, tensors: Mapping[str, torch.Tensor]) -> dict[str, _Change]:
    """Sort the tensors by module and check all of them before anything is written."""
    texts = [key for key in tensors if _TEXT_ENCODER.match(key)]
    if texts:
        raise LoRAMismatch(
            f"a few-step LoRA may change the UNet only; {len(texts)} tensors are for text encoders, first {texts[0]!r}"
        )
    paths = module_paths(unet)
    keys: dict[str, dict[str, str]] = {}
    for key in tensors:
        path, part = _place(key, paths)
        if part in keys.setdefault(path, {}):
            raise LoRAMismatch(f"tensors {keys[path][part]!r} and {key!r} are for one module of the UNet, {path}")
        keys[path][part] = key
    if not keys:
        raise LoRAMismatch("a LoRA needs tensors, found none")
    return {path: _change(unet.get_submodule(path), parts, tensors) for path, parts in keys.items()}


def _place(key: str, paths: Mapping[str, str]) -> tuple[str, str]:
    for ending, part in _ENDINGS.items():
        if not key.endswith(ending):
            continue
        # Early diffusers put LoRAs of attention into the processor: attn1.processor.to_q_lora.down.weight
        name = _without_prefix(key.removesuffix(ending)).replace(".processor.", ".").replace(".", "_")
        path = paths.get(name) or paths.get(f"{name}_0" if name.endswith("to_out") else "")
        if path is None:
            raise LoRAMismatch(f"tensor {key!r} names no module of this UNet; the LoRA is for another base model")
        return path, part
    raise LoRAMismatch(
        f"tensor {key!r} is no part of a LoRA that can be fused: wanted lora_down and lora_up, or lora_A and lora_B"
    )


def _change(module: Any, keys: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> _Change:
    known = next(iter(keys.values()))
    missing = [part for part in ("down", "up") if part not in keys]
    if missing:
        raise LoRAMismatch(f"the module of tensor {known!r} has no {' and no '.join(missing)} factor in the LoRA")
    if not isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
        raise LoRAMismatch(
            f"tensor {known!r} is for a {type(module).__name__}; linear and convolutional layers take LoRAs"
        )
    down, up, own = tensors[keys["down"]], tensors[keys["up"]], module.weight
    rank = down.shape[0] if down.ndim else 0
    fits = (
        down.ndim in (2, 4)
        and up.ndim in (2, 4)
        and rank > 0
        and _unit_kernel_dropped(up.shape) == (own.shape[0], rank)
        and _unit_kernel_dropped(down.shape)[1:] == _unit_kernel_dropped(own.shape)[1:]
        and down.is_floating_point()
        and up.is_floating_point()
    )
    if not fits:
        raise LoRAMismatch(
            f"tensors {keys['down']!r} {tuple(down.shape)} and {keys['up']!r} {tuple(up.shape)} do not make "
            f"the weights of their module, {tuple(own.shape)}"
        )
    alpha = tensors[keys["alpha"]] if "alpha" in keys else None
    if alpha is not None and alpha.numel() != 1:
        raise LoRAMismatch(f"tensor {keys['alpha']!r} must be one number, found shape {tuple(alpha.shape)}")
    factor = 1.0 if alpha is None else float(alpha.item()) / rank
    if not torch.isfinite(down).all() or not torch.isfinite(up).all() or not abs(factor) < float("inf"):
        raise NonFiniteWeights(f"the LoRA holds NaN or infinity at {known!r}; get the file again")
    return _Change(keys["down"], down, up, factor)


def _unit_kernel_dropped(shape: torch.Size) -> tuple[int, ...]:
    """A 1 x 1 convolution is a linear layer; both ways to write it are in use."""
    return tuple(shape[:2]) if tuple(shape[2:]) == (1, 1) else tuple(shape)

"""How other programs name the tensors of a LoRA.

diffusers, comfyui   lora_unet_down_blocks_1_attentions_0_..._to_q.{alpha|lora_down.weight|lora_up.weight}
kohya                the same, with the blocks named as in the original SDXL code (input_blocks_4_1, middle_block_1)
peft                 unet.down_blocks.1.attentions.0....to_q.{lora_A.weight|lora_B.weight}; it has no alpha, so the
                     factor alpha/rank lies inside lora_B

Everything is float weights in safetensors; nothing here reads pickle.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from hyperlora.errors import LoRAMismatch

LoRAFormat = Literal["diffusers", "comfyui", "kohya", "peft"]
FORMATS: tuple[str, ...] = get_args(LoRAFormat)

PEFT_SETTINGS = "lora_adapter_metadata"
"""Where diffusers writes the scale of a peft file."""

DOWN, UP, ALPHA = "lora_down.weight", "lora_up.weight", "alpha"

_KOHYA_BLOCKS = {
    "down_blocks_1_attentions_0": "input_blocks_4_1",
    "down_blocks_1_attentions_1": "input_blocks_5_1",
    "down_blocks_2_attentions_0": "input_blocks_7_1",
    "down_blocks_2_attentions_1": "input_blocks_8_1",
    "mid_block_attentions_0": "middle_block_1",
    "up_blocks_0_attentions_0": "output_blocks_0_1",
    "up_blocks_0_attentions_1": "output_blocks_1_1",
    "up_blocks_0_attentions_2": "output_blocks_2_1",
    "up_blocks_1_attentions_0": "output_blocks_3_1",
    "up_blocks_1_attentions_1": "output_blocks_4_1",
    "up_blocks_1_attentions_2": "output_blocks_5_1",
}
_DIFFUSERS_BLOCKS = {kohya: ours for ours, kohya in _KOHYA_BLOCKS.items()}
_KOHYA_LAYER = re.compile(r"lora_unet_((?:input|output)_blocks_\d+_1|middle_block_1)_(.+)")
_LAYER = re.compile(
    r"lora_unet_(?P<block>(?:down|up)_blocks_\d+|mid_block)_attentions_(?P<attention>\d+)"
    r"_transformer_blocks_(?P<transformer>\d+)_(?P<module>attn[12])_(?P<projection>to_q|to_k|to_v|to_out_0)"
)

_TEXT_LAYER = re.compile(r"lora_unet_.+_attn2_to_[kv]")
_BASE_OF_TEXT_WIDTH = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 1280: "the SDXL refiner", 2048: "SDXL"}

Factors = dict[str, dict[str, torch.Tensor]]
"""Layer -> {DOWN: (r, in), UP: (out, r), ALPHA: scalar, which may be missing}."""


@dataclass(frozen=True)
class LoRAFile:
    """What a file held when a LoRA was read from it.

    Parameters
    ----------
    format
        How its tensors are named; ComfyUI's names are those of diffusers.
    layers
        How many layers it changes.
    ranks
        Every rank among them, ascending.
    dtypes
        Every number type of the factors ("float16").
    base
        The base model that the width of the text in its layers speaks of; "" where no layer reads the text.
    """

    format: LoRAFormat
    layers: int
    ranks: tuple[int, ...]
    dtypes: tuple[str, ...]
    base: str

    def __str__(self) -> str:
        ranks = " and ".join(str(rank) for rank in self.ranks)
        made_for = f", for {self.base}" if self.base else ""
        return f"{self.format} names, {self.layers} layers, rank {ranks}, {' and '.join(self.dtypes)}{made_for}"


def base_model(shapes: Mapping[str, tuple[int, int]]) -> str:
    """Name the base model of layers, name -> (out, in), by the width of the text that they read; "" if none does."""
    widths = {inside for name, (_, inside) in shapes.items() if _TEXT_LAYER.fullmatch(name)}
    if len(widths) != 1:
        return ""
    (width,) = widths
    return _BASE_OF_TEXT_WIDTH.get(width, f"a model with texts {width} wide")


def is_projection(layer: str) -> bool:
    """True for the name of an attention projection, the only kind of layer that a person's LoRA changes."""
    return _LAYER.fullmatch(layer) is not None


def kohya_name(layer: str) -> str:
    """Rename a layer to the original SDXL block names; `LoRAMismatch` where SDXL has no such block."""
    for ours, kohya in _KOHYA_BLOCKS.items():
        prefix = f"lora_unet_{ours}_"
        if layer.startswith(prefix):
            return f"lora_unet_{kohya}_{layer.removeprefix(prefix)}"
    raise LoRAMismatch(f"the kohya format has names for SDXL's own attention blocks only, found layer {layer!r}")


def peft_name(layer: str) -> str:
    """Write a layer as the dotted path of the module inside a pipeline."""
    found = _LAYER.fullmatch(layer)
    if found is None:
        raise LoRAMismatch(f"the peft format needs an attention projection of the UNet, found layer {layer!r}")
    block = re.sub(r"_(\d+)$", r".\1", found["block"])
    projection = found["projection"].replace("to_out_0", "to_out.0")
    return (
        f"unet.{block}.attentions.{found['attention']}.transformer_blocks.{found['transformer']}"
        f".{found['module']}.{projection}"
    )


def detect(names: Iterable[str]) -> LoRAFormat:
    """Tell the format by the tensor names; `LoRAMismatch` says what was found instead."""
    names = list(names)
    if not names:
        raise LoRAMismatch("a LoRA file needs tensors, found none")
    if any(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in names):
        return "peft"
    if any(_KOHYA_LAYER.match(name) for name in names):
        return "kohya"
    if any(name.startswith("lora_unet_") for name in names):
        return "diffusers"
    raise LoRAMismatch(
        f"no known LoRA format (readable: {', '.join(FORMATS)}): found {len(names)} tensors, first {min(names)!r}"
    )


def collect(tensors: Mapping[str, torch.Tensor], form: LoRAFormat) -> Factors:
    """Sort a file's tensors by layer under our names; `LoRAMismatch` names a tensor that has no place or two."""
    factors: Factors = {}
    for name, tensor in tensors.items():
        layer, part = _split_peft(name) if form == "peft" else _split_underscored(name)
        if part in factors.setdefault(layer, {}):
            raise LoRAMismatch(f"tensor {name!r} is there twice, once under another name: both are {layer}.{part}")
        factors[layer][part] = tensor
    return factors


def _split_underscored(name: str) -> tuple[str, str]:
    layer, _, part = name.partition(".")
    if not layer.startswith("lora_unet_") or part not in (DOWN, UP, ALPHA):
        raise LoRAMismatch(
            f"tensor {name!r} has no place in a LoRA for the UNet: wanted "
            f"lora_unet_<layer>.<{ALPHA}|{DOWN}|{UP}>; LoRAs for text encoders are not read"
        )
    kohya = _KOHYA_LAYER.fullmatch(layer)
    if kohya is None:
        return layer, part
    if kohya[1] not in _DIFFUSERS_BLOCKS:
        raise LoRAMismatch(f"tensor {name!r} names block {kohya[1]!r}, which has no attention in SDXL")
    return f"lora_unet_{_DIFFUSERS_BLOCKS[kohya[1]]}_{kohya[2]}", part


_PEFT_PARTS = {".lora_A.weight": DOWN, ".lora_B.weight": UP, ".alpha": ALPHA}


def _split_peft(name: str) -> tuple[str, str]:
    for ending, part in _PEFT_PARTS.items():
        if name.endswith(ending) and not name.startswith("text_encoder"):
            path = name.removesuffix(ending).removeprefix("base_model.model.").removeprefix("unet.")
            return f"lora_unet_{path.replace('.', '_')}", part
    raise LoRAMismatch(
        f"tensor {name!r} has no place in a LoRA for the UNet: wanted unet.<path>.<lora_A|lora_B>.weight; "
        "LoRAs for text encoders are not read"
    )


def peft_factor(metadata: Mapping[str, str]) -> float:
    """Read alpha / rank from the adapter settings that diffusers keeps in the file's metadata; 1 without them."""
    if PEFT_SETTINGS not in metadata:
        return 1.0
    try:
        settings = json.loads(metadata[PEFT_SETTINGS])
        rank, alpha = float(settings["unet.r"]), float(settings["unet.lora_alpha"])
    except (ValueError, KeyError, TypeError) as error:
        raise LoRAMismatch(f"lora_adapter_metadata needs unet.r and unet.lora_alpha, found {error!r}") from error
    special = ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern")
    unread = [name for name in special if settings.get(f"unet.{name}")]
    if unread:
        raise LoRAMismatch(f"peft LoRAs with one rank and one alpha are read, found {', '.join(unread)}")
    if not (0 < rank < math.inf and math.isfinite(alpha)):
        raise LoRAMismatch(f"lora_adapter_metadata needs a positive unet.r, found r {rank} and lora_alpha {alpha}")
    return alpha / rank

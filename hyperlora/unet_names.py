"""How other programs name the modules of an SDXL UNet.

diffusers         down_blocks.1.attentions.0.proj_in, down_blocks.0.resnets.0.conv1
original SDXL     input_blocks.4.1.proj_in, input_blocks.1.0.in_layers.2

The original code numbers blocks through: `input_blocks.0` is the first convolution, then every resnet (with its
attention) and every downsampler counts; `output_blocks` counts resnets, and an upsampler sits last in its block.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_IN_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_IN_BLOCK = re.compile(
    r"(?:(?P<side>down|up)_blocks\.(?P<block>\d+)|mid_block)\."
    r"(?P<kind>resnets|attentions|downsamplers|upsamplers)\.(?P<index>\d+)\.(?P<rest>.+)"
)


def original_name(path: str, unet_config: Mapping[str, Any]) -> str | None:
    """Name a module of the diffusers UNet as the original SDXL code does; None where that code has no such module."""
    if path in _ENDS:
        return _ENDS[path]
    found = _IN_BLOCK.fullmatch(path)
    if found is None:
        return None
    kind, index = found["kind"], int(found["index"])
    rest = _IN_RESNET.get(found["rest"]) if kind == "resnets" else found["rest"]
    if rest is None:
        return None
    if found["side"] is None:
        return f"middle_block.{2 * index if kind == 'resnets' else 1}.{rest}"
    layers = unet_config.get("layers_per_block", 2)
    per_block = [layers] * len(unet_config["down_block_types"]) if isinstance(layers, int) else list(layers)
    block = int(found["block"])
    if found["side"] == "down":
        start = 1 + sum(count + 1 for count in per_block[:block])
        if kind == "downsamplers":
            return f"input_blocks.{start + per_block[block]}.0.op" if rest == "conv" else None
        return f"input_blocks.{start + index}.{0 if kind == 'resnets' else 1}.{rest}"
    per_block.reverse()
    start = sum(count + 1 for count in per_block[:block])
    if kind == "upsamplers":
        place = 2 if "CrossAttn" in unet_config["up_block_types"][block] else 1
        return f"output_blocks.{start + per_block[block]}.{place}.{rest}"
    return f"output_blocks.{start + index}.{0 if kind == 'resnets' else 1}.{rest}"


def module_paths(unet: Any) -> dict[str, str]:
    """Every known name of a module with weights of its own, underscores for dots, to its path in the diffusers UNet.

    Names: diffusers' own and the original code's.
    """
    paths: dict[str, str] = {}
    for path, module in unet.named_modules():
        if not path or not any(True for _ in module.parameters(recurse=False)):
            continue
        for name in (path, original_name(path, unet.config)):
            if name is not None:
                paths[name.replace(".", "_")] = path
    return paths

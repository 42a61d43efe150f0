"""A LoRA on a UNet as something that can be trained, by peft, and off again without a trace.

Shapes: r rank, in and out features of a projection; down (r, in), up (out, r).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from hyperlora.lora import LoRA, LoRALayer
from hyperlora.merge import attention_projections

_ADAPTER = "refined"


@contextmanager
def attached(unet: nn.Module, lora: LoRA) -> Iterator[dict[str, tuple[nn.Parameter, nn.Parameter]]]:
    """The LoRA as a peft adapter on the UNet, in float32: layer -> (down, up), both trainable; taken off at the end."""
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel

    paths = {each: path for path, each in unet.named_modules()}
    projections = attention_projections(unet)
    path_of = {name: paths[projections[name]] for name in lora.layers}
    kinds = {path: (lora.layers[name].rank, lora.layers[name].alpha) for name, path in path_of.items()}
    (rank, alpha), _ = Counter(kinds.values()).most_common(1)[0]
    # peft calls alpha an int, and divides it like any number.
    common: dict[str, Any] = {"r": rank, "lora_alpha": alpha}
    config = LoraConfig(
        **common,
        # Layers of a sum of LoRAs may differ.
        rank_pattern={path: kind[0] for path, kind in kinds.items() if kind[0] != rank},
        alpha_pattern={path: kind[1] for path, kind in kinds.items() if kind != (rank, alpha)},
        target_modules=list(kinds),
        lora_dropout=0.0,
        bias="none",
        init_lora_weights=False,
    )
    tuner: Any = LoraModel(unet, config, _ADAPTER)
    try:
        factors = {}
        for name, path in path_of.items():
            wrapped: Any = unet.get_submodule(path)
            device = wrapped.get_base_layer().weight.device
            pair = tuple(
                nn.Parameter(factor.to(device, torch.float32, copy=True))
                for factor in (lora.layers[name].down, lora.layers[name].up)
            )
            wrapped.lora_A[_ADAPTER].weight, wrapped.lora_B[_ADAPTER].weight = pair
            factors[name] = (pair[0], pair[1])
        yield factors
    finally:
        tuner.unload()


@contextmanager
def checkpointed(unet: Any) -> Iterator[None]:
    """Keep no activations but those at block borders: SDXL's would not fit a consumer's card."""
    if unet.is_gradient_checkpointing:
        yield
        return
    unet.enable_gradient_checkpointing()
    try:
        yield
    finally:
        unet.disable_gradient_checkpointing()


def layer_of(begun: LoRALayer, down: nn.Parameter, up: nn.Parameter) -> LoRALayer:
    """Trained factors as a layer with the alpha, the dtype and the device of the one they began as."""
    return LoRALayer(
        down.detach().to(begun.down.device, begun.down.dtype),
        up.detach().to(begun.up.device, begun.up.dtype),
        begun.alpha,
    )

"""Module lists and sizes: SDXL's own, and any UNet's."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from tiny_sdxl import tiny_unet

from hyperlora import HyperLoRA, HyperLoRAConfig
from hyperlora.config import AttentionModule, unet_modules
from hyperlora.errors import CheckpointMismatch
from hyperlora.merge import attention_projections

SDXL_UNET: dict[str, Any] = {
    "act_fn": "silu",
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "layers_per_block": 2,
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "use_linear_projection": True,
}


def parameters(module: torch.nn.Module | None) -> int:
    assert module is not None
    return sum(parameter.numel() for parameter in module.parameters())


def test_full_size_counts_are_the_released_ones() -> None:
    # Given the full network, without memory
    with torch.device("meta"):
        network = HyperLoRA(HyperLoRAConfig.sdxl())
    config = network.config
    # Then every count is the one that the method's description gives
    assert len(config.modules) == 140
    assert len(config.projections) == 560
    assert config.tokens == 1120
    assert config.heads == 12
    assert config.tokens * config.bases == 143_360
    assert parameters(network.id_bases) == 1_486_356_480
    assert parameters(network.resampler) == 74_750_080
    assert parameters(network.id_projector) == 8_407_040
    assert sum(8 * (each.in_features + each.out_features) for each in config.projections) == 11_612_160
    assert config.alpha_over_rank == 0.5
    shapes = Counter((each.out_features, each.in_features) for each in config.projections)
    assert shapes == {(1280, 1280): 360, (1280, 2048): 120, (640, 640): 60, (640, 2048): 20}
    assert sum(out * inside * count for (out, inside), count in shapes.items()) == 955_187_200  # 955.2 M base weights


def test_full_size_base_branch_has_half_the_rank() -> None:
    with torch.device("meta"):
        network = HyperLoRA(HyperLoRAConfig.sdxl(base_rank=4))
    assert parameters(network.base_bases) == 1_486_356_480 // 2
    # One stream: no proj_in_2, and per block no attn3 (4 matrices 1024 x 768) and no two norms (2 * 2 * 1024).
    assert parameters(network.base_resampler) == 74_750_080 - 1_049_600 - 4 * (4 * 1024 * 768 + 4 * 1024)


def test_sdxl_module_names_are_those_of_the_diffusers_unet() -> None:
    # Given SDXL's UNet as diffusers builds it
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SDXL_UNET)
    built = {name: (layer.in_features, layer.out_features) for name, layer in attention_projections(unet).items()}
    # Then config and UNet agree on every name and shape
    config = HyperLoRAConfig.sdxl()
    assert {each.layer: (each.in_features, each.out_features) for each in config.projections} == built
    assert HyperLoRAConfig.from_unet(unet.config) == config
    assert config.modules[0] == AttentionModule(
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1", 640, None
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"block_out_channels": (16, 32), "transformer_layers_per_block": 1},
        {"layers_per_block": (1, 3), "cross_attention_dim": (16, 48)},
        {"transformer_layers_per_block": (1, 3), "reverse_transformer_layers_per_block": (2, 1)},
        {"mid_block_type": None},
    ],
)
def test_any_unet_gives_its_own_module_list(changes: dict[str, Any]) -> None:
    # Given a UNet of another shape
    unet = UNet2DConditionModel.from_config({**tiny_unet().config, **changes})
    # When the module list is derived from its config alone
    config = HyperLoRAConfig.from_unet(unet.config)
    # Then names and shapes are those of its real layers
    built = {name: (layer.in_features, layer.out_features) for name, layer in attention_projections(unet).items()}
    assert {each.layer: (each.in_features, each.out_features) for each in config.projections} == built


def test_tokens_go_module_by_module_then_projection_then_down_and_up() -> None:
    config = HyperLoRAConfig(
        modules=(AttentionModule("lora_unet_x_attn1", 8, None), AttentionModule("lora_unet_x_attn2", 8, 12))
    )
    table = [(each.layer, each.in_features, each.down_token, each.up_token) for each in config.projections]
    assert table == [
        ("lora_unet_x_attn1_to_q", 8, 0, 1),
        ("lora_unet_x_attn1_to_k", 8, 2, 3),
        ("lora_unet_x_attn1_to_v", 8, 4, 5),
        ("lora_unet_x_attn1_to_out_0", 8, 6, 7),
        ("lora_unet_x_attn2_to_q", 8, 8, 9),
        ("lora_unet_x_attn2_to_k", 12, 10, 11),
        ("lora_unet_x_attn2_to_v", 12, 12, 13),
        ("lora_unet_x_attn2_to_out_0", 8, 14, 15),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"streams": ("clip", "face")}, "streams must be"),
        ({"dim_head": 60}, "768 is not a multiple of dim_head 60"),
        ({"dim_head": 0}, "dim_head = 0"),
        ({"bases": 0}, "bases = 0"),
        ({"alpha_over_rank": -1.0}, "alpha_over_rank = -1.0"),
        ({"alpha_over_rank": float("nan")}, "alpha_over_rank = nan"),
        ({"alpha_over_rank": float("inf")}, "alpha_over_rank = inf"),
        ({"prompt_hidden_layer": -3}, "hidden layer -2 of the text encoders.* layer -3"),
    ],
)
def test_impossible_sizes_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointMismatch, match=message):
        HyperLoRAConfig.sdxl(**changes)
    assert unet_modules(SDXL_UNET)

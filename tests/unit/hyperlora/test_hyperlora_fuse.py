"""LoRAs and UNets of few-step models into a UNet: names, layers, numbers, refusals."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file
from tiny_sdxl import tiny_pipeline, tiny_unet

from hyperlora.errors import CheckpointMismatch, LoRAMismatch, NonFiniteWeights
from hyperlora.fuse import fuse_lora, kind_of, load_unet
from hyperlora.unet_names import module_paths, original_name

Tensors = dict[str, torch.Tensor]

TARGETS = (
    "to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "conv1", "conv2",
    "conv_shortcut", "time_emb_proj", "downsamplers.0.conv", "upsamplers.0.conv", "conv_in", "conv_out",
    "time_embedding.linear_1", "time_embedding.linear_2", "add_embedding.linear_1", "add_embedding.linear_2",
)  # fmt: skip

SDXL_UNET: dict[str, Any] = {
    "sample_size": 128,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "use_linear_projection": True,
}


@pytest.fixture
def pipe(tmp_path: Path) -> StableDiffusionXLPipeline:
    """A tiny SDXL of its own."""
    return tiny_pipeline(tmp_path)


@pytest.fixture(scope="module")
def full_unet() -> UNet2DConditionModel:
    """SDXL's own UNet, names and shapes only."""
    with torch.device("meta"):
        return UNet2DConditionModel(**SDXL_UNET)


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Tensors:
    """A LoRA made by peft on every linear and convolutional layer, under peft's names of modules."""
    unet = tiny_pipeline(tmp_path_factory.mktemp("tokenizer")).unet
    torch.manual_seed(5)
    # Rank and alpha are equal: files of this kind have no alpha, and mean 1.
    unet.add_adapter(LoraConfig(r=3, lora_alpha=3, target_modules=list(TARGETS)))
    for name, parameter in unet.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    tensors = {name: tensor.detach().clone() for name, tensor in get_peft_model_state_dict(unet).items()}
    assert len(tensors) == 2 * len(list(layers(tiny_unet())))
    return tensors


def layers(unet: Any) -> Iterator[tuple[str, torch.nn.Module]]:
    for path, module in unet.named_modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            yield path, module


def weights(unet: Any) -> Tensors:
    return {name: tensor.clone() for name, tensor in unet.state_dict().items()}


def unchanged(unet: Any, before: Tensors) -> bool:
    return all(torch.equal(tensor, before[name]) for name, tensor in unet.state_dict().items())


def as_kohya(tensors: Tensors, unet: Any, alpha: float, *, original: bool, linear_as_conv: bool = False) -> Tensors:
    """The same LoRA as kohya's programs write it, with an alpha and block names of one of the two kinds."""
    renamed: Tensors = {}
    for key, tensor in tensors.items():
        path, _, part = key.removesuffix(".weight").rpartition(".")
        known = original_name(path, unet.config) if original else path
        assert known is not None
        name = f"lora_unet_{known.replace('.', '_')}"
        kernel = tensor[:, :, None, None] if linear_as_conv and tensor.ndim == 2 else tensor
        renamed[f"{name}.{'lora_down' if part == 'lora_A' else 'lora_up'}.weight"] = kernel
        renamed[f"{name}.alpha"] = torch.tensor(alpha)
    return renamed


def test_fused_is_what_diffusers_fuses(pipe: StableDiffusionXLPipeline, lora: Tensors, tmp_path: Path) -> None:
    # Given the LoRA in a file of diffusers', fused by diffusers itself
    pipe.save_lora_weights(tmp_path, unet_lora_layers=lora)
    tensors = load_file(tmp_path / "pytorch_lora_weights.safetensors")
    ours, before = copy.deepcopy(pipe.unet), weights(pipe.unet)
    pipe.load_lora_weights(tmp_path, weight_name="pytorch_lora_weights.safetensors")
    pipe.fuse_lora(lora_scale=0.7)
    pipe.unload_lora_weights()
    # When we fuse it at the same weight
    count = fuse_lora(ours, tensors, 0.7)
    # Then every weight of every layer is the same, up to the last digits of float32
    assert count == len(list(layers(ours)))
    theirs = pipe.unet.state_dict()
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=2e-6)
    changed = {name for name, tensor in ours.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"{path}.weight" for path, _ in layers(ours)}


def test_fused_gives_what_the_adapter_gives(pipe: StableDiffusionXLPipeline, lora: Tensors, tmp_path: Path) -> None:
    # Given a UNet with the LoRA beside its weights, by peft
    pipe.save_lora_weights(tmp_path, unet_lora_layers=lora)
    ours = copy.deepcopy(pipe.unet)
    pipe.load_lora_weights(tmp_path)
    inputs = {
        "sample": torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)),
        "timestep": torch.tensor(500),
        "encoder_hidden_states": torch.randn(1, 77, 64, generator=torch.Generator().manual_seed(2)),
        "added_cond_kwargs": {"text_embeds": torch.ones(1, 32), "time_ids": torch.ones(1, 6)},
        "return_dict": False,
    }
    # When fused and run, then the predictions agree
    with torch.inference_mode():
        plain = ours(**inputs)[0]
        expected = pipe.unet(**inputs)[0]
        fuse_lora(ours, lora)
        torch.testing.assert_close(ours(**inputs)[0], expected, rtol=0, atol=1e-4)
    assert (plain - expected).abs().max() > 0.05


def as_original(tensors: Tensors, unet: Any) -> Tensors:
    """The same LoRA with dots, under the original code's names."""
    parts = ((key.rpartition(".lora_"), tensor) for key, tensor in tensors.items())
    return {
        f"diffusion_model.{original_name(path, unet.config)}.lora_{end}": tensor for (path, _, end), tensor in parts
    }


NAMINGS = {
    "peft": lambda tensors, unet: {f"base_model.model.{key}": tensor for key, tensor in tensors.items()},
    "diffusers": lambda tensors, unet: {f"unet.{key}": tensor for key, tensor in tensors.items()},
    "diffusers, early": lambda tensors, unet: {
        "unet." + key.replace(".lora_A.", ".lora.down.").replace(".lora_B.", ".lora.up."): tensor
        for key, tensor in tensors.items()
    },
    "original, dotted": as_original,
    "kohya, diffusers' blocks": lambda tensors, unet: as_kohya(tensors, unet, 3.0, original=False),
    "kohya": lambda tensors, unet: as_kohya(tensors, unet, 3.0, original=True),
    "kohya, 1 x 1 kernels": lambda tensors, unet: as_kohya(tensors, unet, 3.0, original=True, linear_as_conv=True),
}


@pytest.mark.parametrize("naming", NAMINGS)
def test_all_names_mean_the_same(lora: Tensors, naming: str) -> None:
    # Given one LoRA under two names
    torch.manual_seed(0)
    plain = tiny_unet()
    other = copy.deepcopy(plain)
    # When both are fused, then the weights are equal, bit for bit
    assert fuse_lora(plain, lora) == fuse_lora(other, NAMINGS[naming](lora, plain))
    assert unchanged(other, weights(plain))


def test_early_names_of_attention_processors(pipe: StableDiffusionXLPipeline) -> None:
    # Given how the first diffusers named LoRAs of attention
    path = "mid_block.attentions.0.transformer_blocks.0.attn1"
    down, up = torch.randn(2, 64), torch.randn(64, 2)
    for name in ("to_q", "to_out"):
        before = weights(pipe.unet)
        key = f"unet.{path}.processor.{name}_lora"
        # When fused, then the projection changes and nothing else
        assert fuse_lora(pipe.unet, {f"{key}.down.weight": down, f"{key}.up.weight": up}) == 1
        target = f"{path}.{name}{'.0' if name == 'to_out' else ''}.weight"
        after = pipe.unet.state_dict()
        torch.testing.assert_close(after[target], before[target] + up @ down)
        assert [key for key in after if not torch.equal(after[key], before[key])] == [target]


def test_alpha_over_rank_and_weight_are_factors(lora: Tensors) -> None:
    # Given an alpha of 1.5 at rank 3, fused at weight 2: a factor of 1
    torch.manual_seed(0)
    plain = tiny_unet()
    other = copy.deepcopy(plain)
    fuse_lora(plain, lora)
    fuse_lora(other, as_kohya(lora, other, 1.5, original=True), 2.0)
    for name, tensor in other.state_dict().items():
        torch.testing.assert_close(tensor, plain.state_dict()[name], rtol=0, atol=1e-6)


def test_half_precision_is_rounded_once(lora: Tensors) -> None:
    # Given a UNet in bfloat16
    torch.manual_seed(0)
    unet = tiny_unet().to(torch.bfloat16)
    before = weights(unet)
    # When a LoRA is fused, then each weight is the exact sum in float32, rounded once
    fuse_lora(unet, lora)
    for path, module in layers(unet):
        down, up = lora[f"{path}.lora_A.weight"], lora[f"{path}.lora_B.weight"]
        own = before[f"{path}.weight"]
        exact = own.float() + (up.flatten(1) @ down.flatten(1)).view(own.shape)
        assert torch.equal(module.weight, exact.to(torch.bfloat16)), path


def lightning_layers() -> list[str]:
    """The layers of SDXL-Lightning's LoRAs, written down from the original UNet's plan: all but the six at the ends."""
    names: list[str] = []

    def resnet(block: str, shortcut: bool) -> None:
        names.extend(f"{block}_{part}" for part in ("in_layers_2", "emb_layers_1", "out_layers_3"))
        names.extend([f"{block}_skip_connection"] * shortcut)

    def attention(block: str, depth: int) -> None:
        names.extend([f"{block}_proj_in", f"{block}_proj_out"])
        for number in range(depth):
            inner = f"{block}_transformer_blocks_{number}"
            for module in ("attn1", "attn2"):
                names.extend(f"{inner}_{module}_{part}" for part in ("to_q", "to_k", "to_v", "to_out_0"))
            names.extend([f"{inner}_ff_net_0_proj", f"{inner}_ff_net_2"])

    for index, shortcut, depth in ((1, 0, 0), (2, 0, 0), (4, 1, 2), (5, 0, 2), (7, 1, 10), (8, 0, 10)):
        resnet(f"input_blocks_{index}_0", bool(shortcut))
        if depth:
            attention(f"input_blocks_{index}_1", depth)
    names += ["input_blocks_3_0_op", "input_blocks_6_0_op"]
    resnet("middle_block_0", False)
    attention("middle_block_1", 10)
    resnet("middle_block_2", False)
    for index, depth in enumerate((10, 10, 10, 2, 2, 2, 0, 0, 0)):
        resnet(f"output_blocks_{index}_0", True)
        if depth:
            attention(f"output_blocks_{index}_1", depth)
    names += ["output_blocks_2_2_conv", "output_blocks_5_2_conv"]
    return names


ENDS = {
    "input_blocks_0_0": "conv_in",
    "time_embed_0": "time_embedding.linear_1",
    "time_embed_2": "time_embedding.linear_2",
    "label_emb_0_0": "add_embedding.linear_1",
    "label_emb_0_2": "add_embedding.linear_2",
    "out_2": "conv_out",
}


def test_every_layer_of_a_full_size_few_step_lora_has_one_module(full_unet: UNet2DConditionModel) -> None:
    # Given the 788 layers that SDXL-Lightning, Hyper-SD and LCM change, and the six at the ends
    names = [*lightning_layers(), *ENDS]
    assert len(names) == len(set(names)) == 788 + 6
    # When looked up in SDXL's own UNet
    paths = module_paths(full_unet)
    targets = [paths[name] for name in names]
    # Then each is one of its linear or convolutional layers, and all 794 are met once
    assert sorted(targets) == sorted(path for path, _ in layers(full_unet))
    assert {name: paths[name] for name in ENDS} == ENDS
    # And the numbering is right where it is easily wrong
    assert paths["input_blocks_4_1_proj_in"] == "down_blocks.1.attentions.0.proj_in"
    assert paths["input_blocks_6_0_op"] == "down_blocks.1.downsamplers.0.conv"
    assert paths["middle_block_2_in_layers_2"] == "mid_block.resnets.1.conv1"
    assert paths["output_blocks_5_2_conv"] == "up_blocks.1.upsamplers.0.conv"
    assert paths["output_blocks_8_0_skip_connection"] == "up_blocks.2.resnets.2.conv_shortcut"


def test_blocks_of_other_depths_are_numbered_through() -> None:
    # Given a UNet with one layer in its first block and two in its second, which the way up mirrors
    with torch.device("meta"):
        unet = UNet2DConditionModel(**{**dict(tiny_unet().config), "layers_per_block": (1, 2)})
    paths = module_paths(unet)
    # Then the way up has three resnets and their upsampler, then two resnets
    assert paths["input_blocks_2_0_op"] == "down_blocks.0.downsamplers.0.conv"
    assert paths["input_blocks_4_1_proj_in"] == "down_blocks.1.attentions.1.proj_in"
    assert paths["output_blocks_2_2_conv"] == "up_blocks.0.upsamplers.0.conv"
    assert paths["output_blocks_4_0_in_layers_2"] == "up_blocks.1.resnets.1.conv1"
    assert "output_blocks_5_0_in_layers_2" not in paths


def test_a_full_size_key_list_fuses_on_the_meta_device(full_unet: UNet2DConditionModel) -> None:
    # Given kohya's keys with the shapes of a LoRA of rank 64, shortcuts as 1 x 1 kernels
    paths = module_paths(full_unet)
    tensors: Tensors = {}
    for name in lightning_layers():
        own = full_unet.get_submodule(paths[name]).weight
        # Numbers, as what is not finite is refused; one tensor of zeros, seen in every shape, costs nothing.
        zero = torch.zeros(())
        tensors[f"lora_unet_{name}.lora_down.weight"] = zero.expand(64, *own.shape[1:])
        tensors[f"lora_unet_{name}.lora_up.weight"] = zero.expand(own.shape[0], 64, *[1] * (own.ndim - 2))
        tensors[f"lora_unet_{name}.alpha"] = torch.tensor(8.0)
    assert len(tensors) == 2364 and kind_of(tensors) == "lora"
    # When planned, then every layer fits
    from hyperlora import fuse

    assert len(fuse._changes(full_unet, tensors)) == 788


def one_layer(path: str = "conv_in", out: int = 32, inner: tuple[int, ...] = (4, 3, 3)) -> Tensors:
    ones = (1,) * (len(inner) - 1)
    return {
        f"unet.{path}.lora_A.weight": torch.ones(2, *inner),
        f"unet.{path}.lora_B.weight": torch.ones(out, 2, *ones),
    }


ALPHA = {"unet.conv_in.alpha": torch.tensor(1.0)}
BAD_LORAS: dict[str, tuple[Tensors, str]] = {
    "nothing": ({}, "needs tensors, found none"),
    "other base": (one_layer("down_blocks.7.conv"), r"'unet.down_blocks.7.conv.lora_A.weight' names no module"),
    "SD 1.5 block": ({"lora_unet_input_blocks_11_0_in_layers_2.lora_down.weight": torch.ones(2, 2)}, "names no module"),
    "text encoder": (
        {**one_layer(), "lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha": torch.ones(())},
        "may change the UNet only; 1 tensors are for text encoders, first 'lora_te1_",
    ),
    "text encoder, peft": (
        {**one_layer(), "text_encoder_2.text_model.encoder.layers.0.mlp.fc1.lora_A.weight": torch.ones(2, 2)},
        "may change the UNet only",
    ),
    "no up": (dict(list(one_layer().items())[:1]), "has no up factor"),
    "alpha alone": (ALPHA, "has no down and no up factor"),
    "dora": (
        {**one_layer(), "unet.conv_in.lora_magnitude_vector": torch.ones(2)},
        "no part of a LoRA that can be fused",
    ),
    "loha": ({"lora_unet_conv_in.hada_w1_a": torch.ones(2, 2)}, "no part of a LoRA that can be fused"),
    "twice": (
        {**one_layer(), "lora_unet_input_blocks_0_0.lora_down.weight": torch.ones(2, 4, 3, 3)},
        "are for one module of the UNet, conv_in",
    ),
    "wrong in": (one_layer(inner=(5, 3, 3)), r"do not make the weights of their module, \(32, 4, 3, 3\)"),
    "wrong out": (one_layer(out=31), "do not make the weights"),
    "wrong kernel": (one_layer(inner=(4, 1, 1)), "do not make the weights"),
    "flat for a kernel": (one_layer(inner=(36,)), "do not make the weights"),
    "other rank": ({**one_layer(), "unet.conv_in.lora_B.weight": torch.ones(32, 3, 1, 1)}, "do not make the weights"),
    "no rank": (
        {"unet.conv_in.lora_A.weight": torch.ones(0, 4, 3, 3), "unet.conv_in.lora_B.weight": torch.ones(32, 0, 1, 1)},
        "do not make the weights",
    ),
    "integers": ({key: tensor.to(torch.int8) for key, tensor in one_layer().items()}, "do not make the weights"),
    "no number": ({**one_layer(), "unet.conv_in.lora_A.weight": torch.ones(())}, "do not make the weights"),
    "many alphas": ({**one_layer(), "unet.conv_in.alpha": torch.ones(2)}, "must be one number"),
    "norm": (one_layer("conv_norm_out", 32, (32,)), "is for a GroupNorm"),
}


@pytest.mark.parametrize("case", BAD_LORAS)
def test_what_does_not_fit_is_refused_and_changes_nothing(pipe: StableDiffusionXLPipeline, case: str) -> None:
    # Given a LoRA with a fault behind a good layer
    tensors, words = BAD_LORAS[case]
    good = one_layer("conv_out", 4, (32, 3, 3)) if tensors else {}
    before = weights(pipe.unet)
    # When fused, then the fault is named and the UNet is as before
    with pytest.raises(LoRAMismatch, match=words):
        fuse_lora(pipe.unet, {**good, **tensors})
    assert unchanged(pipe.unet, before)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(pipe: StableDiffusionXLPipeline, number: float) -> None:
    tensors = one_layer()
    before = weights(pipe.unet)
    for key in tensors:
        with pytest.raises(NonFiniteWeights, match=r"NaN or infinity at 'unet\.conv_in"):
            fuse_lora(pipe.unet, {**tensors, key: tensors[key] * number})
    with pytest.raises(NonFiniteWeights, match="NaN or infinity"):
        fuse_lora(pipe.unet, {**tensors, "unet.conv_in.alpha": torch.tensor(number)})
    with pytest.raises(NonFiniteWeights, match="weight must be a finite number"):
        fuse_lora(pipe.unet, tensors, number)
    assert unchanged(pipe.unet, before)


def test_numbers_beyond_the_dtype_are_refused() -> None:
    with pytest.raises(NonFiniteWeights, match=r"conv_in leave the range of torch\.float16"):
        fuse_lora(tiny_unet().half(), one_layer(), 1e5)


def original_state(unet: Any) -> Tensors:
    """The weights as the original code and ComfyUI name them."""
    renamed = {}
    for name, tensor in unet.state_dict().items():
        path, _, part = name.rpartition(".")
        known = original_name(path, unet.config)
        assert known is not None, name
        renamed[f"model.diffusion_model.{known}.{part}"] = tensor
    return renamed


@pytest.mark.parametrize("original", [False, True])
def test_a_unet_replaces_all_weights(pipe: StableDiffusionXLPipeline, original: bool) -> None:
    # Given another UNet, under either kind of names, in half precision
    torch.manual_seed(9)
    other = tiny_unet().half()
    tensors = original_state(other) if original else other.state_dict()
    assert kind_of(tensors) == "unet" and len(tensors) == len(pipe.unet.state_dict())
    # When loaded, then every weight is the other's
    load_unet(pipe.unet, tensors)
    assert unchanged(pipe.unet, {name: tensor.float() for name, tensor in other.state_dict().items()})
    assert pipe.unet.dtype == torch.float32


def test_every_tensor_of_sdxl_has_an_original_name(full_unet: UNet2DConditionModel) -> None:
    # Given SDXL's own UNet, which has 1680 tensors in either code
    names = original_state(full_unet)
    assert len(names) == len(full_unet.state_dict()) == 1680
    assert "model.diffusion_model.output_blocks.0.1.transformer_blocks.9.attn2.to_out.0.weight" in names
    assert "model.diffusion_model.out.0.bias" in names


def test_a_unet_that_does_not_fit_is_refused_and_changes_nothing(pipe: StableDiffusionXLPipeline) -> None:
    before = weights(pipe.unet)
    less = {name: tensor for name, tensor in before.items() if name != "conv_out.bias"}
    cases: list[tuple[Tensors, str]] = [
        (less, r"fit this UNet of \d+ tensors: 1 missing, first 'conv_out.bias'"),
        (
            {**before, "time_embedding.cond_proj.weight": torch.ones(2)},
            "1 that it has not, first 'time_embedding.cond_pr",
        ),
        ({**before, "unet.conv_in.bias": before["conv_in.bias"]}, "1 that it has not, first 'unet.conv_in.bias'"),
        ({**before, "conv_in.bias": torch.ones(31)}, r"'conv_in.bias' must be floating point of shape \(32,\), found"),
        ({**before, "conv_in.bias": torch.ones(32, dtype=torch.int8)}, "must be floating point"),
        (
            {**before, "first_stage_model.decoder.conv_in.bias": torch.ones(2)},
            "load a whole checkpoint as the base model",
        ),
    ]
    for tensors, words in cases:
        with pytest.raises(CheckpointMismatch, match=words):
            load_unet(pipe.unet, tensors)
        assert unchanged(pipe.unet, before)
    with pytest.raises(NonFiniteWeights, match=r"'conv_in\.bias' holds NaN"):
        load_unet(pipe.unet, {**before, "conv_in.bias": torch.full((32,), float("nan"))})


def test_what_is_neither_a_lora_nor_a_unet_is_refused() -> None:
    for tensors in ({}, {"encoder.weight": torch.ones(1)}):
        with pytest.raises(LoRAMismatch, match=rf"found {len(tensors)} tensors that are neither"):
            kind_of(tensors)

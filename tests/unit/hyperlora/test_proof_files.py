"""The names in a LoRA file, for all 560 projections of SDXL, derived from how other programs build their UNets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.utils import convert_unet_state_dict_to_peft
from safetensors import safe_open
from test_hyperlora_config import SDXL_UNET

from hyperlora import HyperLoRAConfig, LoRA, LoRALayer
from hyperlora.lora_formats import LoRAFormat

PARTS = ("alpha", "lora_down.weight", "lora_up.weight")
RANK = 2


def attention_paths(prefix: str, depth: int) -> Iterator[str]:
    for block in range(depth):
        for module in ("attn1", "attn2"):
            for projection in ("to_q", "to_k", "to_v", "to_out.0"):
                yield f"{prefix}.transformer_blocks.{block}.{module}.{projection}"


def original_paths() -> Iterator[str]:
    """The projections of the original SDXL UNet, as its constructor numbers its blocks.

    Levels of 320, 640 and 1280 channels with 0, 2 and 10 transformer blocks; two residual blocks per level on the way
    down and three on the way up; each entry of input_blocks and output_blocks is a list (residual block, attention,
    down- or upsampling), and the first input block and each downsampling are entries of their own.
    """
    depths = (0, 2, 10)
    entry = 1
    for level, depth in enumerate(depths):
        for _ in range(2):
            yield from attention_paths(f"input_blocks.{entry}.1", depth)
            entry += 1
        if level < len(depths) - 1:
            entry += 1
    yield from attention_paths("middle_block.1", depths[-1])
    entry = 0
    for depth in reversed(depths):
        for _ in range(3):
            yield from attention_paths(f"output_blocks.{entry}.1", depth)
            entry += 1


@pytest.fixture(scope="module")
def diffusers_unet() -> UNet2DConditionModel:
    """SDXL's UNet as diffusers builds it, without memory."""
    with torch.device("meta"):
        return UNet2DConditionModel(**SDXL_UNET)


@pytest.fixture(scope="module")
def diffusers_paths(diffusers_unet: UNet2DConditionModel) -> dict[str, tuple[int, int]]:
    """Path -> (out, in) of every projection, found by the shapes in the state dict."""
    shapes = {name.removesuffix(".weight"): tuple(each.shape) for name, each in diffusers_unet.state_dict().items()}
    return {
        path: (shape[0], shape[1])
        for path, shape in shapes.items()
        if re.search(r"\.attn[12]\.to_(q|k|v|out\.0)$", path)
    }


@pytest.fixture(scope="module")
def lora() -> LoRA:
    """A LoRA for every projection of SDXL, whose numbers tell the layers apart."""
    config = HyperLoRAConfig.sdxl()
    return LoRA(
        {
            each.layer: LoRALayer(
                torch.full((RANK, each.in_features), index / 1024), torch.ones(each.out_features, RANK), RANK / 2
            )
            for index, each in enumerate(config.projections, start=1)
        },
        {"made_from": "a proof"},
    )


def names_in(path: Path) -> set[str]:
    with safe_open(path, framework="pt") as opened:
        assert opened.metadata() == {"made_from": "a proof"}
        return set(opened.keys())


def underscored(paths: Iterator[str] | dict[str, tuple[int, int]]) -> set[str]:
    return {f"lora_unet_{path.replace('.', '_')}.{part}" for path in paths for part in PARTS}


def test_kohya_files_have_the_names_of_the_original_unet(lora: LoRA, tmp_path: Path) -> None:
    lora.save(tmp_path / "x.safetensors", format="kohya")
    expected = underscored(original_paths())
    assert len(expected) == 3 * 560
    assert names_in(tmp_path / "x.safetensors") == expected


@pytest.mark.parametrize("form", ["comfyui", "diffusers"])
def test_comfyui_and_diffusers_files_have_the_names_of_the_diffusers_unet(
    form: LoRAFormat, lora: LoRA, diffusers_paths: dict[str, tuple[int, int]], tmp_path: Path
) -> None:
    lora.save(tmp_path / "x.safetensors", format=form)
    assert len(diffusers_paths) == 560
    assert names_in(tmp_path / "x.safetensors") == underscored(diffusers_paths)


def test_peft_files_have_the_paths_of_the_diffusers_unet(
    lora: LoRA, diffusers_paths: dict[str, tuple[int, int]], tmp_path: Path
) -> None:
    lora.save(tmp_path / "x.safetensors", format="peft")
    expected = {f"unet.{path}.{part}.weight" for path in diffusers_paths for part in ("lora_A", "lora_B")}
    assert names_in(tmp_path / "x.safetensors") == expected


@pytest.mark.parametrize("form", ["diffusers", "comfyui", "kohya", "peft"])
def test_diffusers_reads_each_file_into_the_right_projection(
    form: LoRAFormat,
    lora: LoRA,
    diffusers_unet: UNet2DConditionModel,
    diffusers_paths: dict[str, tuple[int, int]],
    tmp_path: Path,
) -> None:
    # Given a file of each kind
    lora.save(tmp_path / "x.safetensors", format=form)
    # When diffusers reads it and renames what is there to its own paths
    state, alphas = StableDiffusionXLPipeline.lora_state_dict(
        tmp_path / "x.safetensors", unet_config=diffusers_unet.config
    )[:2]
    state = convert_unet_state_dict_to_peft({name.removeprefix("unet."): each for name, each in state.items()})
    # Then each of the 560 projections has its own factors and, but for peft, its alpha
    found = {}
    for name, down in state.items():
        path, is_down, _ = name.partition(".lora_A.weight")
        if is_down:
            up = state[f"{path}.lora_B.weight"]
            found[path] = (up.shape[0], down.shape[1], round(down[0, 0].item() * 1024))
    assert len(state) == 2 * len(found)
    order = {each.layer: index for index, each in enumerate(HyperLoRAConfig.sdxl().projections, start=1)}
    assert found == {
        path: (*shape, order[f"lora_unet_{path.replace('.', '_')}"]) for path, shape in diffusers_paths.items()
    }
    assert set((alphas or {}).values()) == (set() if form == "peft" else {RANK / 2})
    assert len(alphas or {}) == (0 if form == "peft" else 560)


@pytest.mark.parametrize("form", ["diffusers", "comfyui", "kohya", "peft"])
def test_what_is_written_is_read_back_layer_by_layer(form: LoRAFormat, lora: LoRA, tmp_path: Path) -> None:
    lora.save(tmp_path / "x.safetensors", format=form)
    loaded = LoRA.load(tmp_path / "x.safetensors", fits=HyperLoRAConfig.sdxl().layer_shapes)
    assert loaded.layers.keys() == lora.layers.keys()
    for name, layer in loaded.layers.items():
        begun = lora.layers[name]
        assert torch.equal(layer.down, begun.down)
        # peft has no alpha: the factor of 1/2 lies in `up`.
        assert torch.equal(layer.scale * layer.up, begun.scale * begun.up)
    assert loaded.found is not None
    assert (loaded.found.layers, loaded.found.ranks, loaded.found.base) == (560, (RANK,), "SDXL")

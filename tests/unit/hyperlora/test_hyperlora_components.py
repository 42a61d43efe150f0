"""A base model with a few-step preset: fused when it is loaded, and part of its fingerprint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import save_file
from tiny_sdxl import tiny_unet

from hyperlora import LoRA, LoRALayer, PortraitPipeline, Sample
from hyperlora.components import SDXLComponents
from hyperlora.errors import InvalidRequest, LoRAMismatch, UnknownPreset, WeightsMissing
from hyperlora.presets import PRESETS, find_preset

PATH = "down_blocks.0.resnets.0.conv1"


@pytest.fixture
def lora_file(tmp_path: Path) -> Path:
    """A LoRA on one convolution, which people's LoRAs never reach."""
    name = "lora_unet_input_blocks_1_0_in_layers_2"
    generator = torch.Generator().manual_seed(1)
    tensors = {
        f"{name}.lora_down.weight": torch.randn(2, 32, 3, 3, generator=generator),
        f"{name}.lora_up.weight": torch.randn(32, 2, 1, 1, generator=generator),
        f"{name}.alpha": torch.tensor(2.0),
    }
    save_file(tensors, tmp_path / "lora.safetensors")
    return tmp_path / "lora.safetensors"


def load(folder: Path, **options: Any) -> SDXLComponents:
    return SDXLComponents.load(folder, device="cpu", dtype=torch.float32, **options)


def weights(components: SDXLComponents) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = components.unet.state_dict()
    return state


def test_a_presets_lora_is_fused_when_the_model_is_loaded(sdxl_folder: Path, lora_file: Path) -> None:
    # Given a model with and without a preset's LoRA
    plain = load(sdxl_folder)
    few = load(sdxl_folder, preset="lightning-4", preset_weights=lora_file)
    # Then only the LoRA's layer differs, and the preset is known
    changed = [name for name, tensor in weights(few).items() if not torch.equal(tensor, weights(plain)[name])]
    assert changed == [f"{PATH}.weight"]
    assert plain.preset is None and few.preset == find_preset("lightning-4")
    assert not any(parameter.requires_grad for parameter in few.unet.parameters()) and not few.unet.training


def test_a_presets_unet_takes_the_place_of_the_models(sdxl_folder: Path, tmp_path: Path) -> None:
    # Given a distilled UNet in a folder of its own
    torch.manual_seed(9)
    other = tiny_unet()
    save_file(other.state_dict(), tmp_path / "unet.safetensors")
    # When loaded with it, then its weights are the model's
    few = load(sdxl_folder, preset="dmd2-4", preset_weights=tmp_path)
    assert all(torch.equal(tensor, weights(few)[name]) for name, tensor in other.state_dict().items())


def test_a_preset_without_weights_is_a_model_that_was_distilled_already(sdxl_folder: Path) -> None:
    few = load(sdxl_folder, preset="lcm-4")
    assert few.preset == find_preset("lcm-4")
    assert all(torch.equal(tensor, weights(few)[name]) for name, tensor in weights(load(sdxl_folder)).items())


def test_the_fingerprint_covers_the_presets_name_and_weights(
    sdxl_folder: Path, lora_file: Path, sdxl: StableDiffusionXLPipeline
) -> None:
    # Given one base model under several presets and weights
    other_file = lora_file.with_name("other.safetensors")
    save_file({"unet.conv_in.lora_A.weight": torch.ones(1, 4, 3, 3),
               "unet.conv_in.lora_B.weight": torch.ones(32, 1, 1, 1)}, other_file)  # fmt: skip
    options: list[dict[str, Any]] = [
        {},
        {"preset": "lightning-4"},
        {"preset": "lightning-8"},
        {"preset": "lightning-4", "preset_weights": lora_file},
        {"preset": "lightning-8", "preset_weights": lora_file},
        {"preset": "lightning-4", "preset_weights": other_file},
    ]
    # When fingerprinted, then each is another model, and the same one again the next time
    found = [load(sdxl_folder, **option).fingerprint() for option in options]
    assert len(set(found)) == len(options) and {len(fingerprint) for fingerprint in found} == {64}
    assert found == [load(sdxl_folder, **option).fingerprint() for option in options]
    # And so in memory
    memory = [SDXLComponents.from_diffusers(sdxl, preset=preset) for preset in (None, find_preset("lcm-4"))]
    assert memory[0].fingerprint() != memory[1].fingerprint()


@pytest.mark.parametrize("name", PRESETS)
def test_people_come_and_go_above_a_presets_weights(sdxl_folder: Path, lora_file: Path, name: str) -> None:
    # Given a pipeline with a preset's LoRA inside, and a person's LoRA on a projection
    pipeline = PortraitPipeline.from_pretrained(sdxl_folder, preset=name, preset_weights=lora_file)
    fused = {key: tensor.clone() for key, tensor in weights(pipeline.components).items()}
    layer = LoRALayer(torch.full((2, 64), 0.5), torch.full((64, 2), 0.5), 2.0)
    person = LoRA({"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q": layer})
    preset = find_preset(name)
    sample = Sample("a man", seed=1, guidance=preset.guidance)
    options: dict[str, Any] = {"width": 64, "height": 64, "steps": preset.steps, "scheduler": preset.scheduler}
    # When the person is merged, drawn and taken away
    pipeline.apply([(person, 1.0)])
    assert len(pipeline.draw([sample], **options).images) == 1
    pipeline.restore()
    # Then the preset's weights are still there, bit for bit
    assert all(torch.equal(tensor, fused[key]) for key, tensor in weights(pipeline.components).items())


def test_what_cannot_be_fused_is_refused_before_the_model_is_loaded(sdxl_folder: Path, lora_file: Path) -> None:
    nowhere = sdxl_folder / "nowhere"
    with pytest.raises(InvalidRequest, match="preset_weights are fused for a preset; name it too"):
        load(nowhere, preset_weights=lora_file)
    with pytest.raises(UnknownPreset, match="unknown preset 'turbo'"):
        load(nowhere, preset="turbo", preset_weights=lora_file)
    with pytest.raises(WeightsMissing, match=r"no file or folder at .*missing\.safetensors"):
        load(nowhere, preset="lcm-4", preset_weights=lora_file.with_name("missing.safetensors"))
    # And what does not fit is refused when it is seen
    save_file({"unet.nothing.lora_A.weight": torch.ones(1, 1)}, lora_file.with_name("bad.safetensors"))
    with pytest.raises(LoRAMismatch, match="names no module of this UNet"):
        load(sdxl_folder, preset="lcm-4", preset_weights=lora_file.with_name("bad.safetensors"))

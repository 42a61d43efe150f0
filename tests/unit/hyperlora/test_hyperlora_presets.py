"""Few-step presets: the table, whose weights they take, and where those lie."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file
from tiny_sdxl import tiny_pipeline, tiny_unet

from hyperlora.errors import CheckpointMismatch, LoRAMismatch, UnknownPreset, WeightsMissing
from hyperlora.hub import resolve_file
from hyperlora.presets import PRESETS, find_preset, fuse_preset
from hyperlora.schedulers import SCHEDULERS, make_scheduler, set_timesteps

PATH = "mid_block.attentions.0.proj_in"

# As their authors say: sampler, steps, and the timesteps that these walk.
TABLE = {
    "lightning-2": ("euler_trailing", [999, 499]),
    "lightning-4": ("euler_trailing", [999, 749, 499, 249]),
    "lightning-8": ("euler_trailing", [999, 874, 749, 624, 499, 374, 249, 124]),
    "hyper-sd-1": ("tcd", [999]),
    "hyper-sd-2": ("ddim_trailing", [999, 499]),
    "hyper-sd-4": ("ddim_trailing", [999, 749, 499, 249]),
    "hyper-sd-8": ("ddim_trailing", [999, 874, 749, 624, 499, 374, 249, 124]),
    "lcm-4": ("lcm", [999, 759, 499, 259]),
    "lcm-8": ("lcm", [999, 879, 759, 639, 499, 379, 259, 139]),
    "dmd2-4": ("dmd2", [999, 749, 499, 249]),
}


@pytest.fixture
def unet(tmp_path: Path) -> Any:
    return tiny_pipeline(tmp_path).unet


@pytest.fixture
def lora() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        f"unet.{PATH}.lora_A.weight": torch.randn(2, 64, generator=generator),
        f"unet.{PATH}.lora_B.weight": torch.randn(64, 2, generator=generator),
    }


def test_the_table(sdxl: StableDiffusionXLPipeline) -> None:
    # Given what the authors say, then the presets say the same, and their samplers walk it
    assert list(PRESETS) == list(TABLE)
    for name, (scheduler, timesteps) in TABLE.items():
        preset = find_preset(name)
        assert (preset.name, preset.scheduler, preset.steps) == (name, scheduler, len(timesteps))
        assert preset.scheduler in SCHEDULERS and preset.guidance <= 1 and preset.about
        made = make_scheduler(preset.scheduler, sdxl.scheduler.config)
        assert set_timesteps(made, preset.steps).tolist() == timesteps


def test_an_unknown_preset_lists_the_known() -> None:
    with pytest.raises(UnknownPreset, match=r"unknown preset 'turbo', known: lightning-2, .*dmd2-4"):
        find_preset("turbo")


def test_a_lora_is_told_by_its_tensors(unet: Any, lora: dict[str, torch.Tensor], tmp_path: Path) -> None:
    # Given a LoRA in a file whose name says otherwise
    file = tmp_path / "unet.safetensors"
    save_file(lora, file)
    before = unet.state_dict()[f"{PATH}.weight"].clone()
    # When fused, then it is a LoRA
    assert fuse_preset(unet, find_preset("lightning-4"), file) == 1
    delta = lora[f"unet.{PATH}.lora_B.weight"] @ lora[f"unet.{PATH}.lora_A.weight"]
    torch.testing.assert_close(unet.state_dict()[f"{PATH}.weight"], before + delta)


def test_a_unet_is_told_by_its_tensors(unet: Any, tmp_path: Path) -> None:
    # Given a whole UNet in a file whose name says otherwise
    torch.manual_seed(9)
    other = tiny_unet()
    file = tmp_path / "lora.safetensors"
    save_file(other.state_dict(), file)
    # When fused, then it replaces the UNet
    assert fuse_preset(unet, find_preset("dmd2-4"), file) == len(other.state_dict())
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in unet.state_dict().items())
    # And a preset that starts where this UNet does not refuses it
    with pytest.raises(LoRAMismatch, match=r"hyper-sd-1 needs a lora, lora\.safetensors is a unet"):
        fuse_preset(unet, find_preset("hyper-sd-1"), file)


def test_alpha_in_the_metadata_of_diffusers_counts(unet: Any, lora: dict[str, torch.Tensor], tmp_path: Path) -> None:
    # Given peft settings beside the tensors: rank 2, alpha 1
    settings = {"lora_adapter_metadata": json.dumps({"unet.r": 2, "unet.lora_alpha": 1})}
    save_file(lora, tmp_path / "a.safetensors", settings)
    alpha = {f"unet.{PATH}.alpha": torch.tensor(1.0)}
    save_file({**lora, **alpha}, tmp_path / "b.safetensors", settings)
    before = unet.state_dict()[f"{PATH}.weight"].clone()
    half = 0.5 * lora[f"unet.{PATH}.lora_B.weight"] @ lora[f"unet.{PATH}.lora_A.weight"]
    # When fused, then half of it is added; an alpha among the tensors is not counted twice
    for name in ("a", "b"):
        own = copy.deepcopy(unet)
        fuse_preset(own, find_preset("lcm-4"), tmp_path / f"{name}.safetensors")
        torch.testing.assert_close(own.state_dict()[f"{PATH}.weight"], before + half)


def test_a_broken_file_is_refused(unet: Any, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"\x80\x04not what it seems")
    with pytest.raises(LoRAMismatch, match=r"weights of preset lcm-4 are a \.safetensors file"):
        fuse_preset(unet, find_preset("lcm-4"), tmp_path / "a.safetensors")
    save_file({"conv_in.weight": torch.ones(1)}, tmp_path / "b.safetensors")
    with pytest.raises(CheckpointMismatch, match="missing"):
        fuse_preset(unet, find_preset("lcm-4"), tmp_path / "b.safetensors")


def test_weights_are_a_file_or_a_folder_with_one(tmp_path: Path) -> None:
    # Given a folder with one file, then either names it
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"")
    (tmp_path / "README.md").write_text("")
    assert resolve_file(file) == resolve_file(str(file)) == resolve_file(tmp_path) == file
    # And with two, the folder leaves it open
    (tmp_path / "b.safetensors").write_bytes(b"")
    with pytest.raises(WeightsMissing, match=r"has: a\.safetensors, b\.safetensors; name the file"):
        resolve_file(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsMissing, match="has: none; name the file"):
        resolve_file(tmp_path / "empty")
    # And other kinds of files are never loaded
    (tmp_path / "c.bin").write_bytes(b"")
    with pytest.raises(WeightsMissing, match=r"must be \.safetensors .*found c\.bin"):
        resolve_file(tmp_path / "c.bin")
    with pytest.raises(WeightsMissing, match="no file or folder at"):
        resolve_file(tmp_path / "missing.safetensors")


def test_weights_on_the_hub_are_named_by_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a hub that hands out one file
    asked = []

    def download(repository: str, file: str, *, revision: str | None) -> str:
        asked.append((repository, file, revision))
        if repository == "nobody/nothing":
            raise LocalEntryNotFoundError("offline")
        return str(tmp_path / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    # When a file is named, then only that is fetched
    found = resolve_file("ByteDance/SDXL-Lightning/sub/four.safetensors", "v1")
    assert found == tmp_path / "sub" / "four.safetensors"
    assert asked == [("ByteDance/SDXL-Lightning", "sub/four.safetensors", "v1")]
    # And a whole repository, another kind of file or a way out of it is not
    for name in ("ByteDance/SDXL-Lightning", "tianweiy/DMD2/unet.bin", "a/b/c/../../d.safetensors"):
        with pytest.raises(WeightsMissing, match=r"named owner/name/file\.safetensors"):
            resolve_file(name)
    with pytest.raises(WeightsMissing, match="it is not a hub id"):
        resolve_file("four.safetensors")
    with pytest.raises(WeightsMissing, match="cannot be fetched: LocalEntryNotFoundError"):
        resolve_file("nobody/nothing/four.safetensors")
    assert len(asked) == 2

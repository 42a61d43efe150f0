"""What a base model is loaded from, and how it is told from others: folders, single files, hub ids."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import save_file
from tiny_sdxl import tiny_pipeline

from hyperlora import PortraitPipeline
from hyperlora.components import SDXLComponents
from hyperlora.errors import (
    WeightsMissing,
)


def test_fingerprint_of_a_folder_follows_its_files(sdxl_folder: Path, tmp_path: Path) -> None:
    # Given a copy of the folder, with a model card and weights of another variant beside
    copy = tmp_path / "copy"
    shutil.copytree(sdxl_folder, copy)
    before = PortraitPipeline.from_pretrained(sdxl_folder).fingerprint
    (copy / "README.md").write_text("a model card")
    (copy / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"another variant")
    # Then the place and what is not loaded do not count
    pipeline = PortraitPipeline.from_pretrained(copy)
    assert pipeline.fingerprint == before
    assert len(before) == 64
    # And what is loaded does
    config = copy / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text() + "\n")
    assert PortraitPipeline.from_pretrained(copy).fingerprint != before


def test_fingerprint_of_a_model_in_memory_follows_its_weights(tmp_path: Path) -> None:
    a, b = (PortraitPipeline(SDXLComponents.from_diffusers(tiny_pipeline(tmp_path))) for _ in range(2))
    assert a.fingerprint == b.fingerprint
    c = PortraitPipeline(SDXLComponents.from_diffusers(tiny_pipeline(tmp_path)))
    with torch.no_grad():
        c.components.unet.conv_in.bias[0] += 1
    assert c.fingerprint != a.fingerprint


def test_what_is_no_sdxl_model_is_a_clear_error(sdxl_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match="not a hub id"):
        PortraitPipeline.from_pretrained("/no/such/model")
    with pytest.raises(WeightsMissing, match=r"needs model_index\.json"):
        PortraitPipeline.from_pretrained(tmp_path)
    # A checkpoint that may run code is not opened.
    (tmp_path / "model.ckpt").write_bytes(b"pickle")
    with pytest.raises(WeightsMissing, match=r"must be \.safetensors"):
        PortraitPipeline.from_pretrained(tmp_path / "model.ckpt")
    # Neither is a folder whose UNet is pickled.
    copy = tmp_path / "copy"
    shutil.copytree(sdxl_folder, copy)
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save({}, copy / "unet" / "diffusion_pytorch_model.bin")
    weights.unlink()
    with pytest.raises(WeightsMissing, match="cannot be loaded as an SDXL model in safetensors"):
        PortraitPipeline.from_pretrained(copy)


def test_a_single_file_and_a_hub_id_go_through_diffusers(
    sdxl: StableDiffusionXLPipeline, sdxl_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given diffusers' loaders, recorded
    asked: dict[str, Any] = {}

    def from_single_file(path: str, **options: Any) -> Any:
        asked["file"] = (path, options["dtype"])
        return tiny_pipeline(tmp_path)

    def download(repository: str, **options: Any) -> str:
        asked["hub"] = (repository, options)
        return str(sdxl_folder)

    monkeypatch.setattr(StableDiffusionXLPipeline, "from_single_file", from_single_file)
    monkeypatch.setattr(StableDiffusionXLPipeline, "download", download)
    file = tmp_path / "model.safetensors"
    save_file({"x": torch.ones(3)}, file)
    # When loaded by file and by id
    single = PortraitPipeline.from_pretrained(file)
    hub = PortraitPipeline.from_pretrained("owner/model", revision="r1")
    # Then they asked for that, in safetensors
    assert asked["file"] == (str(file), torch.float32)
    assert asked["hub"] == ("owner/model", {"revision": "r1", "variant": None, "use_safetensors": True})
    assert len({single.fingerprint, hub.fingerprint}) == 2
    assert hub.fingerprint == PortraitPipeline.from_pretrained(sdxl_folder).fingerprint
    assert sdxl.config is not None

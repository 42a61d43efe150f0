"""Fixtures of the model's unit tests: tiny networks, made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from tiny_sdxl import tiny_clip_vision, tiny_pipeline

from hyperlora import HyperLoRA, HyperLoRAConfig, PortraitPipeline
from hyperlora.components import SDXLComponents


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors on a shared machine are fastest on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusionXLPipeline:
    """The tiny model as diffusers runs it; nobody may change its weights."""
    return tiny_pipeline(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def sdxl_folder(sdxl: StableDiffusionXLPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a diffusers folder."""
    folder = tmp_path_factory.mktemp("sdxl")
    sdxl.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def pipeline(sdxl_folder: Path) -> PortraitPipeline:
    """Our pipeline on a copy of the tiny model; tests restore what they merge."""
    return PortraitPipeline.from_pretrained(sdxl_folder)


@pytest.fixture
def fresh_pipeline(tmp_path: Path) -> PortraitPipeline:
    """Our pipeline on a model of its own."""
    return PortraitPipeline(SDXLComponents.from_diffusers(tiny_pipeline(tmp_path)))


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip_vision(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def unet_network(pipeline: PortraitPipeline) -> HyperLoRA:
    """A random HyperLoRA with both streams and a Base branch for the tiny UNet."""
    torch.manual_seed(11)
    config = HyperLoRAConfig.from_unet(
        pipeline.components.unet.config,
        rank=4,
        base_rank=2,
        bases=6,
        width=32,
        depth=2,
        dim_head=8,
        inner=24,
        feed_forward=64,
        face_width=10,
        id_tokens=3,
        id_token_width=16,
        clip_width=24,
        face_encoder="test-encoder",
    )
    network = HyperLoRA(config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return network

"""Random models of full size have the released geometry; small ones are loaded and drawn with like any others."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from PIL import Image

from bench import random_pack
from bench.random_models import GEOMETRIES
from hyperlora import HyperLoRA, PortraitPipeline
from hyperlora.clip import ClipVision
from hyperlora.faces import load_analyzer
from hyperlora.identity import prepare_identity
from jobs.profiles import find_profile
from jobs.settings import Settings

CPU = torch.device("cpu")


def test_full_size_is_the_released_size() -> None:
    # Given SDXL's geometry
    from diffusers import AutoencoderKL, UNet2DConditionModel

    sdxl = GEOMETRIES["sdxl"]
    # When its networks are made without memory
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(**sdxl.unet), AutoencoderKL(**sdxl.vae)
        network = HyperLoRA(sdxl.hyperlora_config())
    # Then they have as many parameters as the released ones
    sizes = [sum(parameter.numel() for parameter in module.parameters()) for module in (unet, vae, network)]
    assert sizes == [2_567_463_684, 83_653_863, 1_569_513_600]
    assert sdxl.size == 1024


@pytest.mark.filterwarnings("ignore")
def test_a_small_random_profile_draws(tmp_path: Path) -> None:
    # Given a profile that is made, and found again when it is asked for once more
    options = argparse.Namespace(model="mini", device=CPU, dtype=torch.float32)
    name, file = random_pack.random_profile(tmp_path, options)
    written = file.stat().st_mtime_ns
    assert random_pack.random_profile(tmp_path, options) == (name, file)
    assert file.stat().st_mtime_ns == written
    profile = find_profile(Settings(home=tmp_path, profiles_file=file), name)
    # When a person is read and drawn with it
    network = HyperLoRA.from_pretrained(profile.hyperlora)
    analyzer, clip = load_analyzer(profile.faces), ClipVision.from_pretrained(profile.clip_vision)
    network.require_face_encoder(analyzer.name, analyzer.embedding_size)
    with Image.open(Path(__file__).resolve().parents[3] / "examples" / "photos" / "ada-1.jpg") as photo:
        person = prepare_identity(analyzer, clip, [photo.convert("RGB")])
    lora = network.generate(person.face_embeddings, person.clip_tokens)
    pipeline = PortraitPipeline.from_pretrained(profile.base, trigger_words=network.config.trigger_words)
    (without,) = pipeline("a person", seeds=1, width=64, height=64, steps=2)
    (image,) = pipeline("a person", [(lora, 0.8)], seeds=1, width=64, height=64, steps=2)
    # Then there is a picture, which the person changes
    assert image.size == (64, 64)
    assert image.tobytes() != without.tobytes()
    assert set(profile.drawing()) == {"size", "steps", "guidance", "scheduler"}

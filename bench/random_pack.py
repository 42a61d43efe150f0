#!/usr/bin/env python
"""A profile of full size with random weights, without a download: everything a worker loads, in the released layouts.

    python bench/random_pack.py FOLDER                    SDXL, CLIP ViT-L/14 and the released HyperLoRA: 10 GB
    python bench/random_pack.py FOLDER --model mini       the same files, small

    sdxl/           a diffusers StableDiffusionXLPipeline folder
    clip_vision/    a transformers CLIPVisionModel with its image processor
    hyperlora/      the released HyperLoRA layout, ID branch
    profiles.toml   the profile `random`; its faces are found by the networks of packs/mini-tiny

Pictures are noise, and take as long as others. The face networks are small ones: what antelopev2 would take more is
measured by bench/people.py.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench import common
from bench.random_models import (
    GEOMETRIES,
    Geometry,
    random_clip_vision,
    random_hyperlora,
    random_text_encoder,
    random_unet,
    random_vae,
)
from hyperlora.mini.vocabulary import END, TRIGGER_WORDS, write_tokenizer
from worker.quiet import quiet_libraries

NAME = "random"
FACES = common.ROOT / "packs" / "mini-tiny" / "mini_faces"
PROFILE = """# Random weights of geometry {model}, made by bench/random_pack.py.
[profiles.{name}]
base = "{folder}/sdxl"
hyperlora = "{folder}/hyperlora"
clip_vision = "{folder}/clip_vision"
faces = "insightface:{faces}"
dtype = "{dtype}"
batch_size = 8
safety = "none"
defaults = {{ size = {size}, steps = 20, guidance = 5, scheduler = "dpmpp_2m_karras" }}
"""


def random_profile(folder: Path, options: argparse.Namespace) -> tuple[str, Path]:
    """The profile's name and its file; made in `folder` / the model's name unless it is there already."""
    target = (folder / options.model).resolve()
    file = target / "profiles.toml"
    if not file.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            _write(fresh, target, GEOMETRIES[options.model], options.device, options.dtype)
            fresh.rename(target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return NAME, file


def _write(folder: Path, target: Path, geometry: Geometry, device: torch.device, dtype: torch.dtype) -> None:
    """Every part, one after another, so that only one is in memory; the profile last."""
    quiet_libraries()
    with torch.no_grad():
        _write_sdxl(folder / "sdxl", geometry, device, dtype)
        random_clip_vision(geometry, device, dtype).save_pretrained(folder / "clip_vision")
        _write_json(folder / "clip_vision" / "preprocessor_config.json", _processor(geometry.clip["image_size"]))
        random_hyperlora(
            geometry, device, dtype, face_width=512, face_encoder="insightface-mini_faces", trigger_words=TRIGGER_WORDS
        ).save_pretrained(folder / "hyperlora")
    told = PROFILE.format(
        model=geometry.name,
        name=NAME,
        folder=target,
        faces=FACES,
        dtype=str(dtype).removeprefix("torch."),
        size=geometry.size,
    )
    (folder / "profiles.toml").write_text(told, encoding="utf-8")


def _write_sdxl(folder: Path, geometry: Geometry, device: torch.device, dtype: torch.dtype) -> None:
    from diffusers import DPMSolverMultistepScheduler

    for name in ("tokenizer", "tokenizer_2"):
        end = write_tokenizer(folder / name)[END]
    for number, name in enumerate(("text_encoder", "text_encoder_2")):
        random_text_encoder(geometry, number, end, device, dtype).save_pretrained(folder / name)
    random_unet(geometry, device, dtype).save_pretrained(folder / "unet")
    random_vae(geometry, device, dtype).save_pretrained(folder / "vae")
    scheduler: Any = DPMSolverMultistepScheduler
    scheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, use_karras_sigmas=True
    ).save_pretrained(folder / "scheduler")
    _write_json(folder / "model_index.json", _index())


def _index() -> dict[str, Any]:
    transformers = {
        "text_encoder": "CLIPTextModel",
        "text_encoder_2": "CLIPTextModelWithProjection",
        "tokenizer": "CLIPTokenizer",
        "tokenizer_2": "CLIPTokenizer",
    }
    own = {"scheduler": "DPMSolverMultistepScheduler", "unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
    return {
        "_class_name": "StableDiffusionXLPipeline",
        "force_zeros_for_empty_prompt": True,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        **{name: ["transformers", kind] for name, kind in transformers.items()},
        **{name: ["diffusers", kind] for name, kind in own.items()},
    }


def _processor(side: int) -> dict[str, Any]:
    """CLIP's own preprocessing at this side."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "do_convert_rgb": True,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the profile and say how it is used."""
    made = common.parser(__doc__)
    made.add_argument("folder", type=Path)
    options = common.parsed(made, arguments)
    name, file = random_profile(options.folder, options)
    print(f"portraits worker with PORTRAITS_PROFILES_FILE={file} PORTRAITS_PROFILE={name}")


if __name__ == "__main__":
    main()

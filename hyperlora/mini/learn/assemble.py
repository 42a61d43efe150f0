"""The trained networks as a pack: the layout of the untrained one, with an InsightFace folder beside.

pack.json     what it is and how to draw with it; README.md, the model card
sdxl/         a diffusers StableDiffusionXLPipeline folder
clip_vision/  a transformers CLIPVisionModel with its image processor
mini_faces/   an InsightFace pack of ONNX files
hyperlora/    the released HyperLoRA layout, ID and Base branch
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from hyperlora.mini.learn.foundation import Foundation
from hyperlora.mini.learn.looks import write_processor
from hyperlora.mini.learn.sizes import Sizes
from hyperlora.mini.models import SCHEDULER_CONFIG
from hyperlora.mini.vocabulary import TRIGGER_WORDS, write_tokenizer
from hyperlora.network import HyperLoRA

FACES = "mini_faces"
MOST_BYTES = 40_000_000
MOST_FILE_BYTES = 15_000_000


def write_sdxl(folder: Path, foundation: Foundation, vae: Any, tokenizer: Any) -> None:
    """A StableDiffusionXLPipeline folder in half precision."""
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionXLPipeline

    shutil.rmtree(folder, ignore_errors=True)
    pipeline: Any = cast(Any, StableDiffusionXLPipeline)(
        vae=vae,
        text_encoder=foundation.first,
        text_encoder_2=foundation.second,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=foundation.unet,
        scheduler=cast(Any, DPMSolverMultistepScheduler)(**SCHEDULER_CONFIG, use_karras_sigmas=True),
        add_watermarker=False,
    )
    pipeline.to(torch.float16).save_pretrained(folder)
    for name in ("tokenizer", "tokenizer_2"):
        shutil.rmtree(folder / name)
        write_tokenizer(folder / name)
    pipeline.to(torch.float32)


def write_clip_vision(folder: Path, tower: Any, side: int) -> None:
    """A transformers folder in half precision, with CLIP's preprocessing at the tower's side."""
    shutil.rmtree(folder, ignore_errors=True)
    tower.half().save_pretrained(folder)
    tower.float()
    write_processor(folder, side)


def write_pack(
    folder: Path, sizes: Sizes, *, vae: Any, sdxl: Path, clip_vision: Path, faces: Path, hyperlora: Path, card: str,
    made: Mapping[str, Any],
) -> Path:  # fmt: skip
    """Put the parts together; `pack.json` comes last. Raises `ValueError` for a pack beyond its budget."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, part in (("sdxl", sdxl), ("clip_vision", clip_vision), (FACES, faces)):
        shutil.copytree(part, folder / name)
    vae.half().save_pretrained(folder / "sdxl" / "vae")
    HyperLoRA.from_pretrained(hyperlora).half().save_pretrained(folder / "hyperlora")
    (folder / "README.md").write_text(card, encoding="utf-8", newline="\n")
    described = {
        "name": f"mini-{sizes.name}",
        "trained": True,
        "faces": f"insightface:{FACES}",
        "size": sizes.side,
        "steps": 20,
        "scheduler": "dpmpp_2m_karras",
        "guidance": 3.0,
        "trigger_words": TRIGGER_WORDS,
        "sdxl": "sdxl",
        "clip_vision": "clip_vision",
        "hyperlora": "hyperlora",
        "made": dict(made),
    }
    text = json.dumps(described, indent=2) + "\n"
    (folder / "pack.json").write_text(text, encoding="utf-8", newline="\n")
    check_budget(folder)
    return folder


def check_budget(folder: Path) -> int:
    """Bytes of the whole pack. Raises `ValueError` beyond 40 MB, for a file beyond 15 MB, and for a forbidden kind."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    whole = sum(file.stat().st_size for file in files)
    large = [file.name for file in files if file.stat().st_size > MOST_FILE_BYTES]
    kinds = {file.suffix for file in files} - {".json", ".txt", ".md", ".safetensors", ".onnx"}
    if whole > MOST_BYTES or large or kinds:
        raise ValueError(f"a pack has at most 40 MB and 15 MB a file: found {whole:,} bytes, {large}, kinds {kinds}")
    return whole

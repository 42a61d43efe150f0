"""The untrained model pack: everything the real one has, in its layout and classes, with weights from a seed.

    pack.json      what it is, and the marker that it is complete
    README.md      the model card
    sdxl/          a diffusers StableDiffusionXLPipeline folder
    clip_vision/   a transformers CLIPVisionModel with its image processor
    hyperlora/     the released HyperLoRA layout, ID and Base branch, for SFace embeddings of 128 numbers

Its pictures are abstract: soft colours that answer to seed, prompt and person, but show nobody.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch

from hyperlora.mini import models
from hyperlora.mini.vocabulary import END, LENGTH, TRIGGER_WORDS, write_tokenizer

NAME = "mini-untrained"
RECIPE = 1  # raise it when the same seed makes other weights: packs of an older recipe are built anew
MARKER = "pack.json"

_CARD = """---
license: apache-2.0
tags: [hyperlora, untrained]
---
# {name}: an untrained pack

**This pack is untrained.** No network in it has learned anything: every weight is drawn from seed {seed}, some by a
small recipe that makes the pictures pleasant. It draws soft abstract colours, never a face. It is there so that a demo
and the tests can run the whole way, quickly and on a CPU, with the same classes and files as the real models.

| part | class | parameters |
|---|---|---|
{table}

Pictures are {size} x {size} pixels. The face encoder is OpenCV's YuNet and SFace (128 numbers). The HyperLoRA's up
bases are not zero, as they would be before training, so different people give visibly different pictures.

Made again by `python -m hyperlora.mini pack FOLDER --seed {seed}`.
"""


def build_untrained_pack(folder: str | os.PathLike[str], seed: int = 0) -> Path:
    """Make the pack in `folder` unless it is there already; answers with the folder.

    It is built beside the folder and moved into place in one step: a half-built pack is never seen, and when two
    processes build at once the first wins. An untrained pack of another seed or recipe is replaced.
    Raises `FileExistsError` if the folder holds anything else.
    """
    target = Path(folder)
    if _is_complete(target, seed):
        return target
    if target.exists() and any(target.iterdir()) and _described(target).get("name") != NAME:
        raise FileExistsError(f"{target} holds something that is not an untrained pack; choose an empty folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        _write_pack(fresh, seed)
        fresh.chmod(0o755)
        _move_into_place(fresh, target, seed)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target


def _described(folder: Path) -> dict[str, Any]:
    try:
        described = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return {}
    return described if isinstance(described, dict) else {}


def _is_complete(folder: Path, seed: int) -> bool:
    described = _described(folder)
    return (described.get("name"), described.get("seed"), described.get("recipe")) == (NAME, seed, RECIPE)


def _move_into_place(fresh: Path, target: Path, seed: int) -> None:
    """Rename; what stood there before is moved aside first and then removed."""
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
    try:
        if target.exists():
            target.rename(old / "pack")
        fresh.rename(target)
    except OSError:
        # another process was faster, which is as good, if it built the same
        if not _is_complete(target, seed):
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _write_pack(folder: Path, seed: int) -> None:
    """The recipe: text, picture, colours, vision, hypernetwork, card, marker."""

    def dice(part: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed * 16 + part)

    with torch.random.fork_rng(devices=[]):
        pipeline = _sdxl(folder / "sdxl", dice)
        clip_vision = models.untrained_clip_vision(dice(5))
        hyperlora = models.untrained_hyperlora(dice(6)).half()
    _colour(pipeline)
    sizes = {
        "sdxl/unet": pipeline.unet,
        "sdxl/vae": pipeline.vae,
        "sdxl/text_encoder": pipeline.text_encoder,
        "sdxl/text_encoder_2": pipeline.text_encoder_2,
        "clip_vision": clip_vision,
        "hyperlora": hyperlora,
    }
    pipeline.save_config(folder / "sdxl")
    with _quiet():
        for name, model in sizes.items():
            # the UNet is the largest file by far: half precision, read back in any
            (model.half() if name == "sdxl/unet" else model).save_pretrained(folder / name)
    pipeline.scheduler.save_pretrained(folder / "sdxl" / "scheduler")
    _write_json(folder / "clip_vision" / "preprocessor_config.json", _processor())
    rows = (f"| {name} | {type(model).__name__} | {_count(model):,} |" for name, model in sizes.items())
    card = _CARD.format(name=NAME, seed=seed, size=models.SIZE, table="\n".join(rows))
    (folder / "README.md").write_text(card, encoding="utf-8", newline="\n")
    _write_json(
        folder / MARKER,
        {
            "name": NAME,
            "trained": False,
            "seed": seed,
            "recipe": RECIPE,
            "faces": "opencv",
            "size": models.SIZE,
            "steps": 8,
            "scheduler": "dpmpp_2m_karras",
            "guidance": 5.0,
            "trigger_words": TRIGGER_WORDS,
            "sdxl": "sdxl",
            "clip_vision": "clip_vision",
            "hyperlora": "hyperlora",
        },
    )


def _sdxl(folder: Path, dice: Any) -> Any:
    """Text encoders, UNet, VAE and scheduler as one pipeline in memory; the tokenizers are written at once."""
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTokenizer

    for name in ("tokenizer", "tokenizer_2"):
        vocabulary = write_tokenizer(folder / name)
    tokenizers = [CLIPTokenizer.from_pretrained(folder / name) for name in ("tokenizer", "tokenizer_2")]
    count, end = len(vocabulary), vocabulary[END]
    pipeline: Any = cast(Any, StableDiffusionXLPipeline)(
        vae=models.untrained_vae(dice(1)),
        text_encoder=models.untrained_text_encoder(dice(2), count, end, projection=False),
        text_encoder_2=models.untrained_text_encoder(dice(3), count, end, projection=True),
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        unet=models.untrained_unet(dice(4)),
        scheduler=cast(Any, DPMSolverMultistepScheduler)(**models.SCHEDULER_CONFIG, use_karras_sigmas=True),
        add_watermarker=False,
    )
    assert all(len(t) == count and t.model_max_length == LENGTH for t in tokenizers)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _colour(pipeline: Any) -> None:
    """Draw a few latents with the pipeline itself and set the decoder's colours by them.

    On one thread, as sums split among several come out a little differently, and files of one seed shall be equal.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _draw_and_colour(pipeline)
    finally:
        torch.set_num_threads(threads)


def _draw_and_colour(pipeline: Any) -> None:
    prompts = ["portrait photo of a woman", "a man in a red hoodie", "city at night, cyberpunk"]
    drawn = []
    for round_ in range(2):
        generators = [torch.Generator().manual_seed(100 * round_ + place) for place in range(len(prompts))]
        latents = pipeline(
            prompts,
            width=models.SIZE,
            height=models.SIZE,
            num_inference_steps=8,
            guidance_scale=5.0,
            generator=generators,
            output_type="latent",
        ).images
        drawn.append(latents)
    models.colour_decoder(pipeline.vae, torch.cat(drawn))


def _processor() -> dict[str, Any]:
    """CLIP's own preprocessing at the tower's 96 pixels."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": models.VISION_SIZE},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": models.VISION_SIZE, "width": models.VISION_SIZE},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "do_convert_rgb": True,
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of transformers' for files that are written in a moment."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _count(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8", newline="\n")

"""The CLIP vision tower: penultimate layer, all tokens, its own preprocessing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionModel

from hyperlora import ClipVision
from hyperlora.errors import InvalidRequest, WeightsMissing


def picture(width: int, height: int, seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def test_tokens_are_the_penultimate_hidden_state(clip_folder: Path) -> None:
    # Given a square picture of the tower's own size, so that preprocessing is only the normalisation
    clip = ClipVision.from_pretrained(clip_folder)
    image = picture(56, 56, 1)
    # When read
    tokens = clip.tokens([image])
    # Then the tokens are what layer 2 of 3 puts out: embeddings, first norm, two layers by hand, no last norm
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    pixels = (torch.from_numpy(np.asarray(image).copy()).float() / 255 - mean) / std
    model = CLIPVisionModel.from_pretrained(clip_folder).eval()
    tower = getattr(model, "vision_model", model)
    with torch.no_grad():
        hidden = tower.pre_layrnorm(tower.embeddings(pixels.permute(2, 0, 1)[None]))
        for layer in tower.encoder.layers[:2]:
            out = layer(hidden, None)
            hidden = out[0] if isinstance(out, tuple) else out
    assert tokens.shape == (1, 17, 24)  # 4 x 4 patches and the class token
    assert clip.width == 24
    torch.testing.assert_close(tokens, hidden, atol=1e-5, rtol=1e-5)


def test_pictures_do_not_influence_each_other(clip_folder: Path) -> None:
    clip = ClipVision.from_pretrained(clip_folder)
    images = [picture(80, 60, 1), picture(60, 90, 2), picture(200, 200, 3)]
    together = clip.tokens(images)
    for index, image in enumerate(images):
        torch.testing.assert_close(clip.tokens([image])[0], together[index], atol=1e-5, rtol=1e-5)
    assert (together[0] - together[1]).abs().max() > 0.1


def test_half_precision_and_fingerprint(clip_folder: Path) -> None:
    clip = ClipVision.from_pretrained(clip_folder, dtype=torch.bfloat16)
    assert clip.tokens([picture(56, 56, 1)]).dtype == torch.bfloat16
    assert clip.fingerprint == ClipVision.from_pretrained(clip_folder).fingerprint
    assert len(clip.fingerprint) == 64


def test_missing_parts_are_clear_errors(clip_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"needs config.json"):
        ClipVision.from_pretrained(tmp_path)
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((clip_folder / name).read_bytes())
    # Pickle is no substitute.
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsMissing, match="safetensors"):
        ClipVision.from_pretrained(tmp_path)
    with pytest.raises(InvalidRequest, match="at least one image"):
        ClipVision.from_pretrained(clip_folder).tokens([])

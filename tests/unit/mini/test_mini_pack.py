"""The untrained pack: it loads with everybody's own classes, and its pictures answer to seed, prompt and person."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from hyperlora.mini.models import untrained_clip_vision
from hyperlora.mini.pack import build_untrained_pack
from hyperlora.mini.painter import portrait
from hyperlora.mini.people import person
from hyperlora.mini.vocabulary import byte_symbols, learn_merges


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_untrained_pack(tmp_path_factory.mktemp("packs") / "mini")


@pytest.fixture(scope="module")
def sdxl(pack: Path) -> Any:
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(pack / "sdxl", add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _hashes(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _draw(pipeline: Any, prompt: str, seed: int) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    image = pipeline(prompt, width=128, height=128, num_inference_steps=8, generator=generator).images[0]
    return np.asarray(image).astype(np.float64)


def test_the_same_seed_gives_the_same_files(pack: Path, tmp_path: Path) -> None:
    # Given a pack of an older recipe
    old = tmp_path / "old"
    old.mkdir()
    (old / "pack.json").write_text(json.dumps({"name": "mini-untrained", "seed": 0, "recipe": 0}))
    # When it is asked for
    build_untrained_pack(old)
    # Then it is built anew, equal to every other, and nothing is left beside it
    assert _hashes(old) == _hashes(pack)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_another_seed_gives_other_weights() -> None:
    first, again, other = (
        untrained_clip_vision(torch.Generator().manual_seed(seed)).state_dict() for seed in (0, 0, 1)
    )
    weight = next(name for name in first if name.endswith("q_proj.weight"))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first[weight], other[weight])


def test_building_again_returns_at_once_and_touches_nothing_foreign(pack: Path, tmp_path: Path) -> None:
    # Given a complete pack
    before = {path: path.stat().st_mtime_ns for path in pack.rglob("*")}
    # When it is asked for again
    assert build_untrained_pack(pack) == pack
    # Then no file was touched
    assert {path: path.stat().st_mtime_ns for path in pack.rglob("*")} == before
    # Given a folder of somebody else's
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    # Then it is left alone
    with pytest.raises(FileExistsError, match="not an untrained pack"):
        build_untrained_pack(foreign)
    assert [path.name for path in foreign.iterdir()] == ["thesis.txt"]


def test_it_says_that_it_is_untrained_and_is_small(pack: Path) -> None:
    described = json.loads((pack / "pack.json").read_text())
    assert (described["trained"], described["faces"], described["size"]) == (False, "opencv", 128)
    assert "untrained" in (pack / "README.md").read_text()
    files = [path for path in pack.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 30_000_000
    assert {path.suffix for path in files} <= {".json", ".txt", ".md", ".safetensors"}


def test_every_weight_is_finite(pack: Path) -> None:
    for path in pack.rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                assert torch.isfinite(file.get_tensor(name)).all(), f"{path}: {name}"


def test_the_pipeline_is_of_the_real_classes(sdxl: Any) -> None:
    names = {name: type(part).__name__ for name, part in sdxl.components.items() if part is not None}
    assert names["unet"] == "UNet2DConditionModel"
    assert names["vae"] == "AutoencoderKL"
    assert (names["text_encoder"], names["text_encoder_2"]) == ("CLIPTextModel", "CLIPTextModelWithProjection")
    assert sdxl.unet.config.addition_embed_type == "text_time"
    millions = sum(p.numel() for p in sdxl.unet.parameters()) / 1e6
    assert 2 < millions < 7


def test_any_prompt_can_be_tokenised(sdxl: Any) -> None:
    for tokenizer in (sdxl.tokenizer, sdxl.tokenizer_2):
        assert len(tokenizer) <= 1000
        for text in ("portrait of a knight", "größe 日本 🎉", "fcsks fxhks fhyks, a"):
            ids = tokenizer(text).input_ids
            assert tokenizer.unk_token_id not in ids[1:-1]
            assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == text.replace(" ", "")
        # the trigger words are a token each
        assert len(tokenizer("fcsks fxhks fhyks").input_ids) == 2 + 3
        assert len(tokenizer("word " * 200, truncation=True).input_ids) == 77


def test_merges_join_the_most_frequent_neighbours_first() -> None:
    # "ab" three times and "ac" once: (a, b-end) has 3, (a, c-end) 1
    assert learn_merges(["ab ab ab ac"], 5) == [("a", "b</w>"), ("a", "c</w>")]
    assert len(set(byte_symbols())) == 256


def test_seed_prompt_and_person_each_change_the_picture(pack: Path, sdxl: Any) -> None:
    from transformers import CLIPImageProcessor, CLIPVisionModel

    from hyperlora.merge import WeightMerger
    from hyperlora.network import HyperLoRA

    network = HyperLoRA.from_pretrained(pack / "hyperlora")
    assert (network.config.face_encoder, network.config.face_width) == ("opencv-yunet-sface", 128)
    assert network.config.branches == ("id", "base")
    vision = CLIPVisionModel.from_pretrained(pack / "clip_vision")
    processor = CLIPImageProcessor.from_pretrained(pack / "clip_vision")
    plain = _draw(sdxl, "portrait of a woman", 1)
    # Given pictures that are neither grey nor harsh: spread, and smooth from pixel to pixel
    assert plain.std() > 20
    assert np.abs(np.diff(plain, axis=1)).mean() < 8
    # Then another seed and another prompt give other pictures
    assert np.abs(plain - _draw(sdxl, "portrait of a woman", 2)).mean() > 8
    assert np.abs(plain - _draw(sdxl, "a knight in a forest", 1)).mean() > 8
    # And each of two people changes it, visibly, in another way
    merger, drawn = WeightMerger(sdxl.unet), []
    for seed in (1, 2):
        photo = processor(portrait(person(seed)), return_tensors="pt")
        with torch.no_grad():
            tokens = vision(**photo, output_hidden_states=True).hidden_states[-2]
        assert tokens.shape == (1, 37, 64)
        embedding = torch.nn.functional.normalize(torch.randn(1, 128, generator=torch.Generator().manual_seed(seed)))
        merger.merge([(network.generate(embedding, tokens), 0.8)])
        drawn.append(_draw(sdxl, "portrait of a woman", 1))
    merger.restore()
    assert np.abs(drawn[0] - plain).mean() > 5
    assert np.abs(drawn[1] - plain).mean() > 5
    assert np.abs(drawn[0] - drawn[1]).mean() > 5
    assert (_draw(sdxl, "portrait of a woman", 1) == plain).all()

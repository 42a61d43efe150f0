"""The safety checker: diffusers' own verdicts, without its blackened pictures, and never by accident."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessorPil

from hyperlora.errors import CheckerMismatch, NonFiniteWeights, WeightsMissing
from hyperlora.safety import DiffusersChecker, NullChecker, load_checker

SIDE = 32
HARMLESS, REFUSED = (Image.new("RGB", (48, 64), colour) for colour in ((20, 90, 240), (240, 30, 10)))
TOWER = {
    **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"image_size": SIDE, "patch_size": 8, "projection_dim": 16},
}
TEXT = {"bos_token_id": 1, "eos_token_id": 2, "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1}


def _embedding(model: Any, image: Image.Image) -> torch.Tensor:
    pixels = _processor()([image], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        return torch.nn.functional.normalize(model.visual_projection(model.vision_model(pixels).pooler_output))[0]


def _processor() -> Any:
    return CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})


@pytest.fixture(scope="module")
def model() -> Any:
    """A random checker whose fourth concept is what REFUSED looks like, with a limit between the two pictures."""
    torch.manual_seed(5)
    made: Any = StableDiffusionSafetyChecker(CLIPConfig(vision_config=TOWER, text_config=TEXT, projection_dim=16))
    with torch.no_grad():
        made.concept_embeds.normal_()
        made.special_care_embeds.normal_()
        made.concept_embeds_weights.fill_(1.5)  # no cosine is over it
        made.special_care_embeds_weights.fill_(1.5)
        made.concept_embeds[3] = _embedding(made, REFUSED)
        between = (1 + float(_embedding(made, REFUSED) @ _embedding(made, HARMLESS))) / 2
        made.concept_embeds_weights[3] = between
    return made.eval()


@pytest.fixture
def folder(model: Any, tmp_path: Path) -> Path:
    place = tmp_path / "checker"
    model.save_pretrained(place)
    _processor().save_pretrained(place)
    return place


def test_one_picture_is_refused_and_the_other_is_not(folder: Path) -> None:
    # Given a checker in a folder
    checker = load_checker(str(folder))
    untouched = REFUSED.tobytes()

    # When two pictures are looked at, of which one is what the fourth concept is
    fine, refused = checker.check([HARMLESS, REFUSED])

    # Then that one is refused, with the concept's number and score, and nothing was blackened
    assert checker.name == "checker"
    assert fine is None
    assert refused is not None and "concept 3 at 1.000" in refused and "over its limit" in refused
    assert REFUSED.tobytes() == untouched
    assert checker.check([]) == []


@pytest.mark.parametrize("care", [1.5, -1.5])
def test_verdicts_are_those_of_diffusers(model: Any, folder: Path, care: float) -> None:
    # Given limits near the scores of many pictures, with and without special care
    random = np.random.default_rng(3)
    images = [Image.fromarray(random.integers(0, 255, (40, 40, 3), np.uint8)) for _ in range(24)]
    images += [Image.new("RGB", (40, 40), tuple(random.integers(0, 255, 3).tolist())) for _ in range(24)]
    pixels = _processor()(images, return_tensors="pt")["pixel_values"]
    tensors = load_file(folder / "model.safetensors")
    embeddings = torch.stack([_embedding(model, image) for image in images])
    cosines = embeddings @ torch.nn.functional.normalize(model.concept_embeds).T
    tensors["concept_embeds_weights"] = cosines.quantile(0.97, dim=0)
    tensors["special_care_embeds_weights"] = torch.full((3,), care)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    # When both look at them
    theirs: Any = StableDiffusionSafetyChecker.from_pretrained(folder, use_safetensors=True)
    _, wanted = theirs.eval()(pixels, [np.zeros((2, 2, 3)) for _ in images])
    found = [reason is not None for reason in DiffusersChecker.from_pretrained(folder).check(images)]

    # Then they agree about each, and there is something to agree about
    assert found == [bool(flag) for flag in wanted]
    assert 0 < sum(found) < len(found)


def test_special_care_lowers_the_other_limits(model: Any, folder: Path) -> None:
    # Given a concept whose limit is just above the picture's score
    tensors = load_file(folder / "model.safetensors")
    tensors["concept_embeds_weights"][3] = 1.005
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert DiffusersChecker.from_pretrained(folder).check([REFUSED]) == [None]

    # When the picture calls for special care too
    tensors["special_care_embeds_weights"][1] = -1.5
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    # Then it is refused
    assert DiffusersChecker.from_pretrained(folder).check([REFUSED]) != [None]


def test_weights_may_be_half_while_limits_stay_whole(folder: Path) -> None:
    # Given a limit that bfloat16 cannot hold
    checker = DiffusersChecker.from_pretrained(folder, dtype=torch.bfloat16)
    assert checker._model.visual_projection.weight.dtype == torch.bfloat16

    # Then it is compared as it was stored, and the verdicts are the same
    assert torch.equal(checker._limits_C, load_file(folder / "model.safetensors")["concept_embeds_weights"])
    assert [reason is None for reason in checker.check([HARMLESS, REFUSED])] == [True, False]


def test_the_layout_of_the_released_file_is_read(folder: Path) -> None:
    # Given the tensors under the names that older releases gave them
    tensors = load_file(folder / "model.safetensors")
    renamed = {f"vision_model.{name}" if name.startswith("vision_model.") else name: t for name, t in tensors.items()}
    assert renamed.keys() != tensors.keys()
    save_file(renamed, folder / "model.safetensors", {"format": "pt"})

    # Then they are all found
    assert [reason is None for reason in load_checker(str(folder)).check([HARMLESS, REFUSED])] == [True, False]


def test_a_pipelines_folder_has_its_preprocessing_elsewhere(folder: Path, tmp_path: Path) -> None:
    # Given a pipeline's folder
    shutil.copytree(folder, tmp_path / "sd" / "safety_checker")
    (tmp_path / "sd" / "feature_extractor").mkdir()
    (tmp_path / "sd" / "safety_checker" / "preprocessor_config.json").rename(
        tmp_path / "sd" / "feature_extractor" / "preprocessor_config.json"
    )

    # Then the whole and the part can be named
    for name in ("sd", "sd/safety_checker"):
        assert load_checker(str(tmp_path / name)).check([REFUSED]) != [None]


def test_checking_nothing_must_be_asked_for_by_name() -> None:
    assert isinstance(load_checker("none"), NullChecker)
    assert load_checker("none").check([HARMLESS, REFUSED]) == [None, None]
    for name in ("", "  "):
        with pytest.raises(CheckerMismatch, match='write "none" to keep every picture'):
            load_checker(name)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match="not a hub id"):
        load_checker(str(tmp_path / "nowhere"))


def test_pickled_weights_are_not_read(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsMissing, match="in safetensors"):
        load_checker(str(folder))


def test_missing_preprocessing_is_told(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(WeightsMissing, match=r"preprocessor_config\.json"):
        load_checker(str(folder))


@pytest.mark.parametrize("change", ["missing", "extra", "misshapen"])
def test_another_models_folder_is_refused(folder: Path, change: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    if change == "missing":
        del tensors["concept_embeds_weights"]
    elif change == "extra":
        tensors["text_projection.weight"] = torch.zeros(4, 4)
    else:
        tensors["concept_embeds"] = torch.zeros(17, 8)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckerMismatch):
        load_checker(str(folder))


def test_a_broken_file_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0nothing")
    with pytest.raises(CheckerMismatch):
        load_checker(str(folder))


def test_numbers_that_are_none_never_let_a_picture_pass(model: Any, folder: Path) -> None:
    # Given weights with NaN
    tensors = load_file(folder / "model.safetensors")
    tensors["visual_projection.weight"][0, 0] = torch.nan
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    # Then they are not loaded
    with pytest.raises(NonFiniteWeights, match="visual_projection"):
        load_checker(str(folder))

    # And a tower that overflows is an error, not a verdict
    checker = DiffusersChecker(model, _processor(), name="overflowing")
    kept = model.visual_projection.weight.data
    model.visual_projection.weight.data = kept * 1e38 * 1e3
    try:
        with pytest.raises(CheckerMismatch, match="load it in float32"):
            checker.check([HARMLESS])
    finally:
        model.visual_projection.weight.data = kept


def test_a_fingerprint_follows_weights_and_settings(folder: Path) -> None:
    before = DiffusersChecker.from_pretrained(folder).fingerprint
    settings = folder / "preprocessor_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "image_mean": [0.5, 0.5, 0.5]}))
    assert DiffusersChecker.from_pretrained(folder).fingerprint != before

"""Photos that were not prepared: a plain folder is trained on, with conditions that are computed for each batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_training import SIZES, TinyPortraits, tiny_config
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

from hyperlora import HyperLoRA
from hyperlora.components import SDXLComponents
from hyperlora.dataset import vae_fingerprint
from hyperlora.errors import DatasetMissing, TrainingMismatch
from hyperlora.mini import person, portrait
from hyperlora.mini.attributes import draw_attributes
from hyperlora.training import StepReport, train
from hyperlora.training.data import check_latents, open_data

LIVE = {"faces": "opencv", "image_size": 32, "min_face": 8, "min_sharpness": 0}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two people with two photos each, in folders of their names, with captions."""
    folder = tmp_path_factory.mktemp("photos")
    for seed in (11, 12):
        for number in (0, 1):
            place = folder / f"person-{seed}"
            place.mkdir(exist_ok=True)
            drawn = portrait(person(seed), draw_attributes(seed + number, "plain"), number, size=256)
            drawn.save(place / f"{number}.jpg")
            (place / f"{number}.txt").write_text(f"portrait {number}", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tower")
    config = CLIPVisionConfig(
        hidden_size=12, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    CLIPVisionModel(config).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(folder)
    return folder


def test_a_plain_folder_is_trained_on(components: SDXLComponents, photos: Path, tower: Path, tmp_path: Path) -> None:
    # Given photos and a CLIP tower on the disk
    config = tiny_config(
        "id-face", tmp_path / "run", dataset=str(photos), live={**LIVE, "clip_vision": str(tower)}, steps=2,
        reference="other", network={**SIZES, "base_rank": 2},
    )  # fmt: skip
    seen: list[StepReport] = []

    # When they are trained on
    folder = train(config, components=components, on_step=seen.append)

    # Then there is a network for this face encoder and this tower
    assert len(seen) == 2
    known = HyperLoRA.from_pretrained(folder).config
    assert (known.face_encoder, known.face_width, known.clip_width) == ("opencv-yunet-sface", 128, 12)


def test_a_folder_without_photos_is_told(tower: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    live = {**LIVE, "clip_vision": str(tower)}
    config = tiny_config("base", tmp_path / "run", dataset=str(tmp_path / "empty"), live=live)
    with pytest.raises(DatasetMissing):
        open_data(config, torch.device("cpu"))


def test_conditions_that_were_made_for_inference_pass_gradients(components: SDXLComponents, tmp_path: Path) -> None:
    # Given a dataset whose tensors are what a CLIP tower gives under inference mode
    class Live(TinyPortraits):
        def __init__(self) -> None:
            with torch.inference_mode():
                super().__init__()

    # When they are trained on
    seen: list[StepReport] = []
    config = tiny_config("base", tmp_path / "run", steps=1, warm_up=0)
    train(config, components=components, dataset=Live(), on_step=seen.append)

    # Then gradients came through
    assert seen[0].gradient_norm > 0


def test_latents_of_another_autoencoder_are_refused(tmp_path: Path) -> None:
    # Given a base model's autoencoder, and sets that say whose their latents are
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "vae" / "weights.safetensors").write_bytes(b"weights")
    own = vae_fingerprint(tmp_path)
    info = TinyPortraits().info

    # Then its own are taken, and those of another are not
    check_latents(info.model_copy(update={"latents": (4, 2, 2), "vae": own}), str(tmp_path))
    check_latents(info.model_copy(update={"latents": None, "vae": "another"}), str(tmp_path))
    with pytest.raises(TrainingMismatch, match=f"another.*{own[:12]}.*prepare the dataset anew with --vae"):
        check_latents(info.model_copy(update={"latents": (4, 2, 2), "vae": "another"}), str(tmp_path))

"""The judge: it is trained apart, saved without pickle, and reads whole pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from hyperlora.errors import CheckpointMismatch, InvalidRequest, WeightsMissing
from hyperlora.mini.attributes import VOCABULARY
from hyperlora.mini.learn.convnet import Size
from hyperlora.mini.learn.drawings import Drawings, DrawingSet, draw_set
from hyperlora.mini.learn.judge import LABELS, JudgeNetwork, Looks, MiniJudge, small
from hyperlora.mini.learn.judge_training import JudgeRecipe, PortraitMaker, judge_loss, save_judge, train_judge
from hyperlora.mini.learn.measures import measure_judge
from hyperlora.mini.learn.steps import Steps

LOOKS = Looks((Size(8, 2), Size(16, 2), Size(16, 2)), (Size(8, 2), Size(8, 2)))
COMMITTED = Path(__file__).parents[2] / "assets" / "mini-judge"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six people for training, four for validation, each drawn twice."""
    folder = tmp_path_factory.mktemp("drawings")
    draw_set(DrawingSet("judge", 50_000, 6, 2), folder, 1)
    draw_set(DrawingSet("validation", 1_000_000, 4, 2), folder, 1)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained judge."""
    torch.manual_seed(0)
    return save_judge(JudgeNetwork(LOOKS), tmp_path_factory.mktemp("judge"), {})


def _pictures(count: int, side: int = 64) -> list[Image.Image]:
    dice = np.random.default_rng(0)
    return [Image.fromarray(dice.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(count)]


def test_a_judge_is_trained_measured_saved_and_read(drawn: Path, tmp_path: Path) -> None:
    # Given a recipe of a few steps
    recipe = JudgeRecipe(LOOKS, Steps(4, 12, 1e-3))
    (tmp_path / "drawings").symlink_to(drawn)
    # When there is no time, nothing is made; the next call goes on
    assert train_judge(tmp_path / "drawings", tmp_path / "judge", recipe=recipe, seconds=0) is None
    assert not (tmp_path / "judge").exists()
    told = train_judge(tmp_path / "drawings", tmp_path / "judge", recipe=recipe)
    # Then the judge can be read, and what was measured lies beside its weights
    judge = MiniJudge.load(tmp_path / "judge")
    config = json.loads((tmp_path / "judge" / "judge.json").read_text())
    assert told is not None and config["validation"] == told["validation"]
    assert set(told["validation"]["soft"]) == {"rank1", *LABELS} and told["people"] == 6
    # And its network says the same as the one that was trained, up to half precision
    assert judge.name.startswith("mini-judge-")


def test_embeddings_are_unit_vectors_whatever_stands_beside(folder: Path) -> None:
    # Given more pictures than are read at once
    judge = MiniJudge.load(folder)
    pictures = _pictures(70)
    # Then each is told as if alone, with a length of one
    embeddings = judge.embed(pictures)
    assert len(embeddings) == 70 and judge.embed([]) == [] and judge.labels([]) == []
    for place in (0, 65):
        alone = judge.embed([pictures[place]])[0]
        assert alone is not None
        np.testing.assert_allclose(embeddings[place], alone, atol=1e-5)
        assert np.linalg.norm(alone) == pytest.approx(1, abs=1e-5)


def test_labels_are_the_vocabularys_words(folder: Path) -> None:
    # Given a judge that leans towards one word of each label
    weights = load_file(folder / "judge.safetensors")
    for place in range(len(LABELS)):
        weights[f"words.{place}.bias"][place] = 1000
    leaning = folder.parent / f"{folder.name}-leaning"
    leaning.mkdir()
    save_file(weights, leaning / "judge.safetensors")
    (leaning / "judge.json").write_bytes((folder / "judge.json").read_bytes())
    judge = MiniJudge.load(leaning)
    # Then it says those words, by the label's name
    wanted = {name: VOCABULARY[name][place] for place, name in enumerate(LABELS)}
    assert judge.labels(_pictures(2)) == [wanted, wanted]
    # And other weights have another name
    assert judge.name != MiniJudge.load(folder).name


def test_larger_pictures_are_shrunk_by_areas_and_others_refused() -> None:
    # Given a chessboard of single pixels at twice the size
    board = (np.indices((128, 128)).sum(0) % 2 * 255).astype(np.uint8)
    # Then it is read as even grey, not as one of its colours
    assert np.unique(small(Image.fromarray(board))).tolist() in ([127], [128])
    with pytest.raises(InvalidRequest, match="128 x 64"):
        small(Image.new("RGB", (128, 64)))


def test_what_is_no_judge_is_refused(folder: Path, tmp_path: Path) -> None:
    # Given a folder without weights
    with pytest.raises(WeightsMissing, match=r"judge\.safetensors"):
        MiniJudge.load(tmp_path)
    # And one with weights of another shape, and one that knows other words
    weights = load_file(folder / "judge.safetensors")
    config = json.loads((folder / "judge.json").read_text())
    save_file({**weights, "embed.bias": torch.zeros(3)}, tmp_path / "judge.safetensors")
    (tmp_path / "judge.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointMismatch, match=r"embed\.bias is \(3,\)"):
        MiniJudge.load(tmp_path)
    (tmp_path / "judge.json").write_text(json.dumps({**config, "labels": {}}))
    with pytest.raises(CheckpointMismatch, match="other words"):
        MiniJudge.load(tmp_path)


def test_every_label_has_a_part_in_the_loss(drawn: Path) -> None:
    # Given a batch
    torch.manual_seed(0)
    network = JudgeNetwork(LOOKS).eval()
    pairs = PortraitMaker(Drawings.load(drawn / "judge")).draw(np.random.default_rng(0), 12)
    # When its loss is taken
    judge_loss(network, pairs).backward()  # type: ignore[no-untyped-call]
    # Then it moves every head, the embedding and the traits
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.skipif(not COMMITTED.is_dir(), reason="no judge is committed")
def test_the_committed_judge_knows_people_and_words(drawn: Path) -> None:
    # Given the judge that is in the repository, and drawings of people it never saw
    judge = MiniJudge.load(COMMITTED)
    drawings = Drawings.load(drawn / "validation")
    # Then it tells the four people apart and reads nearly all words
    told = measure_judge(judge, drawings)["sharp"]
    assert told["rank1"] >= 0.75
    assert np.mean([told[name] for name in LABELS]) >= 0.75
    # And its description says how good it was found to be
    assert json.loads((COMMITTED / "judge.json").read_text())["validation"]["sharp"]["rank1"] > 0.5
    assert sum(file.stat().st_size for file in COMMITTED.iterdir()) < 6_000_000

"""The mini pack's face networks: their ONNX files are what the real `FaceAnalysis` loads, and they learn."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from hyperlora.errors import CheckpointMismatch, NonFiniteWeights
from hyperlora.faces import load_analyzer
from hyperlora.faces.align import ALIGNED_POINTS_5_2
from hyperlora.mini.learn import crops, detector, embedding, points, traits
from hyperlora.mini.learn.convnet import Size
from hyperlora.mini.learn.drawings import Drawings, DrawingSet, draw_set
from hyperlora.mini.learn.face_pack import FaceRecipe, Part, first_drawings, train_face_pack
from hyperlora.mini.learn.measures import rank1
from hyperlora.mini.learn.steps import Steps, share_of_rate, take_steps

SMALL = (Size(8, 2), Size(8, 2), Size(8, 1, 2))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten people for training, four for validation, each drawn twice."""
    folder = tmp_path_factory.mktemp("drawings")
    draw_set(DrawingSet("train", 0, 10, 2), folder, 1)
    draw_set(DrawingSet("validation", 1_000_000, 4, 2), folder, 1)
    return folder


@pytest.fixture(scope="module")
def drawings(drawn: Path) -> Drawings:
    return Drawings.load(drawn / "train")


def _used(model: torch.nn.Module, *sizes: int) -> Any:
    """The model in evaluation after a batch, so that its norms have something to fold."""
    model.train()
    with torch.no_grad():
        model(torch.randn(4, 3, *sizes))
    return model.eval()


def _run(path: Path, x_BCHW: torch.Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return list(session.run(None, {"data": x_BCHW.numpy()}))


def test_the_detectors_file_says_what_the_network_says(tmp_path: Path) -> None:
    # Given a detector, and its file
    torch.manual_seed(0)
    model = _used(detector.Detector(SMALL), 96, 96)
    detector.write_detector(model, tmp_path / "det.onnx")
    x_1CHW = torch.randn(1, 3, 64, 96)
    # When both see a picture
    told = _run(tmp_path / "det.onnx", x_1CHW)
    # Then the file's nine answers are the network's on the picture shrunk by 2, 4 and 8, cell by cell, anchor by anchor
    assert len(told) == 9
    for place, shrink in enumerate((2, 4, 8)):
        with torch.no_grad():
            score_1Ahw, values_1AVhw = model(torch.nn.functional.avg_pool2d(x_1CHW, shrink))
        rows = (score_1Ahw - detector.CAUTION).sigmoid().permute(0, 2, 3, 1).reshape(-1, 1)
        values = values_1AVhw.permute(0, 3, 4, 1, 2).reshape(-1, 14)
        assert len(rows) == 64 // shrink // 4 * (96 // shrink // 4) * 2
        np.testing.assert_allclose(told[place], rows, atol=1e-4)
        np.testing.assert_allclose(told[place + 3], values[:, :4], atol=1e-4)
        np.testing.assert_allclose(told[place + 6], values[:, 4:], atol=1e-4)


def test_the_files_of_points_and_recogniser_say_what_the_networks_say(tmp_path: Path) -> None:
    # Given both networks and their files
    torch.manual_seed(0)
    placer = _used(points.PointFinder((Size(8, 2), Size(8, 2), Size(8, 2), Size(8, 2))), 64, 64)
    encoder = _used(embedding.FaceEncoder((Size(8, 2), Size(8, 2), Size(8, 2))), 56, 56)
    points.write_points(placer, tmp_path / "points.onnx")
    embedding.write_encoder(encoder, tmp_path / "recogniser.onnx")
    # Then they agree, the files on pictures of InsightFace's sizes
    for name, model, side, shrink in (("points", placer, 192, 3), ("recogniser", encoder, 112, 2)):
        x_BCHW = torch.randn(2, 3, side, side)
        with torch.no_grad():
            wanted = model(torch.nn.functional.avg_pool2d(x_BCHW, shrink))
        np.testing.assert_allclose(_run(tmp_path / f"{name}.onnx", x_BCHW)[0], wanted, atol=1e-4)


def test_a_pack_is_trained_interrupted_resumed_and_loaded_by_the_real_analysis(drawn: Path, tmp_path: Path) -> None:
    # Given a recipe of a few steps
    def part(*sizes: Size) -> Part:
        return Part(sizes, Steps(4, 8, 1e-3, keep_every=3))

    halved = [Size(8, 2)] * 4
    recipe = FaceRecipe(part(*SMALL), part(*halved), part(*halved[:3]))
    one, other = (_world(tmp_path / name, drawn) for name in ("one", "other"))
    # When it is trained without time, nothing is made
    assert train_face_pack(one / "drawings", one / "faces", recipe=recipe, seconds=0) is None
    assert not (one / "faces").exists()
    # And when it is trained at once, and elsewhere interrupted after every second step
    metrics = train_face_pack(one / "drawings", one / "faces", recipe=recipe)
    calls = 0
    while _cut_off(other, recipe):
        calls += 1
    # Then both packs are equal, byte for byte
    assert calls == 6
    files = ["2d106det.onnx", "det.onnx", "recogniser.onnx"]
    for name in files:
        assert (one / "faces" / name).read_bytes() == (other / "faces" / name).read_bytes()
    # And the real FaceAnalysis takes each file for what it is
    analyzer = load_analyzer(f"insightface:{one / 'faces'}", providers=["CPUExecutionProvider"])
    assert analyzer.embedding_size == 512 and analyzer.detect(np.zeros((64, 64, 3), np.uint8), 256) is not None
    # And the numbers lie beside it
    assert metrics is not None and metrics["validation"]["none"] == 1.0
    assert json.loads((one / "faces" / "metrics.json").read_text()) == metrics


class _Cut(Exception):
    pass


def _world(place: Path, drawn: Path) -> Path:
    """A folder in which a training leaves its files, with the same drawings."""
    place.mkdir()
    (place / "drawings").symlink_to(drawn)
    return place


def _cut_off(world: Path, recipe: FaceRecipe) -> bool:
    """Whether the training was cut off, after the second step that was taken and kept."""
    taken = 0

    def two(name: str, done: int, count: int, loss: float) -> None:
        nonlocal taken
        taken += 1
        if taken == 2:
            raise _Cut

    kept = {
        name: dataclasses.replace(part, steps=dataclasses.replace(part.steps, keep_every=1))
        for name, part in vars(recipe).items()
    }
    try:
        train_face_pack(world / "drawings", world / "faces", recipe=FaceRecipe(**kept), on_step=two)
    except _Cut:
        return True
    return False


def test_other_steps_or_another_network_are_refused(drawn: Path, tmp_path: Path) -> None:
    # Given what is left of a training
    model = torch.nn.Linear(2, 1)
    steps = Steps(3, 4, 1e-2)
    take_steps("it", model, steps, _points_on_a_line, lambda batch: _square_error(model, batch), tmp_path)
    # When it is taken up with other steps, or by another network, then it is refused with a word on what to do
    longer = dataclasses.replace(steps, count=5)
    with pytest.raises(CheckpointMismatch, match="remove it"):
        take_steps("it", model, longer, _points_on_a_line, lambda batch: _square_error(model, batch), tmp_path)
    wider = torch.nn.Linear(3, 1)
    with pytest.raises(CheckpointMismatch, match="another network"):
        take_steps("it", wider, steps, _points_on_a_line, lambda batch: _square_error(wider, batch), tmp_path)


def test_threads_change_nothing_and_a_loss_that_is_no_number_ends_it(tmp_path: Path) -> None:
    # Given the same training with batches drawn in between, and ahead on two threads
    made = []
    for threads in (0, 2):
        model = torch.nn.Linear(2, 1)
        torch.nn.init.zeros_(model.weight), torch.nn.init.zeros_(model.bias)
        losses: list[float] = []
        take_steps(
            "it",
            model,
            Steps(40, 16, 0.1),
            _points_on_a_line,
            lambda batch, model=model: _square_error(model, batch),
            tmp_path / str(threads),
            threads=threads,
            on_step=lambda name, done, count, loss, losses=losses: losses.append(loss),
        )
        made.append((model.weight.tolist(), losses))
    # Then both are equal, and it was learnt
    assert made[0] == made[1]
    assert made[0][1][-1] < 0.1 * made[0][1][0]
    # And NaN is refused
    with pytest.raises(NonFiniteWeights, match="step 1 of it"):
        take_steps("it", model, Steps(2, 4, 0.1), _points_on_a_line, lambda _: model.bias.sum() * np.nan, tmp_path)


def _points_on_a_line(dice: np.random.Generator, size: int) -> torch.Tensor:
    return torch.from_numpy(dice.standard_normal((size, 2), np.float32))


def _square_error(model: torch.nn.Module, batch_B2: torch.Tensor) -> torch.Tensor:
    error: torch.Tensor = (model(batch_B2[:, :2])[:, 0] - batch_B2[:, 0] + 2 * batch_B2[:, 1]) ** 2
    return error.mean()


def test_the_rate_rises_and_falls() -> None:
    # Given 100 steps: ten to rise, then a cosine to nothing
    shares = [share_of_rate(step, 100) for step in range(100)]
    assert shares[0] == pytest.approx(0.1) and max(shares) == 1.0 and shares.index(1.0) == 9
    assert shares[55] == pytest.approx(0.5, abs=0.01) and shares[-1] < 0.001


def test_only_the_pieces_that_are_needed_are_read(drawn: Path, tmp_path: Path) -> None:
    # Given a set of which the second piece is not drawn
    place = tmp_path / "train"
    place.mkdir()
    told = json.loads((drawn / "train" / "set.json").read_text()) | {"people": 600}
    (place / "set.json").write_text(json.dumps(told))
    (place / "0000000.npz").write_bytes((drawn / "train" / "0000000.npz").read_bytes())
    # Then its first pictures can be had, and the whole cannot
    first = first_drawings(place, 10)
    assert first.persons.tolist() == list(range(20)) and len(first.pixels) == 20
    with pytest.raises(FileNotFoundError):
        first_drawings(place)


def test_a_box_holds_the_landmarks_and_half_the_forehead() -> None:
    # Given landmarks of a height of 8
    points_N2 = np.array([[1, 2], [5, 10], [3, 4]], np.float32)
    # Then the box goes a quarter of it higher
    np.testing.assert_allclose(crops.face_box(points_N2), [1, 0, 5, 10])


def test_a_matrix_scales_turns_and_carries() -> None:
    # Given a quarter turn to the right of twice the size, carrying (1, 1) to (10, 20)
    matrix_23 = crops.placed(np.array([1.0, 1.0]), 2.0, np.pi / 2, np.array([10.0, 20.0]))
    # Then the point to its right lies below it, twice as far
    np.testing.assert_allclose(crops.carried(matrix_23, np.array([[1, 1], [2, 1]])), [[10, 20], [10, 22]], atol=1e-6)
    # And mirrored, it is the point to its left
    mirrored_23 = crops.placed(np.array([1.0, 1.0]), 2.0, np.pi / 2, np.array([10.0, 20.0]), mirrored=True)
    np.testing.assert_allclose(crops.carried(mirrored_23, np.array([[0, 1]])), [[10, 22]], atol=1e-6)


def test_aligned_faces_have_their_eyes_in_their_places(drawings: Drawings) -> None:
    # Given a drawing with a green dot upon its left eye
    pixels, points_N2 = drawings.pixels[0].copy(), drawings.landmarks[0] * 128
    x, y = np.floor(points_N2[38]).astype(int)
    pixels[y - 1 : y + 2, x - 1 : x + 2] = (0, 255, 0)
    # When it is aligned
    crop = crops.aligned(pixels, crops.five_points(points_N2)).astype(int)
    # Then the greenest place is near where the recogniser expects that eye
    green = crop[..., 1] - crop[..., 0] - crop[..., 2]
    found = np.unravel_index(green.argmax(), green.shape)[::-1]
    assert np.hypot(*(np.array(found) - ALIGNED_POINTS_5_2[0])) < 6


def test_worn_pictures_differ_by_the_dice_alone(drawings: Drawings) -> None:
    # Given one picture
    picture = drawings.pixels[0]
    worn = [crops.worn(picture, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    # Then the same dice wear it alike, others do not, and it stays about as it was
    assert np.array_equal(worn[0], worn[1]) and not np.array_equal(worn[0], worn[2])
    assert worn[0].dtype == np.uint8 and abs(worn[0].mean() - picture.mean()) < 60


def test_canvases_tell_where_the_faces_are(drawings: Drawings) -> None:
    # Given many canvases
    canvases = detector.CanvasMaker(drawings).draw(np.random.default_rng(5), 64)
    # Then every cell that tells a face is marked, and no other
    marked = torch.nonzero(canvases.wanted == 1)
    assert len(marked) > 50
    assert {tuple(cell) for cell in canvases.cells.tolist()} == {tuple(cell) for cell in marked.tolist()}
    # And the left eye lies left of the right one and above the left corner of the mouth, inside the box
    for values_V in canvases.values:
        left, top, right, bottom = values_V[:4]
        five_52 = values_V[4:].reshape(5, 2)
        assert five_52[0, 0] < five_52[1, 0] and five_52[0, 1] < five_52[3, 1]
        assert -left < five_52[2, 0] < right and -top < five_52[2, 1] < bottom


def test_squares_tell_the_landmarks_also_mirrored(drawings: Drawings) -> None:
    # Given many squares
    squares = points.SquareMaker(drawings).draw(np.random.default_rng(5), 32)
    # Then the left eye is the left one in each, mirrored or not, and the face fills two thirds of the square
    answers_BN2 = squares.answers.reshape(-1, 106, 2)
    assert (answers_BN2[:, 38, 0] < answers_BN2[:, 88, 0]).all()
    assert (answers_BN2[:, 52, 0] < answers_BN2[:, 61, 0]).all()
    assert answers_BN2.abs().median() < 0.67 and answers_BN2.abs().max() < 1.2


def test_the_points_partners_are_each_others(drawings: Drawings) -> None:
    partners = points.mirrored_order(drawings.landmarks)
    assert [partners[partner] for partner in partners] == list(range(106))
    assert partners[38] == 88 and partners[86] == 86 and partners[52] == 61


def test_pairs_are_two_pictures_of_one_person(drawings: Drawings) -> None:
    # Given a batch of all ten people
    maker = embedding.PairMaker(drawings)
    people, rows = maker.people(np.random.default_rng(0), 10)
    # Then each has two different pictures, in both halves of the batch at the same place
    persons = drawings.persons[rows]
    assert persons[:10].tolist() == persons[10:].tolist() == people.tolist()
    assert sorted(people) == list(range(10))
    assert not set(rows[:10]) & set(rows[10:])


def test_the_encoders_loss_falls_when_people_are_told_apart() -> None:
    # Given unit vectors of two people, the pairs alike, and traits told rightly
    class Knowing:
        def traits(self, embedding_BE: torch.Tensor) -> torch.Tensor:
            return embedding_BE

    right = torch.eye(2).repeat(2, 1)
    wrong = torch.cat([torch.eye(2), torch.eye(2).flip(0)])
    # Then the loss is the softmax's alone, -log(e^10 / (e^10 + 1)), and mixing the people up costs more
    known = embedding.knowing_loss(Knowing(), right, torch.eye(2))
    assert known.item() == pytest.approx(np.log1p(np.exp(-10)), rel=1e-3)
    assert embedding.knowing_loss(Knowing(), wrong, torch.eye(2)).item() > 10


def test_traits_tell_people_apart_and_are_scaled() -> None:
    # Given the traits of many people
    told_PF = traits.traits(range(500, 900))
    assert told_PF.shape == (400, traits.count())
    # Then numbers have a mean of 0 and a spread of 1
    assert np.abs(told_PF[:, :31].mean(axis=0)).max() < 0.3 and np.abs(told_PF[:, :31].std(axis=0) - 1).max() < 0.3
    # And of the words of each of seven kinds one is true: more than the mean
    assert ((told_PF[:, 45:] > 0).sum(axis=1) == 7).all() and len(np.unique(told_PF, axis=0)) == 400


def test_rank1_leaves_the_probe_out_of_its_gallery() -> None:
    # Given two people: the first's pictures are alike, the second's second picture looks like the first person
    rows = [np.array(row, np.float32) for row in ([1, 0], [1, 0], [0, 1], [1, 0.0])]
    # Then of four probes two are right: the second person's first picture is nearest to nobody's but a stranger's mean
    assert rank1(rows, np.array([5, 5, 9, 9])) == 0.5
    # And a picture without a face is a miss
    assert rank1([None, *rows[1:]], np.array([5, 5, 9, 9])) < 0.5

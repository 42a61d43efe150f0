"""The real thing, as small as can be: the untrained pack through every method, and what needs a real UNet."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from coded_world import CodedJudge
from PIL import Image

from hyperlora.errors import InvalidRequest, NoUsablePhoto, WeightsMissing
from hyperlora.evaluation.claims import CLAIMS
from hyperlora.evaluation.claims.refining import from_zero
from hyperlora.evaluation.methods import METHODS, make_method
from hyperlora.evaluation.model import PortraitModel
from hyperlora.evaluation.study import Extent, MiniStudy

PHOTOS = Path(__file__).resolve().parents[3] / "examples" / "photos"
PROMPTS, SEEDS = ["a portrait", "a portrait at night"], [3, 4]


class Brightness(CodedJudge):
    """Knows people by their picture's colours: an embedding for any picture, and no labels."""

    labels = None  # type: ignore[assignment]

    def embed(self, images: list[Image.Image]) -> list[np.ndarray]:  # type: ignore[override]
        rows = [np.asarray(image.resize((2, 2)), np.float32).ravel() + 1 for image in images]
        return [row / np.linalg.norm(row) for row in rows]


@pytest.fixture(scope="module")
def ada() -> list[Image.Image]:
    """Two photos."""
    return [Image.open(PHOTOS / f"ada-{number}.jpg").resize((192, 192)) for number in (1, 2)]


def test_a_pack_says_how_it_is_drawn(untrained: Path, small: PortraitModel) -> None:
    assert (small.name, small.setting.size, small.setting.steps, small.setting.guidance) == (
        "mini-untrained",
        64,
        1,
        5.0,
    )
    assert small.setting.weight == 0.8 and small.analyzer.name == "opencv-yunet-sface"


def test_what_is_no_pack_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match="is no model pack"):
        PortraitModel.from_pack(tmp_path)
    (tmp_path / "pack.json").write_text(json.dumps({"size": 64}), encoding="utf-8")
    with pytest.raises(WeightsMissing, match="sdxl"):
        PortraitModel.from_pack(tmp_path)


def test_methods_draw_through_one_seam(small: PortraitModel, ada: list[Image.Image]) -> None:
    # When every method draws the same prompts and seeds
    drawn = {}
    for name in METHODS:
        method = make_method(name, small)
        assert method.name == name
        prepared = method.prepare(ada)
        rendered = method.render(prepared, PROMPTS, SEEDS)
        assert [image.size for image in rendered.images] == [(64, 64)] * 2 and rendered.seconds > 0
        drawn[name] = [image.tobytes() for image in rendered.images]
        assert (prepared.seconds > 0) is (name != "sdxl")

    # Then each draws something else, and the plain one what the pipeline draws without anything
    assert len({pictures[0] for pictures in drawn.values()}) == len(METHODS)
    plain = small.pipeline(PROMPTS, seeds=SEEDS, width=64, height=64, steps=1, trigger_words=False)
    assert [image.tobytes() for image in plain] == drawn["sdxl"]

    # And HyperLoRA (ID) what the pipeline draws with the LoRA that the network makes of the photos
    known = small.read(ada)
    lora = small.network.generate(known.face_embeddings_NE, known.clip_tokens_NTC)
    expected = small.pipeline(PROMPTS, [(lora, 0.8)], seeds=SEEDS, width=64, height=64, steps=1, batch_size=2)
    assert [image.tobytes() for image in expected] == drawn["hyperlora-id"]


def test_people_share_a_batch_and_look_as_they_do_alone(small: PortraitModel, ada: list[Image.Image]) -> None:
    # Given two people, one with both branches
    own = [make_method("hyperlora-full", small).prepare([photo]).identity for photo in ada]
    weighted = [[(lora, weight) for lora in loras] for loras, weight in zip(own, (0.8, -0.5), strict=True)]

    # When three pictures are drawn in two batches, each with its person's LoRAs
    together = small.draw_each([weighted[0], weighted[1], weighted[0]], [*PROMPTS, "a third"], [1, 2, 3])

    # Then each is what merging draws, but for rounding
    for place, who in enumerate((0, 1, 0)):
        (alone,), _ = small.draw(weighted[who], [[*PROMPTS, "a third"][place]], [place + 1])
        difference = np.abs(np.asarray(alone, np.int16) - np.asarray(together[place], np.int16))
        assert difference.max() <= 2, difference.max()
    assert np.abs(np.asarray(together[0], np.int16) - np.asarray(together[1], np.int16)).max() > 20


def test_nobody_can_be_prepared_from_nothing(small: PortraitModel) -> None:
    with pytest.raises(NoUsablePhoto):
        make_method("hyperlora-id", small).prepare([Image.new("RGB", (96, 96))])


def test_a_method_nobody_knows_is_refused(small: PortraitModel) -> None:
    with pytest.raises(InvalidRequest, match="there are hyperlora-id, hyperlora-full, sdxl"):
        make_method("magic", small)


def test_the_first_photos_are_the_first_that_were_given(small: PortraitModel, ada: list[Image.Image]) -> None:
    # Given photos of which the first shows nobody
    known = small.read([Image.new("RGB", (96, 96)), *ada])
    assert known.used == (1, 2)

    # When fewer are asked for, then places count, not usable ones
    assert known.first(2).used == (1,) and torch.equal(known.first(2).clip_tokens_NTC, known.clip_tokens_NTC[:1])
    with pytest.raises(NoUsablePhoto):
        known.first(1)


def test_the_fingerprint_follows_the_weight_and_not_the_batch(untrained: Path, small: PortraitModel) -> None:
    def changed(**changes: object) -> str:
        return PortraitModel(
            small.pipeline, small.network, small.clip, small.analyzer,
            type(small.setting)(**{**small.setting.__dict__, **changes}), name="other",
        ).fingerprint  # fmt: skip

    assert changed() == changed(batch_size=7) == small.fingerprint and changed(weight=0.5) != small.fingerprint


def test_refining_starts_from_ours_and_from_zero(small: PortraitModel, tmp_path: Path) -> None:
    # Given a study of one person with a training of one step and of two
    extent = Extent(people=2, prompts=1, photos=1, refine_people=1, refine_steps=(1, 2))
    study = MiniStudy(small, Brightness(), extent, tmp_path)

    # When the claim is measured
    outcome = CLAIMS["refine"](study)

    # Then four LoRAs were drawn, all different, and the base came out as it went in
    row, gain = outcome.rows
    assert row.people == 1 and row.value is not None and row.baseline_is == "2 steps from zero"
    assert gain.value == pytest.approx(row.value - (row.baseline or 0.0))
    ((_, pictures),) = outcome.grids["refine"].rows
    assert len({picture.tobytes() for picture in pictures if picture is not None}) == 5
    small.pipeline.restore()
    assert small.pipeline.merger.is_pristine


def test_a_lora_from_zero_changes_nothing_yet(small: PortraitModel, ada: list[Image.Image]) -> None:
    lora = make_method("hyperlora-id", small).prepare(ada).identity[0]
    zero = from_zero(lora)
    assert zero.shapes == lora.shapes and zero.rank == lora.rank
    assert all(not layer.delta().any() and layer.down.any() for layer in zero.layers.values())
    assert zero.equals(from_zero(lora)) and not zero.equals(from_zero(lora, seed=1))


def test_steps_are_timed_merged_and_plain(small: PortraitModel) -> None:
    study = MiniStudy(small, Brightness(), Extent(people=1, prompts=1, photos=1))
    (row,) = CLAIMS["speed"](study).rows
    assert row.unit == "ms" and row.value is not None and row.value > 0 and row.baseline is not None
    assert row.baseline > 0 and "one merge takes" in row.note and small.pipeline.merger.is_pristine

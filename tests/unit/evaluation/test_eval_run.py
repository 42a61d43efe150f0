"""Claims are run in order, kept, and not measured twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from coded_world import CodedJudge, CodedModel, code_portraits, coded_study
from PIL import Image

from hyperlora.errors import InvalidRequest
from hyperlora.evaluation.run import run_claims

CLAIMS = ["ceiling", "identity", "text", "photos", "leak", "trigger", "branches", "interpolation"]
FEW = {"people": 3}


@pytest.fixture(autouse=True)
def _codes(monkeypatch: pytest.MonkeyPatch) -> None:
    code_portraits(monkeypatch)


def test_what_is_finished_is_not_measured_again(tmp_path: Path) -> None:
    # Given a finished evaluation
    model, heard = CodedModel(plain=1), []
    first = run_claims(coded_study(model, folder=tmp_path, **FEW), CLAIMS, on_claim=heard.append)
    assert [result.claim for result in first] == CLAIMS == [result.claim for result in heard]

    # When it is run again by another process
    again_model, judge = CodedModel(plain=1), CodedJudge()
    again = run_claims(coded_study(again_model, judge=judge, folder=tmp_path, **FEW), CLAIMS)

    # Then the numbers are the same, and nothing was drawn or judged
    assert [result.to_data() for result in again] == [json.loads(json.dumps(result.to_data())) for result in first]
    assert again_model.drawn == 0 and judge.asked == 0


def test_an_interrupted_claim_goes_on_with_the_pictures_it_has(tmp_path: Path) -> None:
    # Given an evaluation that ended before its claim was finished, but after its pictures were judged
    run_claims(coded_study(CodedModel(), folder=tmp_path, **FEW), ["identity"])
    (finished,) = tmp_path.glob("*/claim-identity.json")
    finished.unlink()

    # When it goes on, then nothing is drawn again
    model = CodedModel()
    (result,) = run_claims(coded_study(model, folder=tmp_path, **FEW), ["identity"])
    assert model.drawn == 0 and result.rows[0].value == 1.0


def test_another_model_is_measured_anew_with_the_same_drawings(tmp_path: Path) -> None:
    # Given one model's evaluation, and another model
    run_claims(coded_study(CodedModel(), folder=tmp_path, **FEW), ["ceiling", "identity"])
    model, judge = CodedModel(blur=0.5), CodedJudge()

    # When it is measured
    run_claims(coded_study(model, judge=judge, folder=tmp_path, **FEW), ["ceiling", "identity"])

    # Then its pictures are drawn and judged, 4 prompts of 3 people with LoRA and without, and no drawn portrait
    assert model.drawn == 24 and judge.asked == 24


def test_a_twin_concerns_the_leak_alone(tmp_path: Path) -> None:
    run_claims(coded_study(CodedModel(), folder=tmp_path, **FEW), ["identity", "leak"])
    model = CodedModel()
    study = coded_study(model, folder=tmp_path, twin=CodedModel(leaky=True), **FEW)
    identity, leak = run_claims(study, ["identity", "leak"])
    assert leak.rows[1].reached is True
    assert model.drawn == 9  # the twin's: two pictures asked otherwise and one bare, of 3 people
    assert identity.rows[0].value == 1.0


def test_pictures_lie_beside(tmp_path: Path) -> None:
    run_claims(coded_study(CodedModel(plain=1), **FEW), CLAIMS, pictures=tmp_path)
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["branches.png", "identity.png", "interpolation.png", "leak.png", "trigger.png"]
    with Image.open(tmp_path / "identity.png") as image:
        assert image.width > image.height > 500


def test_nothing_is_kept_without_a_folder() -> None:
    (result,) = run_claims(coded_study(CodedModel(), **FEW), ["interpolation"])
    assert result.rows[0].people == 3


def test_a_claim_nobody_knows_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"beauty; there are ceiling, identity"):
        run_claims(coded_study(CodedModel()), ["beauty"])


@pytest.mark.parametrize("extent", [{"photos": 0}, {"photos": 9}, {"prompts": 0}])
def test_an_extent_of_nothing_is_refused(extent: dict[str, int]) -> None:
    with pytest.raises(InvalidRequest, match="1 to 8 photos"):
        coded_study(CodedModel(), **extent)


def test_nobody_usable_is_an_error_and_a_blind_judge_too() -> None:
    class Blind(CodedJudge):
        def embed(self, images: object) -> list[None]:
            return [None] * len(list(images))  # type: ignore[call-overload]

    with pytest.raises(InvalidRequest, match="a face in none of 3 drawn photos"):
        run_claims(coded_study(_with_analyzer(CodedModel(unusable=(0, 1, 2))), **FEW), ["identity"])
    with pytest.raises(InvalidRequest, match="no face in any drawn portrait of person 2000000"):
        run_claims(coded_study(CodedModel(), judge=Blind(), **FEW), ["ceiling"])


def _with_analyzer(model: CodedModel) -> CodedModel:
    model.analyzer = CodedJudge("blind")  # type: ignore[attr-defined]
    return model

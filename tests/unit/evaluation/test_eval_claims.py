"""The claims in a world whose numbers are known beforehand."""

from __future__ import annotations

from typing import Any

import pytest
from coded_world import PEOPLE, CodedJudge, CodedModel, code_portraits, coded_study

from hyperlora.evaluation.claims import CLAIMS
from hyperlora.evaluation.rows import Row
from hyperlora.evaluation.study import MiniStudy


@pytest.fixture(autouse=True)
def _codes(monkeypatch: pytest.MonkeyPatch) -> None:
    code_portraits(monkeypatch)


def rows(study: MiniStudy, claim: str) -> list[Row]:
    """A claim's rows, which all bear its name."""
    found = list(CLAIMS[claim](study).rows)
    assert {row.claim for row in found} == {claim}
    return found


def test_drawn_portraits_are_the_ceiling() -> None:
    rank, own = rows(coded_study(CodedModel()), "ceiling")
    assert (rank.value, rank.low, rank.high, rank.people, rank.reached) == (1.0, 1.0, 1.0, PEOPLE, True)
    assert rank.baseline == 1 / PEOPLE
    assert own.value == pytest.approx(1.0) and own.baseline == pytest.approx(0.0)


def test_a_perfect_model_is_measured_as_one() -> None:
    # Given a model that draws the very person, and nobody in particular without a LoRA: always person 3
    study = coded_study(CodedModel(plain=3))

    # When identity is measured
    rank, without, own, wrong, plain = rows(study, "identity")

    # Then everybody is known, and without LoRA one of all is, which is chance
    assert rank.value == 1.0 and rank.reached is True
    assert without.value == 1 / PEOPLE and without.reached is True
    assert own.value == pytest.approx(1.0) and own.baseline == pytest.approx(0.0)
    assert wrong.reached is True and plain.reached is True and plain.value == pytest.approx(1 - 1 / PEOPLE)


def test_a_model_that_draws_one_face_for_all_is_found_out() -> None:
    # Given a model whose faces are all alike
    rank, _, own, wrong, _ = rows(coded_study(CodedModel(blur=1e4)), "identity")

    # Then it is at chance, and the wrong person is as like as the right one
    assert rank.value == 1 / PEOPLE and rank.reached is False
    assert own.value == pytest.approx(own.baseline, abs=1e-3)
    assert wrong.value == pytest.approx(0.0, abs=1e-3)


def test_who_cannot_be_drawn_is_counted_not_dropped() -> None:
    # Given a tenth of the people without a usable photo
    rank, *_ = rows(coded_study(CodedModel(plain=0, unusable=(1, 2, 3, 4))), "identity")

    # Then their pictures are misses
    assert rank.value == pytest.approx(1 - 4 / PEOPLE) and rank.people == PEOPLE
    assert "16 of 160 pictures" in rank.note


def test_a_judge_that_sees_no_face_counts_as_a_miss() -> None:
    # Given a base model whose pictures show nobody
    _, without, *_ = rows(coded_study(CodedModel(plain=None)), "identity")
    assert without.value == 0.0 and without.reached is True


def test_text_is_obeyed_or_not() -> None:
    # Given one model that listens and one that draws the first word of everything
    good, plain, *slots = rows(coded_study(CodedModel()), "text")
    deaf, *_ = rows(coded_study(CodedModel(deaf=True)), "text")

    # Then the first is as good as without LoRA, and the other is not
    assert good.value == plain.value == 1.0 and good.reached is True and plain.reached is True
    assert [row.value for row in slots] == [1.0] * 5
    assert deaf.value is not None and deaf.value < 0.4 and deaf.reached is False


def test_a_judge_without_labels_says_so() -> None:
    class Silent(CodedJudge):
        labels = None  # type: ignore[assignment]

    for claim in ("text", "leak", "branches"):
        study = coded_study(CodedModel(), judge=Silent())
        missing = [row for row in rows(study, claim) if row.value is None]
        assert missing and "no attributes" in missing[-1].note and missing[-1].reached is None


def test_several_photos_beat_one() -> None:
    # Given faces that are blurred less with more photos, and faces that are not
    better, same = coded_study(CodedModel(blur=0.4)), coded_study(CodedModel())

    # When similarity is measured with 1, 2, 4 and 8
    *counts, gain = rows(better, "photos")
    *_, none = rows(same, "photos")

    # Then it grows, and where it does not the bar is missed
    values = [row.value for row in counts]
    assert values == sorted(values) and len(set(values)) == 4  # type: ignore[type-var]
    assert gain.reached is True and none.reached is False and none.value == pytest.approx(0.0)


def test_a_leak_is_measured_against_a_twin() -> None:
    # Given a model that draws what is asked for, and a twin that draws the photo's clothes
    study = coded_study(CodedModel(), twin=CodedModel(leaky=True))

    # When the leak is measured
    ours, ratio, bare, _ = rows(study, "leak")

    # Then ours is none, the twin's is whole
    assert ours.value == 0.0 and ratio.value == 0.0 and ratio.reached is True and "in 100.0%" in ratio.note
    assert bare.measure.startswith("leak into a prompt that says nothing")


def test_a_model_as_leaky_as_its_twin_misses_the_bar() -> None:
    ours, ratio, *_ = rows(coded_study(CodedModel(leaky=True), twin=CodedModel(leaky=True)), "leak")
    assert ours.value == 1.0 and ratio.value == 1.0 and ratio.reached is False


def test_a_twin_that_does_not_leak_is_no_measure() -> None:
    _, ratio, *_ = rows(coded_study(CodedModel(), twin=CodedModel()), "leak")
    assert ratio.value is None and ratio.reached is None and "no more than chance (0.0%)" in ratio.note


def test_without_a_twin_the_row_says_why() -> None:
    _, ratio, *_ = rows(coded_study(CodedModel()), "leak")
    assert ratio.value is None and ratio.reached is None and "--twin" in ratio.note
    assert ratio.told == "not measured"


@pytest.mark.parametrize(("loud", "reached"), [(False, True), (True, False)])
def test_without_trigger_words_nothing_happens(loud: bool, reached: bool) -> None:
    (row,) = rows(coded_study(CodedModel(plain=0, loud=loud)), "trigger")
    assert row.reached is reached and row.people == PEOPLE
    assert (row.value == 0.0) is not loud and row.baseline is not None and row.baseline > 0.5


def test_who_has_no_lora_says_nothing_about_trigger_words() -> None:
    (row,) = rows(coded_study(CodedModel(plain=0, unusable=(5,))), "trigger")
    assert row.people == PEOPLE - 1 and row.note == "1 people have no usable photo"


def test_full_and_id_are_compared() -> None:
    # Given a Base-LoRA that brings the photo's clothes and background along
    fidelity, editability = rows(coded_study(CodedModel()), "branches")

    # Then Full is as alike as ID, and obeys less
    assert fidelity.value == fidelity.baseline == pytest.approx(1.0)
    assert editability.value is not None and editability.value < 0.5 and editability.baseline == 1.0


def test_a_checkpoint_without_base_has_no_full() -> None:
    model: Any = CodedModel()
    model.branches = ("id",)
    found = rows(coded_study(model), "branches")
    assert [row.value for row in found] == [None, None] and "no Base branch" in found[0].note


def test_the_way_between_people_is_monotone() -> None:
    # Given a space that is linear
    study = coded_study(CodedModel())

    # When people are mixed
    outcome = CLAIMS["interpolation"](study)
    (row,) = outcome.rows

    # Then likeness to A falls from 1 to 0 and that to B grows, alike half way
    assert row.reached is True and row.value is not None and 0.05 < row.value < 0.3
    to_a, to_b = outcome.series["to A"], outcome.series["to B"]
    assert to_a[0] == pytest.approx(1.0) and to_a[-1] == pytest.approx(0.0)
    assert to_a[2] == pytest.approx(to_b[2], abs=0.01) and to_a == sorted(to_a, reverse=True)


def test_a_space_without_a_way_misses_the_bar() -> None:
    (row,) = rows(coded_study(CodedModel(blur=1e4)), "interpolation")
    assert row.reached is False


def test_one_person_has_no_way_to_another() -> None:
    (row,) = rows(coded_study(CodedModel(), people=1), "interpolation")
    assert row.value is None and "two people" in row.note


def test_nobody_to_refine_for_is_said() -> None:
    (row,) = rows(coded_study(CodedModel(), refine_people=0), "refine")
    assert row.value is None and "--refine-people" in row.note

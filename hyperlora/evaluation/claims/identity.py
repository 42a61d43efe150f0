"""The ceiling, and the first claim: identity is kept."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hyperlora.evaluation.claims.outcome import Outcome
from hyperlora.evaluation.grids import Grid
from hyperlora.evaluation.rows import Row, measured
from hyperlora.evaluation.shots import Shots
from hyperlora.evaluation.statistics import cosines, mean_over_people, other_similarity, own_similarity, rank_one
from hyperlora.evaluation.study import MiniStudy

CEILING_BAR, RANK_BAR = 0.98, 0.80
TINY_SIDE, TINY_RANK_BAR, TINY_LOW_BAR = 64, 0.10, 0.02
SHOWN_PROMPTS = 3


def ceiling(study: MiniStudy) -> Outcome:
    """The judge on drawn portraits that show exactly what is asked for: no model can be measured better than this."""
    cosines_NPG = cosines(study.ideal_shots().embeddings_NPE, study.gallery_NE)
    rank = mean_over_people(rank_one(cosines_NPG).mean(axis=1))
    own = mean_over_people(own_similarity(cosines_NPG).mean(axis=1))
    wrong = float(other_similarity(cosines_NPG).mean())
    return Outcome(
        [
            measured(
                "ceiling",
                "rank-1 of the judge on drawn portraits",
                "share",
                rank,
                baseline=1 / rank.people,
                baseline_is="chance",
                bar="at least 98 %",
                reached=rank.value >= CEILING_BAR,
                note="the ceiling of all rows below",
            ),
            measured(
                "ceiling", "ID similarity of drawn portraits", "cosine", own, baseline=wrong, baseline_is="wrong person"
            ),
        ]
    )


def identity(study: MiniStudy) -> Outcome:
    """Rank-1 among the held-out persons, and similarity against the wrong person and against no LoRA."""
    count, photos = study.extent.prompts, study.extent.photos
    drawn, plain = study.with_lora(photos, count), study.without_lora(count)
    cosines_NPG = cosines(drawn.embeddings_NPE, study.gallery_NE)
    plain_NPG = cosines(plain.embeddings_NPE, study.gallery_NE)
    own_N = own_similarity(cosines_NPG).mean(axis=1)
    wrong_N = other_similarity(cosines_NPG).mean(axis=1)
    without_N = own_similarity(plain_NPG).mean(axis=1)
    given = f"{photos} photo{'s' if photos > 1 else ''}"
    similarity = mean_over_people(own_N)
    rows = [
        _rank_row(study, cosines_NPG=cosines_NPG, given=given, note=_faceless(drawn)),
        _without_row(plain_NPG),
        measured(
            "identity", f"ID similarity with ID-LoRA, {given}", "cosine", similarity,
            baseline=float(wrong_N.mean()), baseline_is="wrong person",
        ),
        measured(
            "identity", "  more than to a wrong person", "cosine", mean_over_people(own_N - wrong_N),
            baseline=0.0, baseline_is="no difference", bar="above 0",
            reached=mean_over_people(own_N - wrong_N).low > 0,
        ),
        measured(
            "identity", "  more than without LoRA", "cosine", mean_over_people(own_N - without_N),
            baseline=float(without_N.mean()), baseline_is="similarity without LoRA", bar="above 0",
            reached=mean_over_people(own_N - without_N).low > 0,
        ),
    ]  # fmt: skip
    return Outcome(rows, grids={"identity": _grid(study, drawn, plain)})


def _rank_row(study: MiniStudy, *, cosines_NPG: npt.NDArray[np.float64], given: str, note: str) -> Row:
    rank = mean_over_people(rank_one(cosines_NPG).mean(axis=1))
    if study.model.setting.size <= TINY_SIDE:
        bar = f"at least 10 % and above 2 % for a tiny pack ({study.model.setting.size} px); 80 % for the full one"
        reached = rank.value >= TINY_RANK_BAR and rank.low > TINY_LOW_BAR
    else:
        bar, reached = "at least 80 %", rank.value >= RANK_BAR
    return measured(
        "identity", f"rank-1 with ID-LoRA, {given}", "share", rank,
        baseline=1 / rank.people, baseline_is="chance", bar=bar, reached=reached, note=note,
    )  # fmt: skip


def _without_row(plain_NPG: npt.NDArray[np.float64]) -> Row:
    rank = mean_over_people(rank_one(plain_NPG).mean(axis=1))
    chance = 1 / rank.people
    return measured(
        "identity", "rank-1 without LoRA", "share", rank,
        baseline=chance, baseline_is="chance", bar="not above chance", reached=rank.low <= chance,
    )  # fmt: skip


def _faceless(shots: Shots) -> str:
    pictures = shots.embeddings_NPE.shape[0] * shots.embeddings_NPE.shape[1]
    return f"no face in {shots.faceless} of {pictures} pictures, counted as misses" if shots.faceless else ""


def _grid(study: MiniStudy, drawn: Shots, plain: Shots) -> Grid:
    shown = min(SHOWN_PROMPTS, study.extent.prompts)
    columns = ["photo", "gallery"]
    for place in range(shown):
        columns += [f"asked {place + 1}: drawn", "without LoRA", "ID-LoRA"]
    ideal = study.ideal_shots()
    rows = []
    for row in drawn.shown:
        one = study.people[row]
        pictures = [one.photo(0), one.gallery()[0]]
        for place in range(shown):
            pictures += [shots.picture(row, place) for shots in (ideal, plain, drawn)]
        rows.append((str(one.seed), pictures))
    return Grid("Held-out people: photo, and three prompts each", columns, rows)

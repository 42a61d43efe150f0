"""Several photos beat one."""

from __future__ import annotations

from typing import Any

from hyperlora.evaluation.claims.outcome import Outcome
from hyperlora.evaluation.rows import Row, measured
from hyperlora.evaluation.statistics import cosines, mean_over_people, own_similarity, rank_one
from hyperlora.evaluation.study import MiniStudy

COUNTS = (1, 2, 4, 8)


def photos(study: MiniStudy) -> Outcome:
    """ID similarity and rank-1 with 1, 2, 4 and 8 photos, and what several gain over one, person by person."""
    similar, rank = {}, {}
    for count in COUNTS:
        shots = study.with_lora(count, study.few)
        cosines_NPG = cosines(shots.embeddings_NPE, study.gallery_NE)
        similar[count] = own_similarity(cosines_NPG).mean(axis=1)
        rank[count] = rank_one(cosines_NPG).mean(axis=1)
    one = float(similar[1].mean())
    rows: list[Row] = []
    for count in COUNTS:
        told = f"{count} photo{'s' if count > 1 else ''}"
        against: dict[str, Any] = {"baseline": one, "baseline_is": "1 photo"} if count > 1 else {}
        rows.append(
            measured(
                "photos", f"ID similarity with {told}", "cosine", mean_over_people(similar[count]),
                note=f"rank-1 {rank[count].mean():.1%}", **against,
            )
        )  # fmt: skip
    several = mean_over_people((similar[2] + similar[4] + similar[8]) / 3 - similar[1])
    rows.append(
        measured(
            "photos", "gain of 2, 4 and 8 photos over one", "cosine", several,
            baseline=0.0, baseline_is="no gain", bar="above 0", reached=several.low > 0,
        )
    )  # fmt: skip
    return Outcome(
        rows,
        {
            "photos": [float(count) for count in COUNTS],
            "similarity": [float(similar[count].mean()) for count in COUNTS],
            "rank-1": [float(rank[count].mean()) for count in COUNTS],
        },
    )

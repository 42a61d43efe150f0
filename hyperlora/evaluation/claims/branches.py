"""ID against Full: what Base-LoRA adds to the likeness, and what it costs in editing."""

from __future__ import annotations

from hyperlora.evaluation.claims.outcome import Outcome
from hyperlora.evaluation.claims.text import NO_LABELS, accuracy, obeyed
from hyperlora.evaluation.grids import Grid
from hyperlora.evaluation.rows import measured, not_measured
from hyperlora.evaluation.statistics import cosines, mean_over_people, own_similarity
from hyperlora.evaluation.study import MiniStudy


def branches(study: MiniStudy) -> Outcome:
    """Fidelity (ID similarity) and editability (attribute accuracy) of HyperLoRA Full and HyperLoRA ID."""
    fidelity, editability = "fidelity of Full: ID similarity", "editability of Full: attribute accuracy"
    if "base" not in study.model.network.config.branches:
        why = "the checkpoint has no Base branch, so there is no Full"
        return Outcome(
            [not_measured("branches", fidelity, why), not_measured("branches", editability, why, unit="share")]
        )
    count, photos = study.few, study.extent.photos
    alone, full = study.with_lora(photos, count), study.with_lora(photos, count, ("id", "base"))
    alone_N, full_N = (
        own_similarity(cosines(shots.embeddings_NPE, study.gallery_NE)).mean(axis=1) for shots in (alone, full)
    )
    rows = [
        measured(
            "branches", fidelity, "cosine", mean_over_people(full_N),
            baseline=float(alone_N.mean()), baseline_is="ID alone",
        )
    ]  # fmt: skip
    if study.labels:
        wanted_NPA = study.asked_NPA(count)
        text_alone_N, text_full_N = (accuracy(obeyed(shots, wanted_NPA)) for shots in (alone, full))
        rows.append(
            measured(
                "branches", editability, "share", mean_over_people(text_full_N),
                baseline=float(text_alone_N.mean()), baseline_is="ID alone",
            )
        )  # fmt: skip
    else:
        rows.append(not_measured("branches", editability, NO_LABELS.format(study.judge.name), unit="share"))
    pictures = [
        (str(study.people[row].seed), [study.people[row].photo(0), alone.picture(row, 0), full.picture(row, 0)])
        for row in full.shown
    ]
    return Outcome(
        rows, grids={"branches": Grid("ID-LoRA alone, and with Base-LoRA", ["photo", "ID", "Full"], pictures)}
    )

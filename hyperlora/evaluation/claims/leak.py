"""Base-LoRA keeps irrelevant things out: the photo's clothing and background do not come along.

Shapes: N people, P pictures of each, A attributes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hyperlora.evaluation.claims.outcome import Outcome
from hyperlora.evaluation.claims.text import NO_LABELS
from hyperlora.evaluation.grids import Grid
from hyperlora.evaluation.people import BARE_PROMPT, PHOTO_SLOTS, HeldOut, prompt_of
from hyperlora.evaluation.rows import Row, measured, not_measured
from hyperlora.evaluation.shots import SLOTS, Shots, wanted_labels
from hyperlora.evaluation.statistics import mean_over_people, ratio_over_people
from hyperlora.evaluation.study import MiniStudy

ASKED_PICTURES, BARE_PICTURES = 2, 1
BAR, MOST = "at most half of the twin's", 0.5
NO_TWIN = (
    "needs a twin checkpoint that was trained without Base-LoRA for the same steps: --twin FOLDER "
    "(the twin is not shipped)"
)


def leaked(shots: Shots, photo_NA: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """(N,) how often a picture shows the first photo's clothing, its colour or the background; mean over the three."""
    slots = [SLOTS.index(slot) for slot in PHOTO_SLOTS]
    same_NPA = shots.labels_NPA[:, :, slots] == photo_NA[:, None, slots]
    share: npt.NDArray[np.float64] = same_NPA.mean(axis=(1, 2))
    return share


def leak(study: MiniStudy) -> Outcome:
    """From one photo each: prompts that ask for other clothes and another place, and one that says nothing of them."""
    if not study.labels:
        return Outcome([not_measured("leak", "leak", NO_LABELS.format(study.judge.name), unit="share", bar=BAR)])
    photo_NA = wanted_labels([[one.photo_says()] for one in study.people])[:, 0]
    rows: list[Row] = []
    grids = {}
    for kind, prompts in (("asked", min(ASKED_PICTURES, study.extent.prompts)), ("bare", BARE_PICTURES)):
        drawn = _shots(study, kind, prompts, twin=False)
        plain = study.shots(f"leak-{kind}-plain", prompts, None, prompt=_PROMPTS[kind])
        twin = _shots(study, kind, prompts, twin=True) if study.twin is not None else None
        rows += _rows(kind, drawn, plain, twin, photo_NA)
        if kind == "asked":
            grids["leak"] = _grid(study, drawn, plain, twin)
    return Outcome(rows, grids=grids)


_PROMPTS = {
    "asked": lambda one, place: prompt_of(one.asked_otherwise(place)),
    "bare": lambda one, place: BARE_PROMPT,
}
_TOLD = {
    "asked": "leak of the photo's clothing and background, prompts that ask for others",
    "bare": "leak into a prompt that says nothing of them",
}


def _shots(study: MiniStudy, kind: str, prompts: int, *, twin: bool) -> Shots:
    network = study.twin if twin else None
    name = f"leak-{kind}" + (f"-twin-{network.fingerprint[:12]}" if network is not None else "")
    return study.shots(name, prompts, lambda index: study.loras(index, 1, network=network), prompt=_PROMPTS[kind])


def _rows(kind: str, drawn: Shots, plain: Shots, twin: Shots | None, photo_NA: npt.NDArray[np.int64]) -> list[Row]:
    ours_N, chance_N = leaked(drawn, photo_NA), leaked(plain, photo_NA)
    rows = [
        measured(
            "leak", _TOLD[kind], "share", mean_over_people(ours_N),
            baseline=float(chance_N.mean()), baseline_is="without LoRA (by chance)",
        )
    ]  # fmt: skip
    against = "  against the twin without Base-LoRA"
    if twin is None:
        return [*rows, not_measured("leak", against, NO_TWIN, unit="ratio", bar=BAR if kind == "asked" else "")]
    # By chance, a picture shows the photo's words without any LoRA; only what comes beyond that is a leak.
    twin_N = leaked(twin, photo_NA)
    theirs = float((twin_N - chance_N).mean())
    if theirs <= 0:
        why = f"the twin leaks no more than chance ({twin_N.mean():.1%}), so there is nothing to compare"
        return [*rows, not_measured("leak", against, why, unit="ratio", bar=BAR if kind == "asked" else "")]
    ratio = ratio_over_people(ours_N - chance_N, twin_N - chance_N)
    bar = {"bar": BAR, "reached": ratio.value <= MOST} if kind == "asked" else {}
    note = f"beyond chance; the twin's pictures show the photo's words in {twin_N.mean():.1%}"
    return [*rows, measured("leak", against, "ratio", ratio, baseline=1.0, baseline_is="the twin", note=note, **bar)]


def _grid(study: MiniStudy, drawn: Shots, plain: Shots, twin: Shots | None) -> Grid:
    columns = ["photo", "without LoRA", "ID-LoRA"] + (["twin without Base"] if twin else [])
    rows = []
    for row in drawn.shown:
        one: HeldOut = study.people[row]
        sets = [plain, drawn, *([twin] if twin else [])]
        rows.append((str(one.seed), [one.photo(0), *(shots.picture(row, 0) for shots in sets)]))
    return Grid("Other clothes and another place are asked for", columns, rows)

"""Run the claims, one after another; what is finished is kept and not measured again."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from hyperlora.errors import InvalidRequest
from hyperlora.evaluation.claims import CLAIMS
from hyperlora.evaluation.rows import ClaimResult
from hyperlora.evaluation.study import MiniStudy


def run_claims(
    study: MiniStudy,
    claims: Sequence[str] | None = None,
    *,
    pictures: Path | None = None,
    on_claim: Callable[[ClaimResult], None] | None = None,
) -> list[ClaimResult]:
    """Measure the claims in the order of the table; all where none is named.

    Parameters
    ----------
    study
        Where `study.folder` is given, a finished claim is read from there if nothing it rests on has changed.
    claims
        Names from `CLAIMS`.
    pictures
        Folder for the claims' pictures side by side.
    on_claim
        Called with each result.

    Raises
    ------
    InvalidRequest
        A claim nobody knows.
    """
    wanted = list(CLAIMS) if claims is None else list(claims)
    unknown = [name for name in wanted if name not in CLAIMS]
    if unknown:
        raise InvalidRequest(f"no claim is called {', '.join(unknown)}; there are {', '.join(CLAIMS)}")
    results = []
    for name in CLAIMS:
        if name in wanted:
            result = _finished(study, name) or _measure(study, name, pictures)
            results.append(result)
            if on_claim is not None:
                on_claim(result)
    return results


def _measure(study: MiniStudy, name: str, pictures: Path | None) -> ClaimResult:
    started = time.perf_counter()
    outcome = CLAIMS[name](study)
    study.model.pipeline.restore()
    result = ClaimResult(name, tuple(outcome.rows), dict(outcome.series), time.perf_counter() - started)
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
        for file, grid in outcome.grids.items():
            grid.draw().save(pictures / f"{file}.png")
    kept = study.place(f"claim-{name}.json")
    if kept is not None:
        _write(kept, {"rests_on": _rests_on(study, name), **result.to_data()})
    return result


def _finished(study: MiniStudy, name: str) -> ClaimResult | None:
    """The kept result, if it rests on the same."""
    kept = study.place(f"claim-{name}.json")
    if kept is None or not kept.is_file():
        return None
    data = json.loads(kept.read_text(encoding="utf-8"))
    return ClaimResult.from_data(data) if data["rests_on"] == _rests_on(study, name) else None


def _rests_on(study: MiniStudy, name: str) -> dict[str, object]:
    """What a claim depends on beyond the study's key."""
    if name == "leak":
        return {"twin": None if study.twin is None else study.twin.fingerprint}
    if name == "refine":
        extent = asdict(study.extent)
        return {"people": extent["refine_people"], "steps": list(extent["refine_steps"])}
    return {}


def _write(file: Path, data: dict[str, object]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}-{os.getpid()}-{secrets.token_hex(4)}")
    beside.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    beside.replace(file)

"""`portraits inspect`: what a picture file proves of its origin, and what it tells of its making."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.exits import Exit
from worker.cli.extras import need_worker_extra
from worker.cli.options import AsJson, load_settings
from worker.cli.output import facts, print_json, say

if TYPE_CHECKING:
    from worker.marking.inspection import Inspected

MAX_ANCHOR_BYTES = 4 * 1024 * 1024
STYLES = {"none": "yellow", "trusted": "green", "valid": "green", "invalid": "bold red"}


def inspect(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Pictures: PNG, JPEG or WebP.")],
    trust: Annotated[
        Path | None,
        typer.Option("--trust", help="PEM file of authorities that are trusted, such as the C2PA trust list."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show who signed a picture, whether it was changed since, and what it tells of its making.

    Ends with 1 unless each picture carries a signature that holds. Nothing that a file names is fetched.
    """
    need_worker_extra("`portraits inspect`")
    settings = load_settings()
    from worker.marking.inspection import inspect_picture

    anchors = _anchors(trust)
    found = [inspect_picture(file, settings, anchors_pem=anchors) for file in files]
    if as_json:
        print_json([_data(one) for one in found])
    else:
        for one in found:
            _show(one)
    if not all(one.provenance.holds for one in found):
        raise typer.Exit(Exit.PROBLEM)


def _anchors(file: Path | None) -> bytes | None:
    """The authorities' certificates. Raises BadParameter."""
    if file is None:
        return None
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_ANCHOR_BYTES + 1)
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be read: {error.strerror}", param_hint="--trust") from None
    if b"-----BEGIN CERTIFICATE-----" not in data or len(data) > MAX_ANCHOR_BYTES:
        raise typer.BadParameter(f"{file} holds no certificates in PEM", param_hint="--trust")
    return data


def _data(one: Inspected) -> dict[str, Any]:
    told = asdict(one)
    told["provenance"] |= {
        "words": one.provenance.words,
        "holds": one.provenance.holds,
        "faults": [{"code": code, "words": words} for code, words in one.provenance.faults],
    }
    return told


def _show(one: Inspected) -> None:
    proof = one.provenance
    say(f"{one.file}: {one.media_type}, {one.width}x{one.height}", "bold")
    say(f"  {proof.words}", STYLES[proof.state])
    told: dict[str, object | None] = {
        "signed by": f"{proof.signer or 'nameless'} ({proof.issuer or 'no organisation'})" if proof.algorithm else None,
        "at": proof.signed_at,
        "made with": proof.software,
        "C2PA says": ", ".join(proof.sources),
        "model": proof.model,
        "IPTC says": one.source or "nothing of its source",
        "watermark": one.watermark,
        "faults": "; ".join(f"{words or 'fault'} ({code})" for code, words in proof.faults if not proof.holds),
        "parameters": one.parameters and one.parameters.replace("\n", "\n" + " " * 14),
        "record": ", ".join(f"{name} {value}" for name, value in one.record.items() if name in _SHOWN) or None,
    }
    facts({name: value for name, value in told.items() if value})


_SHOWN = ("job", "render", "notice", "unsigned", "watermark")

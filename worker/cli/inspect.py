"""`portraits inspect`: what a picture file proves of its origin, and what it tells of its making."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.errors import PhotoRefused
from worker.cli.exits import Exit, exit_code_of
from worker.cli.extras import need_worker_extra
from worker.cli.options import AsJson, load_settings
from worker.cli.output import facts, print_json, say
from worker.errors import code_of

if TYPE_CHECKING:
    from jobs.settings import Settings
    from worker.marking.inspection import Inspected

MAX_ANCHOR_BYTES = 4 * 1024 * 1024
STYLES = {"none": "yellow", "trusted": "green", "valid": "green", "invalid": "bold red"}


@dataclass(frozen=True)
class Refused:
    """A file that is no picture, among others."""

    file: Path
    error: PhotoRefused


def inspect(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Pictures: PNG, JPEG or WebP.")],
    trust: Annotated[
        Path | None,
        typer.Option("--trust", help="PEM file of authorities that are trusted, such as the C2PA trust list."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show who signed a picture, whether it was changed since, and what it tells of its making.

    Ends with 1 unless each picture carries a signature that holds, with 2 where a file is no picture; the others are
    shown all the same. Nothing that a file names is fetched.
    """
    need_worker_extra("`portraits inspect`")
    settings = load_settings()
    anchors = _anchors(trust)
    found = [_inspected(file, settings, anchors, alone=len(files) == 1) for file in files]
    if as_json:
        print_json([_data(one) for one in found])
    else:
        for one in found:
            _show(one)
    if worst := max(_exit(one) for one in found):
        raise typer.Exit(worst)


def _inspected(file: Path, settings: Settings, anchors: bytes | None, *, alone: bool) -> Inspected | Refused:
    """One file; one that is no picture ends the command only where it is alone. Raises PhotoRefused."""
    from worker.marking.inspection import inspect_picture

    try:
        return inspect_picture(file, settings, anchors_pem=anchors)
    except PhotoRefused as error:
        if alone:
            raise
        return Refused(file, error)


def _exit(one: Inspected | Refused) -> Exit:
    if isinstance(one, Refused):
        return exit_code_of(one.error)
    return Exit.OK if one.provenance.holds else Exit.PROBLEM


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


def _data(one: Inspected | Refused) -> dict[str, Any]:
    if isinstance(one, Refused):
        return {"file": one.file, "error": {"code": code_of(one.error), "message": str(one.error)}}
    told = asdict(one)
    told["provenance"] |= {
        "words": one.provenance.words,
        "holds": one.provenance.holds,
        "faults": [{"code": code, "words": words} for code, words in one.provenance.faults],
    }
    return told


def _show(one: Inspected | Refused) -> None:
    if isinstance(one, Refused):
        say(str(one.error), "bold red")
        return
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

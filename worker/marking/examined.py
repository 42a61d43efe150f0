"""What is to be said of the marking on this machine, for the doctor; nothing is made by looking."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Literal, NamedTuple

from jobs.settings import Settings
from worker.errors import MarkingBroken
from worker.marking.credentials import load_credentials
from worker.marking.self_made import FOLDER

SOON = dt.timedelta(days=30)


class Said(NamedTuple):
    """One thing that was looked at, with a hint where something is to be done."""

    name: str
    state: Literal["ok", "note", "problem"]
    detail: str
    hint: str = ""


def examine(settings: Settings) -> Iterator[Said]:
    """Certificate, key and watermark."""
    yield _signing(settings)
    if settings.watermark == "on":
        from worker.marking.watermark import HINT

        is_there = find_spec("imwatermark") is not None
        detail = "pictures of at least 256x256 pixels get one" if is_there else "wanted, its package is not installed"
        yield Said("watermark", "ok" if is_there else "problem", detail, "" if is_there else HINT)


def _signing(settings: Settings) -> Said:
    if settings.sign == "off":
        return Said("signing", "note", "off: pictures say by IPTC's word alone that they are AI-made")
    own = "set PORTRAITS_SIGN_CERTIFICATE and PORTRAITS_SIGN_KEY for a certificate of yours; see marking.md"
    if settings.sign_certificate is None and settings.sign_key is None and not (settings.home / FOLDER).is_dir():
        return Said("signing", "note", "with a self-made certificate, made when a worker first needs it", own)
    try:
        found = load_credentials(settings)
    except MarkingBroken as error:
        return Said("signing", "problem", str(error), "mend the files; workers look again within a minute")
    told = f"as {found.name}, {found.algorithm}, until {found.not_after:%Y-%m-%d}"
    if found.is_self_made:
        return Said("signing", "note", f"{told}; self-made, so readers will say that it is not trusted", own)
    if found.not_after - dt.datetime.now(dt.UTC) < SOON:
        return Said("signing", "note", told, "renew the certificate: workers take no unit once it has run out")
    return Said("signing", "ok", told)

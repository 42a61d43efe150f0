"""Whether pictures can be marked as AI-made on this machine: certificate, key, and a signature on a small picture."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from importlib.util import find_spec

from jobs.settings import Settings
from worker.doctor.findings import Finding
from worker.errors import MarkingBroken

TOPIC, NAME = "drawing", "marking"
SOON = dt.timedelta(days=30)


def examine(settings: Settings) -> Iterator[Finding]:
    """A self-made certificate is not made by looking."""
    if settings.sign == "off":
        hint = "PORTRAITS_SIGN=on; the law of some places wants it, see marking.md"
        yield Finding(TOPIC, NAME, "note", "pictures are not signed as AI-made", hint)
        return
    if find_spec("c2pa") is None:
        hint = "pip install c2pa-python, or PORTRAITS_SIGN=off"
        yield Finding(TOPIC, NAME, "problem", "c2pa-python is not installed, so nothing can be signed", hint)
        return
    from worker.marking.self_made import FOLDER

    if settings.sign_certificate is None and settings.sign_key is None and not (settings.home / FOLDER).is_dir():
        hint = "set PORTRAITS_SIGN_CERTIFICATE and PORTRAITS_SIGN_KEY for a certificate that readers trust"
        yield Finding(TOPIC, NAME, "note", "a self-made certificate is made when a worker first needs one", hint)
        return
    yield _tried(settings)


def _tried(settings: Settings) -> Finding:
    from worker.marking.credentials import load_credentials
    from worker.marking.marker import Marker
    from worker.version import package_version

    hint = "mend certificate and key; workers claim nothing until then"
    try:
        credentials = load_credentials(settings)
        # Required, so that a fault is told and not gone around.
        Marker(settings.model_copy(update={"marking_required": True}), version=package_version()).check()
    except MarkingBroken as error:
        return Finding(TOPIC, NAME, "problem", str(error), hint)
    told = f"signs as {credentials.name}, valid until {credentials.not_after:%Y-%m-%d}"
    if credentials.not_after - dt.datetime.now(dt.UTC) < SOON:
        return Finding(TOPIC, NAME, "note", told, "renew the certificate in time; workers find the new file")
    if credentials.is_self_made:
        return Finding(TOPIC, NAME, "note", f"{told}, a self-made certificate", "readers will say it is not trusted")
    return Finding(TOPIC, NAME, "ok", told)

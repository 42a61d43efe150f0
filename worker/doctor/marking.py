"""Whether pictures can be marked as AI-made on this machine: certificate, key, and a signature on a small picture."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from jobs.settings import Settings
from worker.doctor.findings import Finding
from worker.errors import MarkingBroken

TOPIC = "marking"


def examine(settings: Settings) -> Iterator[Finding]:
    """What `worker.marking.examined` says, and whether it signs; a self-made certificate is not made by looking."""
    if settings.sign == "on" and find_spec("c2pa") is None:
        hint = "pip install c2pa-python, or PORTRAITS_SIGN=off"
        yield Finding(TOPIC, "signing", "problem", "c2pa-python is not installed, so nothing can be signed", hint)
        return
    from worker.marking import examined

    for said in examined.examine(settings):
        fault = _fault(settings) if said.name == "signing" and said.state != "problem" else ""
        if fault:
            yield Finding(TOPIC, said.name, "problem", fault, "mend the files; workers look again within a minute")
        else:
            yield Finding(TOPIC, *said)


def _fault(settings: Settings) -> str:
    """Why a small picture cannot be signed; empty where it can, or where nobody has tried to yet."""
    from worker.marking.marker import Marker
    from worker.marking.self_made import FOLDER
    from worker.version import package_version

    own = settings.sign_certificate is not None
    if settings.sign == "off" or not (own or (settings.home / FOLDER).is_dir()):
        return ""
    try:
        # As if it were required, so that a fault is told and not gone around.
        Marker(settings.model_copy(update={"marking_required": True}), version=package_version()).check()
    except MarkingBroken as error:
        return str(error)
    return ""

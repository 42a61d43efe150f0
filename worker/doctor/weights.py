"""Whether what models.lock holds is here, by names and sizes; `portraits models verify` reads every byte."""

from __future__ import annotations

from collections.abc import Iterator

from jobs.errors import JobsError
from jobs.profiles import load_profiles
from jobs.settings import Settings
from worker.doctor.findings import Finding
from worker.errors import WorkerError
from worker.models import lock
from worker.models.here import look
from worker.models.lock import Locked
from worker.models.parts import Part, parts_of
from worker.models.pull import key

TOPIC, NAME = "drawing", "models"


def examine(settings: Settings) -> Iterator[Finding]:
    """What is wrong with locked models; of those that nobody has locked nothing is said."""
    try:
        locked = lock.read(lock.path_of(settings))
        parts = parts_of(load_profiles(settings).values())
    except WorkerError as error:
        yield Finding(TOPIC, NAME, "problem", str(error), "bring it back, or remove it and `portraits models pull`")
        return
    except JobsError:
        return  # the profiles file has a fault, which is told already
    held = [part for part in parts if key(part) in locked]
    wrong = {part.place: told for part in held if (told := _wrong(part, locked[key(part)]))}
    for place, told in wrong.items():
        yield Finding(TOPIC, f"model {place}", "problem", told, "`portraits models pull` fetches what is missing")
    if held and not wrong:
        told = f"{len(held)} locked in {lock.path_of(settings)}, all files are here by name and size"
        yield Finding(TOPIC, NAME, "ok", told)


def _wrong(part: Part, locked: Locked) -> str:
    here = look(part, locked)
    known = {name: path for name, path in here.files.items() if name in locked.files}
    sizes = [name for name, path in known.items() if path.stat().st_size != locked.files[name].size]
    told = [f"missing: {', '.join(here.missing[:3])}"] if here.missing else []
    return "; ".join([*told, *([f"of another size: {', '.join(sizes[:3])}"] if sizes else [])])

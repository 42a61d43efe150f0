"""Licences of weights: what their repository says, what is known of them, what somebody has accepted."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from worker.errors import LicenceNotAccepted
from worker.models.parts import Part

UNKNOWN, ALL = "unknown", "all"
_FILE = Path(__file__).with_name("licences.toml")


@dataclass(frozen=True)
class Licence:
    """A licence by its short name, with what is to be known in a sentence."""

    id: str
    about: str = ""


@cache
def _known() -> dict[str, Licence]:
    told = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    return {name: Licence(entry["licence"], entry.get("about", "")) for name, entry in told.items()}


def licence_of(part: Part, told: str | None = None) -> Licence:
    """The licence of a part: what its repository tells, with what is known of it; `unknown` where nobody says.

    A local folder is known by its own name, or by its parent's.
    """
    names = (part.path.name, part.path.parent.name) if part.is_local else (part.repository,)
    known = next((_known()[name] for name in names if name in _known()), None)
    if told and (known is None or known.id != told):
        return Licence(told)
    return known or Licence(UNKNOWN, "its maker's page says under which terms it may be used")


def require_accepted(wanted: Iterable[tuple[str, Licence]], accepted: Collection[str]) -> None:
    """Raises LicenceNotAccepted naming each model whose licence is not among those accepted."""
    missing = [(place, licence) for place, licence in wanted if ALL not in accepted and licence.id not in accepted]
    if not missing:
        return
    told = "; ".join(f"{place}: {licence.id}{licence.about and f' ({licence.about})'}" for place, licence in missing)
    flags = " ".join(f"--accept-licence {name}" for name in dict.fromkeys(licence.id for _, licence in missing))
    raise LicenceNotAccepted(f"nothing was downloaded, as not accepted are {told}. Read them, then add {flags}")

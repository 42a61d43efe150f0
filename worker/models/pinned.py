"""What is locked is what is loaded: a profile with the places of this machine instead of hub ids."""

from __future__ import annotations

import logging

from jobs.profiles import Profile
from jobs.settings import Settings
from worker.models import lock
from worker.models.parts import parts_of
from worker.models.pull import key, place_of

log = logging.getLogger(__name__)


def pinned(profile: Profile, settings: Settings) -> Profile:
    """The profile with each hub id that models.lock holds, and whose files are here, as the folder of that revision.

    So a worker draws with what was pulled and verified, and asks the hub for nothing; an id that was never pulled stays
    one. Raises LockInvalid.
    """
    locked = lock.read(lock.path_of(settings))
    if not locked:
        return profile
    places: dict[tuple[str, str | None], str] = {}
    for part in parts_of([profile]):
        place = place_of(part, locked)
        if place is not None:
            places[part.place, part.revision] = str(place)
        elif key(part) in locked and not part.is_local:
            log.warning(
                "%s is locked, and not all of it is here; it is loaded from the hub as it is there now", part.place
            )
    return _with(profile, places)


def _with(profile: Profile, places: dict[tuple[str, str | None], str]) -> Profile:
    def at(place: str, revision: str | None = None) -> str:
        return places.get((place, revision), place)

    changes = {
        "base": at(profile.base, profile.revision),
        "hyperlora": at(profile.hyperlora),
        "clip_vision": at(profile.clip_vision),
        "safety": at(profile.safety),
        "preset_weights": None if profile.preset_weights is None else at(profile.preset_weights),
        "controlnets": {name: at(place) for name, place in profile.controlnets.items()},
    }
    return profile.model_copy(update=changes)

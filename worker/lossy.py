"""The lossy speed-ups of a profile, as the model takes them."""

from __future__ import annotations

from hyperlora.lossy import LossyOptions
from jobs.profiles import Profile


def lossy_of(profile: Profile) -> LossyOptions:
    """What is on in a profile; exact where it says nothing."""
    return LossyOptions.of(profile.lossy.told() if profile.lossy else None)

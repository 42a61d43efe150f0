"""Kept for a moment while its users move to `jobs.profiles`."""

from jobs.profiles import MINI, UNTRAINED_NOTICE, Profile, find_profile, load_profiles

__all__ = ["MINI", "UNTRAINED_NOTICE", "Profile", "find_profile", "load_profiles"]

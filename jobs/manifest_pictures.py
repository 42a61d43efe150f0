"""The pictures that a manifest gives beside photos of people: poses, start pictures, masks.

They are checked like photos, lie in storage like photos, and are part of the content's hash by their SHA-256.
"""

from __future__ import annotations

from typing import Protocol

from jobs.errors import PhotoRefused
from jobs.planned import CheckedPhoto
from jobs.spool import Spool


class Photos(Protocol):
    """Where photos come from; `PhotoSource` is the real one."""

    def check(self, source: str) -> CheckedPhoto:
        """Measure a photo, or raise `PhotoRefused`."""

    def read(self, photo: CheckedPhoto) -> bytes:
        """The photo's bytes, or `PhotoRefused` if they are not those that were checked."""


class GivenPictures:
    """Looks at each given picture once; those that are used are remembered in the spool."""

    def __init__(self, spool: Spool, photos: Photos) -> None:
        self._spool, self._photos = spool, photos

    def fault(self, source: str) -> str | None:
        """What is wrong with a picture; None when it is good."""
        found = self._find(source)
        return found if isinstance(found, str) else None

    def use(self, source: str) -> CheckedPhoto:
        """A picture that something is drawn with. Raises `PhotoRefused`, with the words of `fault`."""
        found = self._find(source)
        if isinstance(found, str):
            raise PhotoRefused(found)
        self._spool.add_picture(found)
        return found

    def _find(self, source: str) -> CheckedPhoto | str:
        found = self._spool.photo(source)
        if found is None:
            try:
                found = self._photos.check(source)
            except PhotoRefused as error:
                found = str(error)
            self._spool.add_photo(source, found)
        return found

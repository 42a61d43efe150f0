"""Photos of one person, named on a command line: files, folders, patterns, or several of these with commas."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from jobs.errors import PhotoRefused
from jobs.photos import decode_photo
from jobs.settings import Settings
from worker.face_check import photo_files

if TYPE_CHECKING:
    from hyperlora.faces import FaceChoice


@dataclass(frozen=True, eq=False)
class Photo:
    """One photo: the name it was asked for by, the SHA-256 of its file, and the decoded picture."""

    name: str
    sha256: str
    image: Image.Image


def read_photos(names: Sequence[str | Path], settings: Settings) -> list[Photo]:
    """Every photo that the names stand for, in their order, decoded within the limits of the settings.

    Raises `PhotoRefused` naming what is not there or cannot be read; a photo that is named twice is read once.
    """
    files = dict.fromkeys(file for name in names for file in _files(str(name)))
    return [_read(file, settings) for file in files]


def face_for_each(faces: Sequence[FaceChoice], photos: int) -> list[FaceChoice]:
    """One choice for each photo: none given is the clearest, one is for all. Raises ValueError for other counts."""
    if len(faces) <= 1:
        return [faces[0] if faces else "clearest"] * photos
    if len(faces) != photos:
        raise ValueError(f"wanted one face for all photos or one for each of the {photos}, found {len(faces)}")
    return list(faces)


def _files(text: str) -> Iterator[Path]:
    """The files that one name stands for. What exists under the very name comes first: file names may hold commas."""
    path = Path(text).expanduser()
    if path.is_dir():
        found = photo_files(path)
        if not found:
            raise PhotoRefused(f"the folder {text} holds no photo (JPEG, PNG or WebP)")
        yield from found
    elif path.exists():
        if not path.is_file():
            raise PhotoRefused(f"{text} is no regular file; wanted a photo or a folder of photos")
        yield path
    elif "," in text:
        for part in text.split(","):
            if part.strip():
                yield from _files(part.strip())
    elif any(sign in path.name for sign in "*?["):
        found = sorted(file for file in path.parent.glob(path.name) if file.is_file())
        if not found:
            raise PhotoRefused(f"no photo is called {text}")
        yield from found
    else:
        raise PhotoRefused(f"there is no photo {text}; wanted a file, a folder, or several with commas between them")


def _read(file: Path, settings: Settings) -> Photo:
    most = settings.max_photo_bytes
    try:
        with file.open("rb") as opened:
            data = opened.read(most + 1)
    except OSError as error:
        raise PhotoRefused(f"{file} cannot be read: {error.strerror or error}") from error
    try:
        image = decode_photo(data, settings)
    except PhotoRefused as error:
        raise PhotoRefused(f"{file}: {error}") from error
    return Photo(str(file), hashlib.sha256(data).hexdigest(), image)

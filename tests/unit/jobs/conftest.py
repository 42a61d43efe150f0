"""What the tests of jobs share: settings in a folder of their own, and photos made on the spot."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from PIL import Image

from jobs.settings import Settings

# A busy machine is no fault of the code.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")


def photo_bytes(size: tuple[int, int] = (64, 48), colour: str = "teal", form: str = "JPEG", **options: Any) -> bytes:
    """A photo of one colour, encoded."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, form, **options)
    return buffer.getvalue()


@pytest.fixture
def make_photo() -> Callable[..., bytes]:
    return photo_bytes


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The defaults, whatever the environment says."""
    for name in [name for name in os.environ if name.startswith("PORTRAITS_")]:
        monkeypatch.delenv(name)
    return Settings(home=tmp_path / "home", _env_file=None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A manifest's folder with photos/ada.jpg, photos/alan.jpg and photos/grace.png."""
    photos = tmp_path / "manifest" / "photos"
    photos.mkdir(parents=True)
    (photos / "ada.jpg").write_bytes(photo_bytes(colour="teal"))
    (photos / "alan.jpg").write_bytes(photo_bytes(colour="olive"))
    (photos / "grace.png").write_bytes(photo_bytes(colour="plum", form="PNG"))
    return photos.parent

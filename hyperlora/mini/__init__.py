"""The mini world: people who do not exist, drawn by a program, and a small model pack of SDXL's own classes.

>>> from hyperlora.mini import person, portrait
>>> image = portrait(person(2_000_001), {"clothing": "hoodie"}, seed=1)
>>> image.info["caption"], image.info["landmarks"].shape
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "Attributes": "attributes",
    "draw_attributes": "attributes",
    "Person": "people",
    "person": "people",
    "split_of": "people",
    "portrait": "painter",
    "build_untrained_pack": "pack",
}

__all__ = [
    "Attributes",
    "Person",
    "build_untrained_pack",
    "draw_attributes",
    "person",
    "portrait",
    "split_of",
]


def __getattr__(name: str) -> Any:
    """Load a public name on first use, so that importing the package costs nothing.

    No submodule may bear a public name: importing it would bind the module here, and whoever asks later would get it.
    """
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value

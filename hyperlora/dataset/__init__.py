"""Sets of portraits: prepare them from photos, write them as webdataset shards, read them in any order.

Each public name loads its module when it is first used, so that reading a set loads no face analyzer's library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyperlora.dataset.encoders import EncoderNames, vae_fingerprint
    from hyperlora.dataset.info import DatasetInfo, ShardInfo
    from hyperlora.dataset.live import LivePortraits
    from hyperlora.dataset.preparation import Preparation, Prepared, prepare
    from hyperlora.dataset.reader import PortraitBatch, PortraitDataset, Portraits, pixels_of
    from hyperlora.dataset.records import face_of, face_record, person_number
    from hyperlora.dataset.screen import Rules
    from hyperlora.dataset.writer import ShardWriter

_HOMES = {
    "DatasetInfo": "info",
    "EncoderNames": "encoders",
    "LivePortraits": "live",
    "PortraitBatch": "reader",
    "PortraitDataset": "reader",
    "Portraits": "reader",
    "Preparation": "preparation",
    "Prepared": "preparation",
    "Rules": "screen",
    "ShardInfo": "info",
    "ShardWriter": "writer",
    "face_of": "records",
    "face_record": "records",
    "person_number": "records",
    "pixels_of": "reader",
    "prepare": "preparation",
    "vae_fingerprint": "encoders",
}

__all__ = [
    "DatasetInfo",
    "EncoderNames",
    "LivePortraits",
    "PortraitBatch",
    "PortraitDataset",
    "Portraits",
    "Preparation",
    "Prepared",
    "Rules",
    "ShardInfo",
    "ShardWriter",
    "face_of",
    "face_record",
    "person_number",
    "pixels_of",
    "prepare",
    "vae_fingerprint",
]


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value

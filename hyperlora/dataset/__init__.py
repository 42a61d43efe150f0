"""Sets of portraits: prepare them from photos, write them as webdataset shards, read them in any order."""

from hyperlora.dataset.face_record import face_of, face_record, person_number
from hyperlora.dataset.info import DatasetInfo, ShardInfo
from hyperlora.dataset.reader import PortraitBatch, PortraitDataset, Portraits, pixels_of
from hyperlora.dataset.writer import ShardWriter

__all__ = [
    "DatasetInfo",
    "PortraitBatch",
    "PortraitDataset",
    "Portraits",
    "ShardInfo",
    "ShardWriter",
    "face_of",
    "face_record",
    "person_number",
    "pixels_of",
]

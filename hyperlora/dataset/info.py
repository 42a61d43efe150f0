"""`dataset.json`: what a prepared set holds. It is written last, so a folder that has it is whole."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hyperlora.errors import DatasetDamaged, DatasetMissing

FILE = "dataset.json"
VERSION = 1
MOST_BYTES = 64 * 1024 * 1024
_SHA256 = r"^[0-9a-f]{64}$"


class ShardInfo(BaseModel):
    """One shard: its name, how many samples it has, and the SHA-256 of its tar and of its tensors."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(pattern=r"^[0-9]{5,9}$")
    count: int = Field(ge=1)
    tar_sha256: str | None = Field(None, pattern=_SHA256)
    tensors_sha256: str | None = Field(None, pattern=_SHA256)


class DatasetInfo(BaseModel):
    """What a set of portraits holds.

    `clip_tokens`, `face_width` and `latents` are the shapes of one row; None where no such tensor is stored. `vae` is
    the fingerprint of the autoencoder that made the latents (`vae_fingerprint`), `clip_vision` and `face_encoder` are
    the names of the encoders. A set that was not prepared has no `image_size` and no tensors. `made` is free text and
    numbers about how it was made.
    """

    model_config = ConfigDict(frozen=True)

    version: int = VERSION
    count: int = Field(ge=0)
    shards: tuple[ShardInfo, ...] = ()
    image_size: int | None = Field(None, ge=1)
    face_encoder: str | None = None
    face_width: int | None = Field(None, ge=1)
    clip_vision: str | None = None
    clip_vision_fingerprint: str | None = None
    clip_tokens: tuple[int, int] | None = None
    latents: tuple[int, int, int] | None = None
    vae: str | None = None
    made: dict[str, Any] = {}


def read_info(folder: Path) -> DatasetInfo:
    """Raises `DatasetMissing` where the file is not there, and `DatasetDamaged` where it cannot be right."""
    path = folder / FILE
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as fault:
        raise DatasetMissing(f"no prepared data set in {folder}: {path.name}: {fault.strerror or fault}") from fault
    if len(data) > MOST_BYTES:
        raise DatasetDamaged(f"{path} has more than {MOST_BYTES} bytes")
    try:
        info = DatasetInfo.model_validate_json(data)
    except ValidationError as fault:
        first = fault.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(step) for step in first["loc"]) or "the file"
        raise DatasetDamaged(f"{path}: {place}: {first['msg']}; prepare the set again") from fault
    if info.version != VERSION:
        raise DatasetDamaged(f"{path} is of version {info.version}, this program reads version {VERSION}")
    if len({shard.name for shard in info.shards}) != len(info.shards) or info.count != _total(info):
        raise DatasetDamaged(f"{path} counts {info.count} samples, its shards {_total(info)}; prepare the set again")
    return info


def write_info(folder: Path, info: DatasetInfo) -> Path:
    """Put the description into the folder, whole or not at all."""
    text = json.dumps(info.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
    return write_whole(folder / FILE, text.encode())


def write_whole(path: Path, data: bytes) -> Path:
    """Write a file so that nobody ever sees a part of it."""
    beside = path.with_name(f".{path.name}-{os.getpid()}.part")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    return path


def _total(info: DatasetInfo) -> int:
    return sum(shard.count for shard in info.shards)

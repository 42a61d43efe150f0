"""Is a prepared set still what was written? Every byte of every shard is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hyperlora.dataset.archive import tar_entries
from hyperlora.dataset.info import DatasetInfo, ShardInfo, read_info
from hyperlora.errors import DatasetError
from hyperlora.hub import file_sha256


@dataclass(frozen=True)
class Inspection:
    """What a set is said to hold, its bytes on the disk, and what is wrong with its files.

    Each fault is a sentence that names the file; there are none in a sound set.
    """

    info: DatasetInfo
    size_bytes: int
    faults: tuple[str, ...]


def inspect(folder: Path, *, on_shard: Callable[[int, int], object] | None = None) -> Inspection:
    """Compare every shard with the description; `on_shard(done, all)` is called as they are read.

    Raises `DatasetMissing` or `DatasetDamaged` where there is no description, or none that can be right.
    """
    info = read_info(folder)
    faults: list[str] = []
    size = 0
    for done, shard in enumerate(info.shards, 1):
        for file, wanted in _files(folder, shard):
            if not file.is_file():
                faults.append(f"{file.name} is missing")
                continue
            size += file.stat().st_size
            if wanted is not None and (found := file_sha256(file)) != wanted:
                faults.append(f"{file.name} has changed: wanted SHA-256 {wanted[:12]}..., found {found[:12]}...")
        faults += _count_fault(folder, shard)
        if on_shard is not None:
            on_shard(done, len(info.shards))
    return Inspection(info, size, tuple(faults))


def _files(folder: Path, shard: ShardInfo) -> list[tuple[Path, str | None]]:
    return [
        (folder / f"{shard.name}.tar", shard.tar_sha256),
        (folder / f"{shard.name}.safetensors", shard.tensors_sha256),
    ]


def _count_fault(folder: Path, shard: ShardInfo) -> list[str]:
    file = folder / f"{shard.name}.tar"
    if not file.is_file():
        return []
    try:
        found = len(tar_entries(file))
    except DatasetError as fault:
        return [str(fault)]
    return [] if found == shard.count else [f"{file.name}: wanted {shard.count} samples, found {found}"]

"""Which way of running the networks is fastest on a device: found by `portraits calibrate`, kept beside the costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hyperlora.compiler import Compile, EngineOptions
from worker.costs import calibration

BLOCKS_MAY_COST = 1.02
"""Repeated blocks are compiled instead of the whole UNet where a step takes at most so many times as long."""
MOST_ROOM = 4.0


def choose(seconds: Callable[[EngineOptions], float]) -> EngineOptions:
    """The way to run, by the seconds of a step of a full batch in each of them.

    Eager, blocks and whole are compared, then projections by themselves and fused. How far a batch may be filled up is
    how much dearer an eager step is.
    """
    plain = EngineOptions(channels_last=True)
    eager = seconds(plain)
    blocks, whole = seconds(replace(plain, compile="blocks")), seconds(replace(plain, compile="whole"))
    way: Compile = "blocks" if blocks <= BLOCKS_MAY_COST * whole else "whole"
    best = blocks if way == "blocks" else whole
    if eager <= best:
        return replace(plain, fuse_qkv=seconds(replace(plain, fuse_qkv=True)) < eager)
    fused = seconds(replace(plain, compile=way, fuse_qkv=True))
    room = min(MOST_ROOM, max(1.0, eager / min(best, fused)))
    return replace(plain, compile=way, fuse_qkv=fused < best, room=round(room, 3))


def save_choice(home: Path, device: str, options: EngineOptions) -> Path:
    """Keep the choice for the workers of this home on devices of this name; returns the file."""
    told = {name: getattr(options, name) for name in ("compile", "fuse_qkv", "channels_last", "room")}
    file = calibration(home)
    file.keep(_key(device), told)
    return file.path


def load_choice(home: Path, device: str) -> EngineOptions | None:
    """What was found for devices of this name; None if nothing was, or it is damaged, which is warned of."""
    file = calibration(home)
    found = file.entry(_key(device))
    return None if found is None else file.told(EngineOptions, found)


def _key(device: str) -> str:
    return f"{device}, engine"

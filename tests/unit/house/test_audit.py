"""An audit that could not ask anybody is never taken for a clean one."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "audit.py"


@pytest.fixture(scope="module")
def audit() -> Any:
    spec = importlib.util.spec_from_file_location("audit", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


KNOWN = {"name": "celery", "version": "5.6.0", "vulns": []}
BAD = {"name": "jinja2", "version": "3.1.2", "vulns": [{"id": "GHSA-1", "fix_versions": ["3.1.6"]}]}
SKIPPED = {"name": "celery", "skip_reason": "Dependency not found on PyPI and could not be audited"}
TORCH = {"name": "torch", "skip_reason": "Dependency not found on PyPI and could not be audited: torch (2.9.0+cpu)"}


@pytest.mark.parametrize(
    ("packages", "code", "told"),
    [
        ([KNOWN, TORCH], 0, "1 packages, no known vulnerability"),
        ([KNOWN, BAD], 1, "jinja2 3.1.2: GHSA-1, mended in 3.1.6"),
        ([SKIPPED, BAD], 1, "jinja2 3.1.2"),
        ([SKIPPED, TORCH], 3, "NOT AUDITED"),
        ([KNOWN, {**SKIPPED, "name": "kombu"}], 3, "1 of 2 packages are unknown there: kombu"),
        ([TORCH], 3, "NOT AUDITED"),
        ([], 3, "no route to host"),
    ],
)
def test_only_packages_that_were_looked_at_are_clean(
    audit: Any, packages: list[dict[str, Any]], code: int, told: str
) -> None:
    found, lines = audit.judge(packages, "Traceback\nno route to host")
    assert found == code and told in "\n".join(lines)

"""Ask whether an installed package has a known vulnerability: `python scripts/audit.py`.

pip-audit asks PyPI's advisories about every package of this environment. Where nobody answers it calls every package
unknown and ends well; here that is exit code 3 and said in words, never taken for a clean bill. 0: every package was
looked at and none has one. 1: some have, each is listed with the version that mends it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

CLEAN, VULNERABLE, NOT_AUDITED = 0, 1, 3
# Ours is not on PyPI; builds of torch for one device have versions that PyPI does not know.
UNKNOWN_TO_PYPI = {"hyperlora-portraits", "torch"}
SECONDS = 600


def ask() -> tuple[list[dict[str, Any]], str]:
    """Every package with what is known of it, and what pip-audit said; none where it could not ask."""
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--skip-editable"]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return [], f"no answer in {SECONDS} s"
    try:
        return json.loads(ended.stdout)["dependencies"], ended.stderr
    except (ValueError, KeyError):
        return [], ended.stderr


def judge(packages: Sequence[Mapping[str, Any]], said: str) -> tuple[int, list[str]]:
    """The exit code, and what is to be told."""
    bad = [one for one in packages if one.get("vulns")]
    unknown = sorted(one["name"] for one in packages if "skip_reason" in one and one["name"] not in UNKNOWN_TO_PYPI)
    looked_at = [one for one in packages if "skip_reason" not in one]
    lines = [
        f"{one['name']} {one['version']}: {flaw['id']}, mended in {', '.join(flaw.get('fix_versions', [])) or 'none'}"
        for one in bad
        for flaw in one["vulns"]
    ]
    if bad:
        return VULNERABLE, [*lines, f"{len(bad)} of {len(looked_at)} packages have known vulnerabilities"]
    if not looked_at or unknown:
        last = said.strip().splitlines()[-1:] if not packages else []
        about = f"{len(unknown)} of {len(packages)} packages are unknown there: {', '.join(unknown[:5])} ..."
        return NOT_AUDITED, [*last, *([about] if unknown else []), "NOT AUDITED: the advisories could not be asked"]
    return CLEAN, [f"{len(looked_at)} packages, no known vulnerability"]


if __name__ == "__main__":
    code, told = judge(*ask())
    print("\n".join(told))
    sys.exit(code)

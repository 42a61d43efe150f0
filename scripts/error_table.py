"""Write docs/reference/errors.md from the error trees: `python scripts/error_table.py [--check]`.

Code, meaning and whether trying again can help are the classes' own; what to do about each stands in
`scripts/error_remedies.toml`. A code without a remedy, or a remedy without a code, is a fault.
"""

from __future__ import annotations

import importlib
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from worker.cli.exits import MEANING, Exit, exit_code_of

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "reference" / "errors.md"
REMEDIES = ROOT / "scripts" / "error_remedies.toml"
PACKAGES = {
    "jobs": "What was asked for, and the services",
    "worker": "The worker and the command line",
    "hyperlora": "Models, faces and training",
}
# Codes that are written into rows or answers without an exception of their own.
WITHOUT_CLASS = {
    "internal": "A fault of this program that nobody foresaw; the text beside it names the exception.",
    "lost_worker": "The attempts of a unit ran out because its workers stopped without a word.",
    "quarantined": "The unit took three workers with it, and was failed alone.",
    "usage": "The arguments of a command were not understood.",
    "weight_set_missing": "A weight set that cannot be made from photos alone is not there.",
}
HEAD = """# Troubleshooting by error code

Every error has a stable code. The command line shows it in brackets at the end of the message (`"code"` with `--json`),
HTTP answers carry it as `code`, and a picture, person or job that failed keeps it in the column `error_code`:

```sh
portraits status JOB                 # how many failed, and why
portraits retry JOB --code storage_unavailable
```

**Again** says whether the same call can succeed later without anybody changing anything; workers then try again by
themselves, with growing waits. **Exit** is the exit code of a command that ends with this error. This page is written
by `scripts/error_table.py`.
"""


@dataclass(frozen=True)
class Row:
    """One code, as the page tells it."""

    code: str
    package: str
    means: str
    again: bool
    exit: int


def rows() -> list[Row]:
    """Every code of the three packages, the general ones of each tree first."""
    found = []
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("errors.py")):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            for kind in vars(importlib.import_module(name)).values():
                if isinstance(kind, type) and issubclass(kind, Exception) and kind.__module__ == name:
                    found.append(_row(package, kind))
    return found


def _row(package: str, kind: type[Exception]) -> Row:
    error = kind.__new__(kind)  # the code and the class decide; what it was told at its birth does not matter
    means = " ".join((kind.__doc__ or "").strip().split("\n\n")[0].split())
    return Row(vars(kind)["code"], package, means, bool(getattr(kind, "retryable", False)), exit_code_of(error))


def faults(found: list[Row], remedies: dict[str, str]) -> list[str]:
    """Codes without a remedy, and remedies without a code."""
    known = {row.code for row in found} | WITHOUT_CLASS.keys()
    return [f"no remedy for {code}" for code in sorted(known - remedies.keys())] + [
        f"a remedy for {code}, which is no code" for code in sorted(remedies.keys() - known)
    ]


def page(found: list[Row], remedies: dict[str, str]) -> str:
    """The whole page."""
    parts = [HEAD]
    for package, title in PACKAGES.items():
        parts.append(f"\n## {title}\n\n| code | means | again | exit | what to do |\n|---|---|---|---|---|\n")
        parts += [_line(row, _told(remedies, row.code)) for row in found if row.package == package]
    parts.append("\n## Codes without a class\n\n| code | means | what to do |\n|---|---|---|\n")
    parts += [f"| `{code}` | {means} | {_told(remedies, code)} |\n" for code, means in sorted(WITHOUT_CLASS.items())]
    parts.append("\n## Exit codes\n\n| code | meaning |\n|---|---|\n")
    parts += [f"| {Exit(code):d} | {meaning} |\n" for code, meaning in MEANING.items()]
    return "".join(parts)


def _line(row: Row, remedy: str) -> str:
    return f"| `{row.code}` | {row.means} | {'yes' if row.again else 'no'} | {row.exit} | {remedy} |\n"


def _told(remedies: dict[str, str], code: str) -> str:
    return " ".join(remedies.get(code, "").split()).replace("|", "\\|")


def main(arguments: list[str]) -> None:
    """Write the page, or say what is wrong with it."""
    remedies = tomllib.loads(REMEDIES.read_text(encoding="utf-8"))
    found = rows()
    if told := faults(found, remedies):
        sys.exit("\n".join([*told, f"mend {REMEDIES.relative_to(ROOT)}"]))
    if "--check" not in arguments:
        TARGET.write_text(page(found, remedies), encoding="utf-8")
    elif not TARGET.exists() or TARGET.read_text(encoding="utf-8") != page(found, remedies):
        sys.exit("docs/reference/errors.md is not what the errors say; run python scripts/error_table.py")


if __name__ == "__main__":
    main(sys.argv[1:])

"""Run the commands that the docs show, and compare what they print: `python scripts/doc_output.py [--write] [PAGE...]`.

A `console` block holds commands, each after `$ `, with their output below. All blocks of a page are run from top to
bottom in one scratch folder that has the checkout's `examples/`, with nothing configured. A command that ends with
`&` runs on beside the others until the page is done. A line `...` stands for any lines.

Compared is what stays: ids, seconds, sizes, addresses and the widths of tables are not. `--write` puts in what was
printed; where a block has `...`, as many lines before and after it as there were.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("docs/tutorial/first-job.md", "docs/tutorial/your-people.md")
SHOWN_HOME = "/home/you/portraits"
COMMAND_SECONDS, END_SECONDS = 300, 60
_BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
_VOLATILE = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "ID"),
    (re.compile(r"\b[0-9a-f]{12,64}\b"), "HEX"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z| UTC)?"), "TIME"),
    (re.compile(r"\b\d+(\.\d+)? (s|ms|min|h|days?)\b"), "N s"),
    (re.compile(r"\b\d+(\.\d+)? (B|KB|kB|MB|MiB|GB|images/s)\b"), r"N \2"),
    (re.compile(r"─+"), "─"),
    (re.compile(r"\s+"), " "),
)


@dataclass
class Step:
    """One command of a page, and the lines that the page shows below it."""

    command: str
    shown: list[str]

    @property
    def runs_on(self) -> bool:
        """Whether it stays beside the commands after it."""
        return self.command.endswith("&") and not self.command.endswith("&&")


def steps(block: str) -> list[Step]:
    """The commands of one block. Raises ValueError where it does not begin with one."""
    found: list[Step] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append(Step(line[2:], []))
        elif line.startswith("> ") and found and not found[-1].shown:
            found[-1].command += "\n" + line[2:]
        elif found:
            found[-1].shown.append(line)
        else:
            raise ValueError(f"a console block begins with {line!r}; wanted a command after '$ '")
    return found


def steady(lines: list[str]) -> list[str]:
    """The lines without what differs from run to run; empty ones are left out."""
    told = []
    for line in lines:
        for pattern, word in _VOLATILE:
            line = pattern.sub(word, line)  # noqa: PLW2901 - one after the other
        if line.strip():
            told.append(line.strip())
    return told


def agree(shown: list[str], printed: list[str]) -> bool:
    """Whether a page's lines are what was printed; `...` stands for any lines."""
    pattern = "".join(r"(?:.*\n)*?" if line == "..." else re.escape(line) + r"\n" for line in steady(shown))
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in steady(printed))) is not None


def elided(shown: list[str], printed: list[str]) -> list[str]:
    """What a page is to show of what was printed: with `...` where it stood, and as much around it."""
    if "..." not in shown:
        return printed
    before = shown.index("...")
    after = len(shown) - before - 1
    return [*printed[:before], "...", *printed[len(printed) - after :]] if before + after < len(printed) else printed


class Scratch:
    """A folder like a reader's, in which a page's commands run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(ROOT / "examples", folder / "examples")
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PORTRAITS_")}
        paths = [str(Path(sys.executable).parent), kept.get("PATH", "")]
        more = {"PATH": os.pathsep.join(paths), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
        self._environment = {**kept, **more, "COLUMNS": "100", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
        self._running: list[subprocess.Popen[bytes]] = []

    def run(self, step: Step) -> list[str]:
        """What the command prints on both streams. Raises RuntimeError if it ends with a fault."""
        if step.runs_on:
            command = ["bash", "-c", f"exec {step.command[:-1]}"]
            started = subprocess.Popen(command, cwd=self.folder, env=self._environment, start_new_session=True)
            self._running.append(started)
            return []
        try:
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", step.command],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=COMMAND_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"`{step.command}` took over {COMMAND_SECONDS} s{self._logs()}") from error
        if done.returncode:
            raise RuntimeError(f"`{step.command}` ended with code {done.returncode}:\n{done.stdout}{self._logs()}")
        return [self._shown(line) for line in done.stdout.splitlines()]

    def _logs(self) -> str:
        """The ends of what the commands in the background wrote."""
        ends = (file.read_text(encoding="utf-8", errors="replace")[-2000:] for file in self.folder.glob("*.log"))
        return "".join(f"\n{end}" for end in ends)

    def _shown(self, line: str) -> str:
        return line.replace(str(self.folder.resolve()), SHOWN_HOME).rstrip()

    def close(self) -> None:
        """End what still runs."""
        for one in self._running:
            if one.poll() is None:
                one.send_signal(signal.SIGTERM)
        for one in self._running:
            try:
                one.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(one.pid, signal.SIGKILL)
                one.wait()


@contextmanager
def scratch() -> Iterator[Scratch]:
    """A fresh folder; what runs in it is ended afterwards."""
    with tempfile.TemporaryDirectory(prefix="portraits-docs-") as base:
        folder = Path(base) / "portraits"
        folder.mkdir()
        made = Scratch(folder)
        try:
            yield made
        finally:
            made.close()


def run_page(text: str) -> tuple[str, list[str]]:
    """Run a page's commands. Returns the page with what they printed, and what differs from what it showed."""
    faults: list[str] = []
    with scratch() as folder:

        def renewed(match: re.Match[str]) -> str:
            lines = []
            for step in steps(match[1]):
                printed = folder.run(step)
                if not agree(step.shown, printed):
                    faults.extend(_difference(step, printed))
                lines += ["$ " + step.command.replace("\n", "\n> "), *elided(step.shown, printed)]
            return "```console\n" + "\n".join(lines) + "\n```"

        return _BLOCK.sub(renewed, text), faults


def _difference(step: Step, printed: list[str]) -> list[str]:
    lines = difflib.unified_diff(steady(step.shown), steady(printed), "the page", "printed", lineterm="", n=1)
    return [f"$ {step.command}", *lines]


def main(arguments: list[str]) -> None:
    """Run the pages, and write them or say what differs."""
    pages = [argument for argument in arguments if not argument.startswith("-")] or PAGES
    told: list[str] = []
    for page in pages:
        file = ROOT / page
        renewed, faults = run_page(file.read_text(encoding="utf-8"))
        if "--write" in arguments:
            file.write_text(renewed, encoding="utf-8")
        elif faults:
            told += [f"{page}:", *faults]
    if told:
        sys.exit("\n".join([*told, "if this is right: python scripts/doc_output.py --write"]))


if __name__ == "__main__":
    main(sys.argv[1:])

"""A guarded process for a fuzzer: bounded memory and time for each input, and a list of every file that is opened.

A fuzzer is a program of its own (`fuzz_manifest.py`, `fuzz_images.py`): whatever it reads must end in an answer or in
an error of the product. The guard ends the process with a traceback of all threads when one input takes too long,
lets no allocation pass the limit, and raises when a file is opened that lies outside. A report goes to stdout as JSON.
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Verbosity, settings

ROOT = Path(__file__).resolve().parents[2]
ADDRESS_SPACE_BYTES = 3 * 2**30
SECRET = "kept-back"
"""No file with this in its name may be opened, whichever way leads to it."""
SOAK_FACTOR = 50
_READABLE = (sys.base_prefix, sys.prefix, str(ROOT), "/usr", "/lib", "/lib64", "/proc/self", "/etc/localtime")
_DEVICES = ("/dev/null", "/dev/urandom")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Guard:
    """Counts inputs, their outcomes and their time. `home` is the one folder in which files may be written."""

    def __init__(self, home: Path, *, seconds_each: float) -> None:
        self.home = str(home.resolve())
        self.outcomes: Counter[str] = Counter()
        self.slowest, self.seconds_each = 0.0, seconds_each
        self._strays: list[str] = []
        self.grown = 0
        self._clear = os.open("/proc/self/clear_refs", os.O_WRONLY)

    def begin(self) -> None:
        """From here on the limits hold; what is needed is imported."""
        faulthandler.enable()
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
        sys.addaudithook(self._audit)

    @contextmanager
    def input(self) -> Iterator[None]:
        """One input, within its time; raises AssertionError when a file outside was opened meanwhile."""
        os.write(self._clear, b"5")  # the peak begins anew: what the fuzzer itself keeps does not count
        before, began = peak_bytes(), time.monotonic()
        faulthandler.dump_traceback_later(self.seconds_each, exit=True)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.grown = max(self.grown, peak_bytes() - before)
        strays, self._strays = self._strays, []
        assert not strays, f"opened outside the folder: {strays}"

    def report(self) -> None:
        """Print what was seen."""
        told = {"outcomes": self.outcomes, "slowest_seconds": self.slowest, "grown_bytes": self.grown}
        print(json.dumps(told))

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes):
            path, flags = os.fsdecode(arguments[0]), arguments[2] or 0
            if not self._may_open(path, writes=bool(flags & _WRITING)):
                self._strays.append(path)
        elif event in ("socket.connect", "subprocess.Popen", "os.system", "urllib.Request"):
            self._strays.append(f"{event}: {arguments!r}")

    def _may_open(self, path: str, *, writes: bool) -> bool:
        if SECRET in os.path.basename(path):
            return False
        if not path.startswith("/"):
            return True  # below a folder that was opened before
        if _within(path, self.home) or path in _DEVICES:
            return True
        return not writes and any(_within(path, place) for place in _READABLE)


def _within(path: str, place: str) -> bool:
    return os.path.normpath(path).startswith(place.rstrip("/") + "/") or path == place


def examples(number: int) -> settings:
    """So many inputs, the same in every run of CI; a soak takes fifty times as many, and others each time."""
    soak = os.environ.get("PORTRAITS_CHAOS") == "soak"
    return settings(
        max_examples=number * (SOAK_FACTOR if soak else 1),
        derandomize=not soak,
        database=None,
        deadline=None,
        verbosity=Verbosity.quiet if not soak else Verbosity.normal,
        print_blob=soak,
        suppress_health_check=list(HealthCheck),
    )


def peak_bytes() -> int:
    """The most memory that this process had at once."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def run_fuzzer(program: str, home: Path, *arguments: str, seconds: float) -> dict[str, Any]:
    """Run a fuzzer in a process of its own. Raises AssertionError with its last words when it does not end well."""
    (home / "tmp").mkdir(parents=True)
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    environment = {**os.environ, "PYTHONPATH": path, "TMPDIR": str(home / "tmp"), "OMP_NUM_THREADS": "1"}
    soak = SOAK_FACTOR if os.environ.get("PORTRAITS_CHAOS") == "soak" else 1
    ended = subprocess.run(
        [sys.executable, str(Path(__file__).with_name(program)), str(home), *arguments],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds * soak,
    )
    assert ended.returncode == 0, f"{program} ended with {ended.returncode}:\n{ended.stdout}\n{ended.stderr[-8000:]}"
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def outcome_of(act: Callable[[], object], told: tuple[type[Exception], ...]) -> str:
    """`accepted`, or the code of the error that was told; any other error goes through."""
    try:
        act()
    except told as error:
        message = str(error)
        assert message.strip(), type(error)
        message.encode("utf-8")  # it will be printed
        return str(getattr(error, "code", type(error).__name__))
    return "accepted"

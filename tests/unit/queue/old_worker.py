"""Workers of earlier versions as real processes, from archives of their code.

Each archive is `git archive` of `jobs`, `worker`, `migrations` and the few modules of `hyperlora` that a fake renderer
needs (of commits 52169b8 and 7ef6e12), without what wants torch. A process runs it by PYTHONPATH, in the place of this
tree.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import select, text

from jobs.database import Database
from jobs.settings import Settings

ASSETS = Path(__file__).parents[2] / "assets"
ROOT = Path(__file__).parents[3]
PATIENCE_SECONDS = 120.0
PROFILES = '[profiles.fake]\nrenderer = "fake"\nbatch_size = 4\n'


class Fleet:
    """One installation, and workers of several versions on it."""

    def __init__(self, home: Path, database_url: str) -> None:
        self.home = home
        (home / "profiles.toml").write_text(PROFILES)
        self.environment = {
            "PORTRAITS_HOME": str(home),
            "PORTRAITS_DATABASE_URL": database_url,
            "PORTRAITS_PROFILES_FILE": str(home / "profiles.toml"),
            "PORTRAITS_CLAIM_UNITS": "1",
            "PORTRAITS_LEASE_SECONDS": "30",
            "PORTRAITS_REAP_SECONDS": "0.5",
            "PORTRAITS_RESEND_SECONDS": "1",
            "PORTRAITS_FAKE_STEP_SECONDS": "0.02",
            "OMP_NUM_THREADS": "1",
        }
        fields: dict[str, Any] = {"home": home, "database_url": database_url}
        self.settings = Settings(profiles_file=home / "profiles.toml", **fields)
        self.database = Database(database_url)

    def run(self, version: str, *command: str) -> subprocess.CompletedProcess[str]:
        """`portraits COMMAND` of a version, to its end."""
        line = [sys.executable, "-c", "from worker.cli import main; main()", *command]
        options: dict[str, Any] = {"cwd": self.home, "env": self._environment(version), "timeout": PATIENCE_SECONDS}
        return subprocess.run(line, check=False, capture_output=True, text=True, **options)

    @contextmanager
    def worker(self, version: str) -> Iterator[subprocess.Popen[bytes]]:
        """A Celery worker of a version, ready when the block begins; ended with SIGTERM, which must suffice.

        Started as `celery -A worker.app worker`: so it does not ask which schema it finds.
        """
        known = self._workers()
        command = [sys.executable, "-m", "celery", "-A", "worker.app", "worker", "-n", f"{version}@%h", "-l", "INFO"]
        command += ["--without-gossip", "--without-mingle"]
        with (self.home / f"{version}.log").open("ab") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.home, env=self._environment(version), start_new_session=True
            )
        try:
            self.wait(lambda: len(self._workers()) > len(known))
            yield process
        finally:
            self._end(process)

    def wait(self, until: Callable[[], object]) -> None:
        """Until it is so. Raises AssertionError with the workers' last words when it takes too long."""
        pause, ends_at = threading.Event(), time.monotonic() + PATIENCE_SECONDS
        while not until():
            if time.monotonic() > ends_at:
                said = "\n".join(path.read_text()[-4000:] for path in sorted(self.home.glob("*.log")))
                raise AssertionError(f"not in {PATIENCE_SECONDS:g} s; the workers said:\n{said}")
            pause.wait(0.05)

    def log(self, version: str) -> str:
        """What the workers of a version wrote."""
        return (self.home / f"{version}.log").read_text()

    def _workers(self) -> list[str]:
        """The ids of all workers that ever gave a sign of life; as SQL, which holds for every schema."""
        with self.database.reading() as tx:
            return list(tx.execute(select(text("id FROM workers"))).scalars())

    def _environment(self, version: str) -> dict[str, str]:
        code = ROOT if version == "now" else self.home / f"code-{version}"
        if not code.exists():
            zipfile.ZipFile(ASSETS / f"worker-{version}.zip").extractall(code)
        return {**os.environ, **self.environment, "PYTHONPATH": str(code)}

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise

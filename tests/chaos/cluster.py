"""A PostgreSQL server of a test's own, which may be brought down as a power cut would."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services import missing

PROGRAMS = Path("/usr/lib/postgresql")
# Crashes here are of processes, not of the machine: what was written is in the kernel's hands, and recovery is real.
OPTIONS = "-c fsync=off -c max_connections=200 -c listen_addresses=127.0.0.1"


class Cluster:
    """A server in a folder of its own; `url` names its database."""

    def __init__(self, programs: Path, folder: Path, user: str | None) -> None:
        self._programs, self._folder, self._user = programs, folder, user
        self._run("initdb", "-D", self._data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync")
        self._port = _free_port()
        try:
            self._start()
        except (OSError, RuntimeError):  # somebody may have taken the port meanwhile
            self._port = _free_port()
            self._start()

    @property
    def url(self) -> str:
        """For SQLAlchemy."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self._port}/postgres"

    def crash(self) -> None:
        """Everybody's connection breaks in the middle of whatever it does; the server recovers and is back."""
        self._control("restart", "-m", "immediate")

    def stop(self) -> None:
        """End it."""
        self._control("stop", "-m", "immediate")

    def _start(self) -> None:
        """Start it; what does not answer in time is stopped. Raises RuntimeError, OSError, TimeoutExpired."""
        try:
            self._control("start")
        except BaseException:
            if Path(self._data, "postmaster.pid").exists():
                self.stop()
            raise

    @property
    def _data(self) -> str:
        return str(self._folder / "data")

    def _control(self, *what: str) -> None:
        options = f"-p {self._port} -k {self._folder} {OPTIONS}"
        self._run("pg_ctl", *what, "-w", "-D", self._data, "-o", options, "-l", str(self._folder / "log"))

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        done = subprocess.run(
            command,
            check=False,
            cwd=self._folder,
            user=self._user,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=120,
        )
        if done.returncode:
            raise RuntimeError(f"{program} has failed: {done.stderr.decode()[-2000:]}")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


@contextmanager
def own_cluster() -> Iterator[Cluster]:
    """A fresh server, gone afterwards. It refuses to run as root, so root runs it as the user postgres."""
    found = sorted(PROGRAMS.glob("*/bin"), key=lambda path: int(path.parent.name))
    if not found:
        missing(f"PostgreSQL's initdb and pg_ctl in {PROGRAMS}/*/bin")
    folder = Path(tempfile.mkdtemp(prefix="chaos-postgres-", dir="/tmp"))  # where any user may look
    user = "postgres" if os.geteuid() == 0 else None
    try:
        if user is not None:
            owner = pwd.getpwnam(user)
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        cluster = Cluster(found[-1], folder, user)
        try:
            yield cluster
        finally:
            cluster.stop()
    finally:
        shutil.rmtree(folder)

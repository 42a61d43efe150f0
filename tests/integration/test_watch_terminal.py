"""`portraits watch` on a real terminal: a database that goes away and comes back, and a terminal that is lost."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from services import fresh_postgres
from sqlalchemy import update
from stacks import ROOT, Stack, copy_photos, people_manifest

from jobs.intake import enqueue
from jobs.models import Render, Unit
from jobs.orm import utcnow
from jobs.reports import status

pytestmark = pytest.mark.postgres
PATIENCE_SECONDS = 120.0
WATCH = [sys.executable, "-c", "from worker.cli import main; main()", "watch", "--interval", "0.2"]


class Relay:
    """A way to PostgreSQL that can be cut."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._open: set[socket.socket] = set()
        self._server: socketserver.ThreadingTCPServer | None = None
        self.port = 0
        self.mend()

    def mend(self) -> None:
        """Let connections through, at the same port as before."""
        relay = self

        class Handler(socketserver.BaseRequestHandler):
            """Passes bytes both ways until one side has no more."""

            def handle(self) -> None:
                relay._pass_on(self.request)

        class Server(socketserver.ThreadingTCPServer):
            """Takes its port again at once."""

            allow_reuse_address, daemon_threads = True, True

        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def cut(self) -> None:
        """End every connection, and take no other."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
        for end in list(self._open):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _pass_on(self, client: socket.socket) -> None:
        with socket.create_connection(self._target) as server:
            ends = {client: server, server: client}
            self._open |= set(ends)
            with suppress(OSError):
                while True:
                    for one in select.select(list(ends), [], [])[0]:
                        data = one.recv(65_536)
                        if not data:
                            return
                        ends[one].sendall(data)
            self._open -= set(ends)


class Terminal:
    """A terminal with a program on it that it controls."""

    def __init__(self, command: list[str], environment: dict[str, str], folder: Path) -> None:
        self._master, its_end = pty.openpty()
        controlled = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        command = [*command[:2], controlled + command[2], *command[3:]]
        own = {**os.environ, **environment, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "110", "LINES": "24"}
        self.process = subprocess.Popen(
            command, stdin=its_end, stdout=its_end, stderr=its_end, env=own, cwd=folder, start_new_session=True
        )
        os.close(its_end)
        self.seen = ""

    def wait_for(self, what: Callable[[str], bool]) -> str:
        """Everything that was shown since it was last asked, when it is as wanted."""
        told, ends_at = "", time.monotonic() + PATIENCE_SECONDS
        while not what(told):
            assert time.monotonic() < ends_at, f"not shown: {self.seen[-3000:]!r}"
            if not select.select([self._master], [], [], 1.0)[0]:
                continue
            try:
                data = os.read(self._master, 65_536)
            except OSError:  # the program has ended
                data = b""
            if not data:
                assert what(told), f"it ended after {self.seen[-3000:]!r}"
                break
            text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", data.decode(errors="replace"))
            told, self.seen = told + text, self.seen + text
        return told

    def hang_up(self) -> None:
        """What a lost connection does."""
        os.close(self._master)

    def close(self) -> None:
        """End the program, and the terminal."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        with suppress(OSError):
            os.close(self._master)


@contextmanager
def _relayed(home: Path) -> Iterator[tuple[Stack, Relay]]:
    """A stack whose command lines reach the database through a relay, and this process directly."""
    with fresh_postgres() as url:
        stack = Stack(home, {"PORTRAITS_DATABASE_URL": url})
        copy_photos(home)
        parts = urlsplit(url)
        relay = Relay(parts.hostname or "127.0.0.1", parts.port or 5432)
        stack.environment["PORTRAITS_DATABASE_URL"] = re.sub(r"@[^/]+/", f"@127.0.0.1:{relay.port}/", url)
        try:
            yield stack, relay
        finally:
            relay.cut()
            stack.database.dispose()


def _settle_everything(stack: Stack) -> None:
    """As workers would, while nobody can look."""
    with stack.database.transaction() as tx:
        tx.execute(update(Render).values(state="done", finished_at=utcnow()))
        tx.execute(update(Unit).values(state="done", renders_done=Unit.renders_total, finished_at=utcnow()))


def test_an_outage_is_unknown_and_the_end_within_it_is_seen_afterwards(tmp_path: Path) -> None:
    # Given somebody who watches a job on a terminal
    with _relayed(tmp_path / "home") as (stack, relay):
        enqueue(people_manifest(), base=stack.home, settings=stack.settings)
        terminal = Terminal(WATCH, stack.environment, stack.home)
        try:
            terminal.wait_for(lambda told: "0/12" in told)

            # When the way to the database is cut, and the job ends meanwhile
            relay.cut()
            told = terminal.wait_for(lambda told: re.search(r"unknown since \d\d:\d\d:\d\d", told) is not None)
            _settle_everything(stack)
            told = terminal.wait_for(lambda told: told.count("unknown since") > 3)

            # Then it stays unknown, and nothing says done
            assert "at least 0/12" in told and "done" not in told and terminal.process.poll() is None

            # When the way is there again, then the end is told
            relay.mend()
            terminal.wait_for(lambda told: "done: 12 done" in told)
            assert terminal.process.wait(PATIENCE_SECONDS) == 0
        finally:
            terminal.close()


def test_a_lost_terminal_leaves_the_job_and_another_one_shows_it(tmp_path: Path) -> None:
    # Given somebody who watches a job on a terminal
    with _relayed(tmp_path / "home") as (stack, _):
        enqueue(people_manifest(), base=stack.home, settings=stack.settings)
        lost = Terminal(WATCH, stack.environment, stack.home)
        try:
            lost.wait_for(lambda told: "0/12" in told)

            # When the terminal is lost, then the watch ends with it, and the job waits as before
            lost.hang_up()
            assert lost.process.wait(PATIENCE_SECONDS) in {-signal.SIGHUP, 0, 1, 130}
            assert status(settings=stack.settings).job["waiting"] == 12
        finally:
            lost.close()

        # When it is watched from another one, then it is where it is, and its end is seen
        other = Terminal(WATCH, stack.environment, stack.home)
        try:
            other.wait_for(lambda told: "0/12" in told)
            _settle_everything(stack)
            other.wait_for(lambda told: "done: 12 done" in told)
            assert other.process.wait(PATIENCE_SECONDS) == 0
        finally:
            other.close()

"""`portraits watch` and Ctrl-C: a real process and a real signal, through a pipe and on a terminal."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
from cli_world import CliWorld

from worker.cli.views import LiveView

# A shell that runs the tests in the background has its children ignore SIGINT; a user's shell does not.
LISTENING = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
WATCH = [sys.executable, "-c", f"{LISTENING}; from worker.cli import main; main()", "watch"]
# Ctrl-C reaches the program only if the terminal is the one that controls its session.
CONTROLLED = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)"
WATCH_ON_TERMINAL = [sys.executable, "-c", f"{LISTENING}; {CONTROLLED}; from worker.cli import main; main()", "watch"]
PATIENCE_SECONDS = 120
INTERRUPT = b"\x03"
CURSOR_HIDDEN, CURSOR_SHOWN = b"\x1b[?25l", b"\x1b[?25h"


@pytest.mark.parametrize(("options", "tenant"), [([], ""), (["--json"], ""), (["--tenant", "acme"], " --tenant acme")])
def test_an_interrupted_watch_tells_how_to_go_on(cli: CliWorld, options: list[str], tenant: str) -> None:
    # Given a job that waits, and somebody who watches it; with --json the progress goes to stderr
    job = cli.enqueue(**({"tenant": "acme"} if tenant else {}))
    watching = subprocess.Popen([*WATCH, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    progress = watching.stderr if "--json" in options else watching.stdout
    assert progress is not None and b"0/6" in progress.readline()

    # When it is interrupted
    watching.send_signal(signal.SIGINT)
    stdout, stderr = watching.communicate(timeout=PATIENCE_SECONDS)

    # Then the code says so, the way back is told, and the job still waits
    assert watching.returncode == 130
    assert f"`portraits watch {job['job_id']}{tenant}` shows it again" in stderr.decode()
    assert b"Traceback" not in stderr and stdout == b""
    assert cli.json("status", job["job_id"], *(["--tenant", "acme"] if tenant else []))["job"]["waiting"] == 6


def test_ctrl_c_on_a_terminal_leaves_it_as_it_was(cli: CliWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a watch on a terminal of its own
    job = cli.enqueue()
    monkeypatch.setenv("TERM", "xterm")
    terminal, its_end = pty.openpty()
    command = [*WATCH_ON_TERMINAL, "--interval", "0.1"]
    watching = subprocess.Popen(command, stdin=its_end, stdout=its_end, stderr=its_end, start_new_session=True)
    os.close(its_end)

    # When Ctrl-C is pressed once the counts are shown
    seen = _read_until(terminal, lambda seen: b"0/6" in seen)
    os.write(terminal, INTERRUPT)
    seen += _read_until(terminal, lambda seen: False)
    code = watching.wait(PATIENCE_SECONDS)
    os.close(terminal)

    # Then the code says so, the way back is told, and the cursor is back
    assert code == 130
    assert f"portraits watch {job['job_id']}" in seen.decode().replace("\r\n", "")
    assert seen.rfind(CURSOR_SHOWN) > seen.rfind(CURSOR_HIDDEN) >= 0


def _read_until(terminal: int, enough: Callable[[bytes], bool]) -> bytes:
    """What the terminal shows, until it is enough or its program has ended."""
    seen = b""
    while not enough(seen):
        ready, _, _ = select.select([terminal], [], [], PATIENCE_SECONDS)
        if not ready:
            raise TimeoutError(f"nothing more came after {seen[-200:]!r}")
        try:
            data = os.read(terminal, 4096)
        except OSError:  # how Linux tells that the other end is closed
            break
        if not data:
            break
        seen += data
    return seen


def test_a_view_that_is_interrupted_while_it_appears_is_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a view whose start is interrupted
    from rich.console import Console

    view = LiveView(Console(force_terminal=True))
    stopped: list[bool] = []

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(view._live, "start", interrupted)
    monkeypatch.setattr(view._live, "stop", lambda: stopped.append(True))

    # When it is shown, then it stops before the interrupt goes on
    with pytest.raises(KeyboardInterrupt), view:
        pass
    assert stopped == [True]

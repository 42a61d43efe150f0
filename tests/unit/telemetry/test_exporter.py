"""The port of a worker's parent ends with it, whenever that is told to."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from jobs.settings import Settings
from worker.telemetry import exporter
from worker.telemetry.counting import counts_of
from worker.telemetry.exporter import Exporter
from worker.telemetry.runtime import RunFolder


def exporter_of(home: Path) -> Exporter:
    folder = RunFolder.make(home)
    counts_of(folder).mkdir()
    database = f"sqlite:///{home / 'portraits.db'}"
    return Exporter(Settings(home=home, database_url=database, metrics_host="127.0.0.1", metrics_port=1), folder)


@pytest.mark.parametrize("is_at_once", [True, False], ids=["as soon as it is open", "after it has answered"])
def test_it_ends_whenever_it_is_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_at_once: bool) -> None:
    # Given a port, whichever is free, and one that is told to end in the moment in which it is opened
    opened, made = exporter_of(tmp_path), exporter.make_server

    def open_port(host: str, _port: int, *more: Any) -> Any:
        server = made(host, 0, *more)
        if is_at_once:
            opened._stop.set()
        ports.append(server.server_port)
        return server

    ports: list[int] = []
    monkeypatch.setattr(exporter, "make_server", open_port)
    opened.start()
    while not ports:
        opened._thread.join(0.01)

    # When it has been asked, or not, then it ends
    if not is_at_once:
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{ports[0]}/elsewhere", timeout=30)
    opened.stop()
    assert not opened._thread.is_alive()

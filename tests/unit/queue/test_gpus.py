"""One worker for each GPU: which GPUs, and what the parent does for its workers."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from jobs.errors import SettingsInvalid
from worker import gpus
from worker.errors import GpusNotThere
from worker.gpus import METRICS_PORT, GpuFleet, chosen_gpus, metrics_ports

# A worker that writes down which GPU it sees, and ends with SIGTERM as a warm shutdown does.
OBEDIENT = """
import os, pathlib, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
place = pathlib.Path(sys.argv[1])
place.write_text(os.environ["CUDA_VISIBLE_DEVICES"])
while True:
    signal.pause()
"""
CRASHING = """
import pathlib, sys
with pathlib.Path(sys.argv[1]).open("a") as file:
    file.write("x")
sys.exit(3)
"""


@pytest.mark.parametrize(
    ("wanted", "visible", "count", "found"),
    [
        ("all", "", 3, ["0", "1", "2"]),
        ("all", "2, 5", 8, ["2", "5"]),
        ("0,2", "", 3, ["0", "2"]),
        ("5", "2,5", 8, ["5"]),
        ("GPU-8f2e,GPU-77aa", "", 2, ["GPU-8f2e", "GPU-77aa"]),
    ],
)
def test_which_gpus(wanted: str, visible: str, count: int, found: list[str]) -> None:
    assert chosen_gpus(wanted, {"CUDA_VISIBLE_DEVICES": visible}, lambda: count) == found


@pytest.mark.parametrize(
    ("wanted", "visible", "count"), [("all", "", 0), ("3", "", 3), ("1", "0", 4), ("0,0", "", 2), ("", "", 2)]
)
def test_gpus_that_are_not_there(wanted: str, visible: str, count: int) -> None:
    with pytest.raises(GpusNotThere):
        chosen_gpus(wanted, {"CUDA_VISIBLE_DEVICES": visible}, lambda: count)


def test_each_worker_has_a_metrics_port_of_its_own() -> None:
    assert metrics_ports(9464, ["0", "2", "GPU-8f"]) == {"0": 9464, "2": 9465, "GPU-8f": 9466}
    assert metrics_ports(0, ["0", "2"]) == {"0": 0, "2": 0}
    with pytest.raises(SettingsInvalid, match="no ports for 3 workers"):
        metrics_ports(65_534, ["0", "1", "2"])


def test_a_worker_is_told_what_it_alone_has(tmp_path: Path) -> None:
    # Given a fleet whose workers write down the port that they were told
    writes = "import os, pathlib, sys; pathlib.Path(sys.argv[1]).write_text(os.environ['PORTRAITS_METRICS_PORT'])"
    for gpu in ("0", "2"):
        os.mkfifo(tmp_path / gpu)
    ports = metrics_ports(9464, ["0", "2"])
    fleet = GpuFleet(
        ["0", "2"],
        lambda gpu: [sys.executable, "-c", writes, str(tmp_path / gpu)],
        os.environ,
        lambda line: None,
        lambda gpu: {METRICS_PORT: str(ports[gpu])},
    )
    told: dict[str, str] = {}

    def watch() -> None:
        told.update({gpu: (tmp_path / gpu).read_text() for gpu in ("0", "2")})
        fleet.stop()

    # When it runs, then each has its own
    watcher = threading.Thread(target=watch)
    watcher.start()
    fleet.run()
    watcher.join()
    assert told == {"0": "9464", "2": "9465"}


def test_each_worker_sees_its_gpu_and_all_end_with_the_parent(tmp_path: Path) -> None:
    # Given a fleet of two, whose workers write into pipes, and somebody who sends SIGTERM when both have
    saw: dict[str, str] = {}
    for gpu in ("0", "2"):
        os.mkfifo(tmp_path / gpu)

    def command(gpu: str) -> list[str]:
        return [sys.executable, "-c", OBEDIENT, str(tmp_path / gpu)]

    def stop_it() -> None:
        saw.update({gpu: (tmp_path / gpu).read_text() for gpu in ("0", "2")})
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    stopper = threading.Thread(target=stop_it)
    stopper.start()

    # When it runs
    status = GpuFleet(["0", "2"], command, os.environ, lambda _: None).run()
    stopper.join()

    # Then each saw its own GPU, all ended well, and the parent's own handlers are back
    assert saw == {"0": "0", "2": "2"}
    assert status == 0
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_worker_that_crashes_is_started_again_ever_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a worker that always ends at once
    monkeypatch.setattr(gpus, "FIRST_WAIT_SECONDS", 0.05)
    monkeypatch.setattr(gpus, "LOOK_SECONDS", 0.01)
    told: list[str] = []
    fleet: GpuFleet

    def tell(line: str) -> None:
        told.append(line)
        if len(told) == 3:
            fleet.stop()

    fleet = GpuFleet(["1"], lambda _: [sys.executable, "-c", CRASHING, str(tmp_path / "runs")], os.environ, tell)
    fleet._workers[0].wait = 0.05

    # When it is minded
    fleet.run()

    # Then it was started once for each time it ended, with longer waits, and everybody was told why
    assert (tmp_path / "runs").read_text() == "xxx"
    assert all("the worker of GPU 1 ended with status 3" in line for line in told)
    assert fleet._workers[0].wait == pytest.approx(0.4)

"""One worker for each GPU of a machine, under one parent that minds them.

Each worker is a process of its own that sees one GPU. One that ends by itself is started again, later each time it
comes to an end soon; SIGTERM and SIGINT are passed on, and the parent ends when all have ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType

from jobs.errors import SettingsInvalid
from worker.errors import GpusNotThere

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 60.0
STEADY_SECONDS = 120.0  # who lived so long is started again at once
LOOK_SECONDS = 0.2
VISIBLE, METRICS_PORT = "CUDA_VISIBLE_DEVICES", "PORTRAITS_METRICS_PORT"
LAST_PORT = 65_535
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def chosen_gpus(wanted: str, environment: Mapping[str, str], count: Callable[[], int]) -> list[str]:
    """The GPUs of `--gpus`, as CUDA_VISIBLE_DEVICES names them.

    `all` are those that the machine shows to this process, `count` of them or what CUDA_VISIBLE_DEVICES names already;
    else numbers or UUIDs with commas. Raises `GpusNotThere` for none, for one named twice, and for a number too high.
    """
    visible = [each.strip() for each in environment.get(VISIBLE, "").split(",") if each.strip()]
    shown = visible or [str(number) for number in range(count())]
    if wanted == "all":
        if not shown:
            raise GpusNotThere("--gpus all: this machine shows no GPU to PyTorch; see `portraits doctor`")
        return shown
    named = [each.strip() for each in wanted.split(",") if each.strip()]
    unknown = [each for each in named if each.isdigit() and each not in shown]
    if not named or len(set(named)) != len(named) or unknown:
        listed = ", ".join(shown) or "none"
        raise GpusNotThere(f"--gpus wants 'all' or GPUs of this machine ({listed}), each once; found {wanted!r}")
    return named


def require_any_gpu(device: str) -> None:
    """Raise `GpusNotThere` unless each worker of a fleet can draw on this device: it sees one GPU, its first."""
    if device not in {"auto", "cuda", "cuda:0"}:
        raise GpusNotThere(
            f"--gpus gives each worker one GPU, which it knows as cuda:0; found PORTRAITS_DEVICE={device}. Set it to "
            "auto, and name the GPUs with --gpus"
        )


def metrics_ports(first: int, gpus: Sequence[str]) -> dict[str, int]:
    """The port of each GPU's worker: the first one and those after it; 0 for all where there is none.

    Raises SettingsInvalid where there are not so many ports.
    """
    if first and first + len(gpus) - 1 > LAST_PORT:
        raise SettingsInvalid(
            f"{METRICS_PORT}={first} leaves no ports for {len(gpus)} workers, which have one each from it on up to "
            f"{LAST_PORT}; choose a lower one"
        )
    return {gpu: first and first + number for number, gpu in enumerate(gpus)}


def cuda_count() -> int:
    """How many GPUs PyTorch sees, without touching them."""
    import torch

    return torch.cuda.device_count()


@dataclass
class _Worker:
    gpu: str
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    wait: float = FIRST_WAIT_SECONDS
    due: float = field(default_factory=time.monotonic)


class GpuFleet:
    """Workers, one for each GPU."""

    def __init__(
        self,
        gpus: Sequence[str],
        command: Callable[[str], list[str]],
        environment: Mapping[str, str],
        tell: Callable[[str], None],
        own: Callable[[str], Mapping[str, str]] = lambda gpu: {},
    ) -> None:
        """`command` gives the command line of a GPU's worker, `own` the variables that it alone has."""
        self._own = own
        self._workers = [_Worker(gpu) for gpu in gpus]
        self._command, self._environment, self._tell = command, dict(environment), tell
        self._told = threading.Event()

    def run(self) -> int:
        """Mind the workers until told to stop and all have ended; the first exit status that is not 0, else 0."""
        before = {number: signal.signal(number, self._pass_on) for number in PASSED_ON}
        try:
            while not self._told.is_set():
                for worker in self._workers:
                    self._mind(worker)
                self._told.wait(LOOK_SECONDS)
            return self._ended()
        finally:
            self.stop()  # whatever ended the loop: nobody is left on a GPU unminded
            self._ended()
            for number, handler in before.items():
                signal.signal(number, handler)

    def stop(self) -> None:
        """Tell every worker to finish its batch and end."""
        self._told.set()
        for worker in self._workers:
            if worker.process is not None and worker.process.poll() is None:
                worker.process.terminate()

    def _pass_on(self, _number: int, _frame: FrameType | None) -> None:
        self.stop()

    def _mind(self, worker: _Worker) -> None:
        process, now = worker.process, time.monotonic()
        if process is not None and process.poll() is not None:
            lived = now - worker.began
            worker.wait = FIRST_WAIT_SECONDS if lived > STEADY_SECONDS else worker.wait
            self._tell(
                f"the worker of GPU {worker.gpu} ended with status {process.returncode} after {lived:.0f} s; "
                f"it is started again in {worker.wait:.0f} s"
            )
            worker.process, worker.due = None, now + worker.wait
            worker.wait = min(2 * worker.wait, LONGEST_WAIT_SECONDS)
        if worker.process is None and now >= worker.due and not self._told.is_set():
            worker.began = now
            # A session of its own: a Ctrl-C is passed on once, not sent to everybody by the terminal as well.
            worker.process = subprocess.Popen(
                self._command(worker.gpu),
                env={**self._environment, **self._own(worker.gpu), VISIBLE: worker.gpu},
                start_new_session=True,
            )
            if self._told.is_set():  # told while it was being started
                worker.process.terminate()

    def _ended(self) -> int:
        statuses = [worker.process.wait() for worker in self._workers if worker.process is not None]
        return next((status for status in statuses if status), 0)


def own_environment() -> dict[str, str]:
    """What the workers inherit."""
    return dict(os.environ)

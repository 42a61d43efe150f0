"""What a worker compiles: before it says that it is ready, and when it has nothing to do."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from hyperlora.compiler import EngineOptions
from hyperlora.errors import CompilationFailed
from hyperlora.pipeline import PortraitPipeline
from jobs.errors import SettingsInvalid
from jobs.settings import Settings
from worker.engine_choice import load_choice

log = logging.getLogger(__name__)
FOLDER = "compiled"
FAST = EngineOptions(fuse_qkv=True, channels_last=True)
"""What is faster everywhere: seen on a CPU, 13 % and 15 % of the mini pack's steps."""
CACHES = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
OTHERS = stat.S_IWGRP | stat.S_IWOTH
BUDGET_SECONDS = 600.0
"""What warming before work may take: the message that woke the worker is held meanwhile, and RabbitMQ takes it back
after 30 minutes. No compilation that has begun is ended, so the last one comes on top."""
IDLE_SECONDS, POLL_SECONDS = 20.0, 1.0
"""How long nothing must have come before a compilation is begun, as no new work can end it; how often that is asked."""
MISSES = 3
"""A shape is worth compiling when it was missed so often."""


def engine_options(settings: Settings, device: str, name: str) -> EngineOptions:
    """How a worker runs its networks on a device of this name.

    `auto` is what `portraits calibrate` found to be fast; until then GPUs run the repeated blocks compiled, and CPUs,
    which gain little for minutes of compiling, run eager.
    """
    if settings.compile != "auto":
        return replace(FAST, compile=settings.compile)
    found = load_choice(settings.home, name)
    return found or replace(FAST, compile="blocks" if torch.device(device).type == "cuda" else "off")


def sizes_to_warm(wanted: str, *, side: int, detail_side: int) -> list[tuple[int, int]]:
    """Width and height of what PORTRAITS_WARM names; `auto` is the model's own square and that of the detail pass."""
    if wanted == "none":
        return []
    if wanted == "auto":
        return list(dict.fromkeys([(side, side), (detail_side, detail_side)]))
    pairs = [each.strip().split("x") for each in wanted.split(",")]
    return list(dict.fromkeys((int(width), int(height)) for width, height in pairs))


def keep_compiled(home: Path, *, required: bool = True) -> None:
    """Let PyTorch keep what it compiles in PORTRAITS_HOME, so that the next start takes seconds.

    The files are code that is run when they are found, so the folder must be this user's alone; where others may write
    to a folder of ours, as to a volume that Kubernetes mounts with `fsGroup`, it is closed to them. Where that cannot
    be, a temporary folder does for this process, and the log says so; with `required` that is `SettingsInvalid`. Places
    named by PyTorch's own variables are left as they are.
    """
    if all(variable in os.environ for variable in CACHES):
        return
    folder = home / FOLDER
    fault = _close(folder)
    if fault is not None and required:
        raise SettingsInvalid(
            f"{folder} holds compiled code and must be written by the worker's own user alone: {fault}; run "
            f"`chmod -R go-w {folder}`, or let the worker's user own it"
        )
    if fault is not None:
        log.warning("compiled code cannot be kept in %s (%s): the next start compiles again", folder, fault)
        folder = Path(tempfile.mkdtemp(prefix="portraits-compiled-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for variable, name in CACHES.items():
        os.environ.setdefault(variable, str(folder / name))


def _close(folder: Path) -> str | None:
    """Make the folder this user's alone; why it cannot be, None where it is."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.stat()
        if found.st_uid != os.getuid():
            return f"it belongs to user {found.st_uid}"
        if found.st_mode & OTHERS:
            if any(each.lstat().st_uid != os.getuid() for each in folder.rglob("*")):
                return "others have written to it"
            folder.chmod(stat.S_IMODE(found.st_mode) & ~OTHERS)
        return "others may write to it" if folder.stat().st_mode & OTHERS else None
    except OSError as error:
        return error.strerror or type(error).__name__


class Warming:
    """Compiles for one loaded profile."""

    def __init__(
        self,
        pipeline: PortraitPipeline,
        settings: Settings,
        *,
        batch: int,
        guided: bool,
        rank: int,
        now: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        """`batch` pictures at once, with guidance or not; `rank` is that of a person's LoRA."""
        self._pipeline, self._settings = pipeline, settings
        self._batch, self._guided, self._rank = batch, guided, rank
        self._now, self._wait = now, wait or threading.Event().wait

    def before_work(self, *, detail_side: int, should_stop: Callable[[], bool]) -> None:
        """Compile for the sizes that are asked for, each for one person's batch and for several people's.

        What the budget has no time for is left for idle time. Raises `CompilationFailed` where compiling was asked for
        by name; with `auto` the worker says so and draws without.
        """
        engine = self._pipeline.engine
        if engine.options.compile == "off":
            return
        keep_compiled(self._settings.home, required=self._settings.compile != "auto")
        sizes = sizes_to_warm(self._settings.warm, side=self._pipeline.default_size, detail_side=detail_side)
        began = self._now()
        for width, height in sizes:
            for rank in (None, self._rank):
                if should_stop():
                    return
                if self._now() - began >= BUDGET_SECONDS:
                    self._put_off(width, height, rank)
                elif not self._compile(width, height, rank):
                    return

    def when_idle(self, should_stop: Callable[[], bool]) -> None:
        """Compile for the shape that was missed most since the last time, one only: work may come at any time."""
        engine = self._pipeline.engine
        if engine.options.compile == "off" or engine.most_wanted(at_least=MISSES) is None:
            return
        if not self._stays_idle(should_stop):
            return
        try:
            shape = engine.warm_wanted(at_least=MISSES)
        except (CompilationFailed, torch.OutOfMemoryError) as error:
            log.warning("a shape stays without compiled code: %s", error)
        else:
            log.info("compiled for %s while there was nothing to draw", shape)

    def _stays_idle(self, should_stop: Callable[[], bool]) -> bool:
        """Wait; False as soon as something is to be done."""
        for _ in range(round(IDLE_SECONDS / POLL_SECONDS)):
            if should_stop():
                return False
            self._wait(POLL_SECONDS)
        return not should_stop()

    def _put_off(self, width: int, height: int, rank: int | None) -> None:
        engine = self._pipeline.engine
        shape = engine.want(width, height, self._batch, guided=self._guided, rank=rank, times=MISSES)
        log.warning("warming takes too long: %s is compiled when there is nothing to draw", shape)

    def _compile(self, width: int, height: int, rank: int | None) -> bool:
        """Whether to go on."""
        engine = self._pipeline.engine
        try:
            seconds = engine.warm(width, height, self._batch, guided=self._guided, rank=rank)
        except torch.OutOfMemoryError:
            log.warning("%d pictures of %dx%d do not fit, so nothing is compiled for them", self._batch, width, height)
        except CompilationFailed as error:
            if self._settings.compile != "auto":
                raise
            log.warning("%s; drawing goes on without compiled code", error)
            self._pipeline.run_with(replace(engine.options, compile="off"))
            return False
        else:
            own = "one LoRA for each" if rank else "one person"
            log.info("compiled for %d pictures of %dx%d, %s, in %.1f s", self._batch, width, height, own, seconds)
        return True

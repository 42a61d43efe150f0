"""`portraits demo`: the main job from a manifest to pictures, with a real worker, on what is embedded."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.errors import WorkerDied
from worker.cli.exits import Exit
from worker.cli.extras import need_worker_extra
from worker.cli.options import load_settings
from worker.cli.output import err, facts, hint, out, say
from worker.cli.progress import Moment, follow, job_reader
from worker.cli.views import view_for
from worker.cli.worker import celery_command

if TYPE_CHECKING:
    from jobs.intake import Enqueued
    from jobs.settings import Settings
    from worker.demo import WorkerProcess
    from worker.job_sheet import WrittenSheet

PICTURE_NAMES = "{identity}/{prompt}"
LOOK_SECONDS = 0.25


def demo(
    folder: Annotated[Path, typer.Option("--out", help="Folder for the pictures.")] = Path("portraits-out"),
    home: Annotated[Path, typer.Option("--home", help="Folder of the demo's own database, broker and objects.")] = Path(
        ".portraits/demo"
    ),
    keep: Annotated[bool, typer.Option("--keep", help="Leave the worker running, to try more commands.")] = False,
) -> None:
    """Draw the example people from photos to pictures: database, queue, worker and model, with nothing to configure.

    In a checkout the model is the small trained world of `packs/`; else one of random numbers, which shows the way of a
    job, not a likeness.
    """
    need_worker_extra("`portraits demo`")
    load_settings()  # faults of the environment are told before anything is made
    from worker.demo import WorkerProcess, demo_settings, worker_environment

    began = time.monotonic()
    settings = demo_settings(home)
    _on_terminate()
    # 1. a database, and a model pack
    _prepare(settings)
    # 2. a job
    job = _enqueue(settings)
    # 3. a worker, in a process of its own
    command = celery_command(settings, loglevel="info", name="demo")
    with WorkerProcess(command, worker_environment(settings), settings.home / "worker.log") as process:
        # 4. its progress, up to the end of the job
        _follow(settings, job, process)
        process.keep = keep
        if not keep:
            process.begin_stop()
        # 5. pictures, their gallery and a contact sheet, while the worker ends
        gallery, sheet = _fetch(settings, job, folder)
    # 6. what became of it
    code = _tell(settings, job, folder, gallery, sheet, time.monotonic() - began)
    if keep:
        hint(f"the worker runs on as process {process.pid}; for more commands: export PORTRAITS_HOME={settings.home}")
    else:
        hint(f"for more commands on this job, such as `portraits status`: export PORTRAITS_HOME={settings.home}")
    if code:
        raise typer.Exit(code)


def _on_terminate() -> None:
    """SIGTERM ends the demo like an interrupt from the keyboard, so that its worker ends too."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)


def _spinner(message: str) -> AbstractContextManager[Any]:
    console = err()
    if console.is_terminal:
        return console.status(message)
    hint(message)
    return nullcontext()


def _prepare(settings: Settings) -> None:
    from jobs.database import Database
    from worker.demo import build_pack, pack_is_there

    database = Database.from_settings(settings)
    try:
        database.upgrade()
    finally:
        database.dispose()
    if not pack_is_there(settings):
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # its advice is for users of transformers
        with _spinner("making an untrained model pack"):
            build_pack(settings)


def _enqueue(settings: Settings) -> Enqueued:
    from jobs.intake import enqueue
    from worker.demo import demo_manifest

    manifest = demo_manifest(settings.home)
    job = enqueue(manifest, settings=settings, again=True, overrides={"tenant": settings.tenant})
    say(f"enqueued {manifest}: {job.identities} people, {job.renders} pictures")
    for warning in job.warnings:
        hint(warning)
    return job


def _follow(settings: Settings, job: Enqueued, process: WorkerProcess) -> None:
    """Show the progress. A worker that died or cannot work ends the demo; so does the keyboard, with the job."""
    from jobs.database import Database
    from jobs.reports import cancel

    database = Database.from_settings(settings)
    started = time.monotonic()
    try:
        with view_for(out()) as view:
            read = job_reader(database, settings, job.tenant, job.job_id)
            for moment in follow(read, threading.Event().wait, LOOK_SECONDS):
                view.show(moment)
                _check(moment, process, time.monotonic() - started)
    except KeyboardInterrupt:
        cancel(job.job_id, tenant=job.tenant, settings=settings)
        hint("cancelled; waiting for the worker to finish its batch")
        raise
    finally:
        database.dispose()


def _check(moment: Moment, process: WorkerProcess, seconds: float) -> None:
    if moment.is_over:
        return
    if process.exit_status is not None:
        raise WorkerDied(
            f"the worker ended with status {process.exit_status} before the job did; the end of {process.log}:\n"
            f"{process.last_lines()}"
        )
    for one in moment.workers:
        if one["state"] == "unfit" and one["seen_seconds_ago"] < seconds:
            raise WorkerDied(
                f"the worker cannot draw: {one['error']}; the end of {process.log}:\n{process.last_lines()}"
            )


def _fetch(settings: Settings, job: Enqueued, folder: Path) -> tuple[Path | None, WrittenSheet]:
    from worker.cli.results import fetch
    from worker.job_sheet import write_job_sheet

    row, report = fetch(str(job.job_id), job.tenant, settings, folder, name=PICTURE_NAMES)
    return report.gallery, write_job_sheet(row, settings, folder / "contact-sheet.png")


def _tell(
    settings: Settings, job: Enqueued, folder: Path, gallery: Path | None, sheet: WrittenSheet, seconds: float
) -> Exit:
    from jobs.reports import results, status
    from worker.cli.status import show_job

    found = status(job.job_id, tenant=job.tenant, settings=settings)
    show_job(found)
    drawn = [row for row in results(job.job_id, tenant=job.tenant, settings=settings, state="done")]
    steps = ("seconds_weights", "seconds_merge", "seconds_denoise", "seconds_decode")
    busy = sum(row[step] or 0.0 for row in drawn for step in steps)
    facts(
        {
            "time": f"{seconds:.1f} s in all",
            "drawing": f"{len(drawn) / busy:.2f} images/s on {drawn[0]['device']}" if busy else "nothing was drawn",
            "pictures": folder.resolve(),
            "gallery": gallery.resolve().as_uri() if gallery is not None else "none",
            "contact sheet": sheet.file.resolve(),
        }
    )
    if sheet.notice:
        say(f"NOTE: {sheet.notice}", "bold yellow")
    sys.stdout.flush()
    return Exit.OK if found.job["state"] == "done" else Exit.PROBLEM

"""`portraits results`: a job's pictures into a folder or a zip file, and a table of what they are."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.exits import Exit
from worker.cli.options import AsJson, JobOrNewest, Tenant, load_settings
from worker.cli.output import err, hint, print_json, say, warn

if TYPE_CHECKING:
    from jobs.database import Database
    from jobs.gallery import FolderGallery
    from jobs.repository.jobs import JobRow
    from jobs.settings import Settings
    from worker.results import Fetched

SHOWN_FAILURES = 20


class Format(StrEnum):
    """How the table is written."""

    CSV = "csv"
    JSONL = "jsonl"


class State(StrEnum):
    """Which pictures are wanted."""

    DONE = "done"
    FAILED = "failed"
    WAITING = "waiting"
    CANCELLED = "cancelled"


def results(
    job: JobOrNewest = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for pictures and table; made if missing.")] = None,
    name: Annotated[
        str,
        typer.Option(
            "--name", help="File names: {identity}, {prompt}, {seed}, {ordinal}, {render}, {job}; / for folders."
        ),
    ] = "{identity}/{prompt}-{seed}",
    as_zip: Annotated[
        bool, typer.Option("--zip", help="One zip file: --out itself if it ends with .zip, else <job>.zip in it.")
    ] = False,
    kind: Annotated[Format, typer.Option("--format", help="Of the table.")] = Format.CSV,
    state: Annotated[State | None, typer.Option("--state", help="Only pictures in this state.")] = None,
    urls: Annotated[bool, typer.Option("--urls", help="Add a URL to each picture (without --out).")] = False,
    gallery: Annotated[
        bool, typer.Option("--gallery/--no-gallery", help="Write index.html, which shows the pictures (with --out).")
    ] = True,
    sheet: Annotated[bool, typer.Option("--sheet", help="Also draw a contact sheet, contact-sheet.png.")] = False,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Rows at most (without --out).")] = None,
    after: Annotated[
        int,
        typer.Option(
            "--after", min=-1, max=2**63 - 1, help="The next page: `ordinal` of the last row (without --out)."
        ),
    ] = -1,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a job's finished pictures and write a table of them; without --out, print the table.

    Further files of a picture, as its `outputs` ask for, lie beside it: office-1.png and office-1-avatar.webp.
    The table's columns are the names of the rows in Python and of the view `render_metrics`.
    The folder's index.html shows the pictures: people down, prompts across, each with its making; open it in a browser.
    Pictures that lie in the folder already are not fetched again, so the command can be repeated while a job is drawn.
    Exit code 1 if some picture could not be fetched.
    """
    settings = load_settings()
    if out is None:
        if as_zip or sheet:
            raise typer.BadParameter("--zip and --sheet need --out")
        page = {"after": after, "limit": limit}
        _print_table(job, tenant, settings, kind, state, urls=urls, as_json=as_json, page=page)
        return
    if limit is not None or after >= 0:
        raise typer.BadParameter("--limit and --after are for the table; leave --out away")  # names depend on all rows
    if urls:
        raise typer.BadParameter("--urls is for the table that is printed, as they expire; leave --out or --urls away")
    if as_zip and sheet:
        raise typer.BadParameter("--sheet draws into the folder; leave --zip away")
    row, report = fetch(job, tenant, settings, out, name=name, as_zip=as_zip, kind=kind, state=state, gallery=gallery)
    drawn = _draw_sheet(row, settings, out) if sheet else None
    _tell(row, report, drawn, as_json=as_json)
    if report.failed:
        raise typer.Exit(Exit.PROBLEM)


def fetch(
    job: str | None,
    tenant: str | None,
    settings: Settings,
    out: Path,
    *,
    name: str = "{identity}/{prompt}-{seed}",
    as_zip: bool = False,
    kind: Format = Format.CSV,
    state: State | None = None,
    gallery: bool = True,
) -> tuple[JobRow, Fetched]:
    """Fetch the job's pictures to `out`, with a bar on a terminal; into a folder with a gallery of them, if asked."""
    from jobs.database import Database
    from jobs.reports import find_job, outputs
    from jobs.reports import results as job_results
    from jobs.storage import open_storage
    from worker.names import NameTemplate, UniqueNames
    from worker.results import fetch_folder, fetch_zip, named, writing

    names = UniqueNames(NameTemplate(name))
    database = Database.from_settings(settings)
    try:
        row = find_job(database, tenant or settings.tenant, job)
        pages = _gallery(database, row, out) if gallery and not as_zip else None
    finally:
        database.dispose()
    further = outputs(row.id, tenant=row.tenant_id, settings=settings)
    rows = named(job_results(row.id, tenant=row.tenant_id, settings=settings), names, state, further)
    storage = open_storage(settings.storage_url, settings)
    with _bar(row.renders_total) as advance:
        if as_zip:
            file = out if out.suffix.lower() == ".zip" else out / f"{row.id}.zip"
            return row, fetch_zip(rows, storage, file, table=kind.value, done=advance)

        def done(one: dict[str, Any]) -> None:
            advance(one)
            if pages is not None:
                pages.add(one)

        report = fetch_folder(rows, storage, out, table=kind.value, done=done)
        if pages is not None:
            with writing(out):
                report.gallery = pages.close()
        return row, report


def _gallery(database: Database, job: JobRow, folder: Path) -> FolderGallery | None:
    """The gallery of the folder that the pictures are fetched to; None of a job that asks for nothing."""
    from jobs.gallery import FolderGallery, Head
    from jobs.orm import utcnow
    from jobs.repository import queries

    with database.reading(job.tenant_id) as tx:
        found = queries.job(tx, job.tenant_id, job.id)
    return FolderGallery(folder, Head.of(dict(found), utcnow())) if found is not None else None


class _bar:
    """A progress bar on stderr, if that is a terminal."""

    def __init__(self, total: int) -> None:
        from rich.progress import Progress

        console = err()
        self._progress = Progress(console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("fetching", total=total)

    def __enter__(self) -> Any:
        self._progress.start()
        return lambda row: self._progress.advance(self._task)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def _print_table(
    job: str | None,
    tenant: str | None,
    settings: Settings,
    kind: Format,
    state: State | None,
    *,
    urls: bool,
    as_json: bool,
    page: dict[str, int | None],
) -> None:
    from jobs.reports import results as job_results
    from worker.results_table import as_record, table_writer

    rows = job_results(job, tenant=tenant, state=state, urls=urls, settings=settings, **page)  # type: ignore[arg-type]
    if as_json:
        found = list(rows)
        more = {"next": found[-1]["ordinal"]} if found and len(found) == page["limit"] else {}
        print_json({"renders": [_without_file(as_record(row)) for row in found], **more})
        return
    first = next(rows, None)  # an unknown job is told before a heading is written
    write = table_writer(sys.stdout, kind.value, urls=urls)
    for row in _chain(first, rows):
        write(row)


def _without_file(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in {"file", "further_files"}}


def _chain(first: dict[str, Any] | None, rest: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    if first is not None:
        yield first
        yield from rest


def _draw_sheet(row: JobRow, settings: Settings, folder: Path) -> Path:
    from worker.job_sheet import write_job_sheet

    return write_job_sheet(row, settings, folder / "contact-sheet.png").file


def _tell(row: JobRow, report: Fetched, drawn: Path | None, *, as_json: bool) -> None:
    if as_json:
        told = {name: getattr(report, name) for name in ("fetched", "present", "failed", "rows", "failures")}
        table = report.table if report.place.suffix.lower() == ".zip" else str(report.place / report.table)
        print_json(
            {
                "job_id": row.id,
                "key": row.key,
                "out": report.place,
                "table": table,
                "sheet": drawn,
                "gallery": report.gallery,
                **told,
            }
        )
        return
    there = f", {report.present} were there already" if report.present else ""
    say(f"{report.fetched} pictures fetched to {report.place}{there}; {report.table} tells about all {report.rows}")
    if report.gallery is not None:
        say(f"gallery: {report.gallery}")
    if drawn is not None:
        say(f"contact sheet: {drawn}")
    if report.failed:
        warn(f"{report.failed} pictures could not be fetched")
        for failure in report.failures[:SHOWN_FAILURES]:
            hint(f"  {failure['render_id']}: {failure['message']} ({failure['code']})")

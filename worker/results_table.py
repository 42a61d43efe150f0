"""A job's pictures as a table: CSV for people with spreadsheets, JSON Lines for programs."""

from __future__ import annotations

import csv
import datetime as dt
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TextIO

TableFormat = Literal["csv", "jsonl"]
Write = Callable[[Mapping[str, Any]], None]

# The names of `jobs.results` and of the view behind it, in order. What people look at stands first.
COLUMNS = (
    "file",
    "further_files",
    "external_id",
    "prompt_name",
    "seed",
    "state",
    "error_code",
    "error",
    "id_similarity",
    "id_similarity_reason",
    "recogniser",
    "prompt",
    "final_prompt",
    "negative_prompt",
    "width",
    "height",
    "steps",
    "guidance",
    "scheduler",
    "lora_weight",
    "options",
    "drawn_seed",
    "draws",
    "output_width",
    "output_height",
    "detail_faces",
    "seconds_weights",
    "seconds_merge",
    "seconds_denoise",
    "seconds_decode",
    "seconds_detail",
    "seconds_finish",
    "seconds_encode",
    "seconds_upload",
    "batch_size",
    "device",
    "worker",
    "size_bytes",
    "sha256",
    "media_type",
    "storage_key",
    "model_fingerprint",
    "weight_set_fingerprint",
    "ordinal",
    "render_id",
    "rerun_of",
    "job_id",
    "job_key",
    "tenant_id",
    "created_at",
    "finished_at",
)
# A spreadsheet would run a text that starts like a formula; an apostrophe keeps it a text.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def as_record(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row's columns, with values that JSON can hold; `url` is kept where there is one."""
    columns = (*COLUMNS, "url") if "url" in row else COLUMNS
    return {name: _plain(row.get(name)) for name in columns}


def _plain(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.isoformat()
    return value if value is None or isinstance(value, bool | int | float | str | list | dict) else str(value)


def _cell(value: Any) -> Any:
    """As a spreadsheet's cell: paths with `|` between them, which no path has, and other structures as JSON."""
    if isinstance(value, list):
        value = "|".join(map(str, value))
    elif isinstance(value, dict):
        value = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_STARTS) else value


def table_writer(file: TextIO, kind: TableFormat, *, urls: bool = False) -> Write:
    """A function that writes one row to the open text file; for CSV the headings are written at once."""
    if kind == "jsonl":

        def write_line(row: Mapping[str, Any]) -> None:
            file.write(json.dumps(as_record(row), ensure_ascii=False) + "\n")

        return write_line

    headings = [*COLUMNS, *(["url"] if urls else [])]
    table = csv.DictWriter(file, headings, lineterminator="\n")
    table.writeheader()

    def write_row(row: Mapping[str, Any]) -> None:
        table.writerow({name: _cell(value) for name, value in as_record(row).items()})

    return write_row


@contextmanager
def open_table(path: Path, kind: TableFormat) -> Iterator[Write]:
    """A table in a file of its own."""
    with path.open("w", encoding="utf-8", newline="") as file:
        yield table_writer(file, kind)

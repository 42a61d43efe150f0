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

# Row name -> heading, in order. What people look at stands first.
COLUMNS = {
    "file": "file",
    "external_id": "identity",
    "prompt_name": "prompt_name",
    "seed": "seed",
    "state": "state",
    "error_code": "error_code",
    "error": "error",
    "id_similarity": "id_similarity",
    "id_similarity_reason": "id_similarity_reason",
    "recogniser": "recogniser",
    "prompt": "prompt",
    "final_prompt": "final_prompt",
    "negative_prompt": "negative_prompt",
    "width": "width",
    "height": "height",
    "steps": "steps",
    "guidance": "guidance",
    "scheduler": "scheduler",
    "lora_weight": "lora_weight",
    "seconds_weights": "seconds_weights",
    "seconds_merge": "seconds_merge",
    "seconds_denoise": "seconds_denoise",
    "seconds_decode": "seconds_decode",
    "seconds_encode": "seconds_encode",
    "seconds_upload": "seconds_upload",
    "batch_size": "batch_size",
    "device": "device",
    "worker": "worker",
    "size_bytes": "size_bytes",
    "sha256": "sha256",
    "media_type": "media_type",
    "storage_key": "storage_key",
    "model_fingerprint": "model_fingerprint",
    "weight_set_fingerprint": "weight_set_fingerprint",
    "ordinal": "ordinal",
    "render_id": "render",
    "rerun_of": "rerun_of",
    "job_id": "job",
    "job_key": "job_key",
    "tenant_id": "tenant",
    "created_at": "created_at",
    "finished_at": "finished_at",
}
# A spreadsheet would run a text that starts like a formula; an apostrophe keeps it a text.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def as_record(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row under its headings, with values that JSON can hold; `url` is kept where there is one."""
    columns = {**COLUMNS, "url": "url"} if "url" in row else COLUMNS
    return {heading: _plain(row.get(name)) for name, heading in columns.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.isoformat()
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_STARTS) else value


def table_writer(file: TextIO, kind: TableFormat, *, urls: bool = False) -> Write:
    """A function that writes one row to the open text file; for CSV the headings are written at once."""
    if kind == "jsonl":

        def write_line(row: Mapping[str, Any]) -> None:
            file.write(json.dumps(as_record(row), ensure_ascii=False) + "\n")

        return write_line

    headings = [*COLUMNS.values(), *(["url"] if urls else [])]
    table = csv.DictWriter(file, headings, lineterminator="\n")
    table.writeheader()

    def write_row(row: Mapping[str, Any]) -> None:
        table.writerow({heading: _cell(value) for heading, value in as_record(row).items()})

    return write_row


@contextmanager
def open_table(path: Path, kind: TableFormat) -> Iterator[Write]:
    """A table in a file of its own."""
    with path.open("w", encoding="utf-8", newline="") as file:
        yield table_writer(file, kind)

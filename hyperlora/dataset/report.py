"""`report.html`: how many photos were kept, which were dropped and why, with pictures to look at.

One file that needs no other: small pictures are inside, and the page may load and run nothing. All that came with the
photos (names, captions, messages) is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from hyperlora.dataset.block import BlockRecord, Example, dropped_totals
from hyperlora.dataset.histogram import histogram
from hyperlora.dataset.info import write_whole

FILE = "report.html"
MOST_SHOWN = 12
"""Pictures of each reason on the page."""

REASONS = {
    "no_face": "No face was found",
    "several_people": "More than one person",
    "small_face": "The face is too small",
    "blurred_face": "The face is blurred",
    "small_photo": "The photo is too small",
    "bad_picture": "The file is no picture that can be read",
    "bad_text": "Its caption or JSON cannot be read",
    "no_caption": "There is no caption",
    "bad_face": "The face cannot be used",
    "no_square": "The face fits no square of the photo",
    "unsure_face": "It may be no face at all",
    "first_detection_used": "A closer look did not show the face again",
    "cut_off_face": "The face is cut off",
    "turned_face": "The head is turned far to one side",
    "tilted_face": "The head is tilted",
    "dark_face": "The face is too dark",
    "bright_face": "The face is overexposed",
}

_STYLE = """
:root{color-scheme:light}*{box-sizing:border-box}
body{margin:0;background:#fbfaf7;color:#1f2328;font:15px/1.5 system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1180px;margin:0 auto;padding:40px 24px 64px}
h1{font-size:30px;line-height:1.2;margin:0 0 4px}h2{font-size:20px;margin:44px 0 12px}
p{margin:0 0 12px;color:#4b5563}
.tiles{display:flex;flex-wrap:wrap;gap:14px;margin:24px 0 0}
.tile{flex:1 1 150px;background:#fff;border:1px solid #e7e4dc;border-radius:10px;padding:14px 18px}
.tile b{display:block;font-size:26px;line-height:1.25;font-variant-numeric:tabular-nums}.tile span{color:#6b7280}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:6px 12px 6px 0;vertical-align:middle}
th{font-weight:400}tr+tr{border-top:1px solid #eeebe4}
.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap;width:1%}
.share{width:42%}.share i{display:block;height:12px;border-radius:3px;background:#d9a08f;min-width:2px}
.share i.kept{background:#3f7d5a}
code{font:13px ui-monospace,"DejaVu Sans Mono",monospace;color:#6b7280}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(380px,1fr));gap:14px}
figure{margin:0}.charts figure{background:#fff;border:1px solid #e7e4dc;border-radius:10px;padding:16px 18px}
.charts figcaption{font-weight:600;margin-bottom:8px}svg{width:100%;height:auto;display:block;font-size:12px}
.key{display:inline-block;width:11px;height:11px;border-radius:3px;margin:0 5px 0 14px}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(166px,1fr));gap:16px 14px}
.grid img,.grid .none{width:100%;height:166px;object-fit:contain;background:#f1efe9;border-radius:10px;display:block}
.grid .none{display:flex;align-items:center;justify-content:center;color:#9aa0a6}
.grid figcaption{font-size:12.5px;line-height:1.4;margin-top:6px;overflow-wrap:anywhere}
.grid figcaption b{display:block;font-weight:600}.grid figcaption span{color:#6b7280}
details{margin-top:44px}summary{cursor:pointer;font-size:20px;font-weight:600}
"""


def write_report(folder: Path, records: Sequence[BlockRecord], settings: Mapping[str, Any]) -> Path:
    """Put the page into the folder; returns where it lies."""
    return write_whole(folder / FILE, report_page(folder.resolve().name, records, settings).encode())


def report_page(title: str, records: Sequence[BlockRecord], settings: Mapping[str, Any]) -> str:
    """The page as HTML."""
    looked_at, kept = sum(record.looked_at for record in records), sum(record.kept for record in records)
    dropped = dropped_totals(records)
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{_count(kept, 'portrait')} to train on, out of {_count(looked_at, 'photo')} that were looked at.</p>",
        _tiles(records, looked_at, kept),
        "<h2>What became of the photos</h2>",
        _table(kept, dropped, looked_at),
        "<h2>Size and sharpness of the faces</h2>",
        f'<p>Of the photos with a face that could be measured: <span class="key" style="background:#3f7d5a"></span>kept'
        f'<span class="key" style="background:#d9a08f"></span>dropped, for whichever reason.</p>'
        f'<div class="charts">{_charts(records, settings)}</div>',
        *([f"<h2>Kept</h2>{_grid(_examples(records, 'kept'))}"] if kept else []),
    ]
    for code, count in dropped.items():
        body.append(f"<h2>{escape(REASONS.get(code, code))} <code>{escape(code)} · {count:,}</code></h2>")
        body.append(_grid(_examples(records, code)))
    body.append(_settings(settings))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'\">\n"
        '<meta name="viewport" content="width=device-width"><meta name="referrer" content="no-referrer">\n'
        f"<title>{escape(title)}: what was kept and why</title>\n<style>{_STYLE}</style></head>\n"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _tiles(records: Sequence[BlockRecord], looked_at: int, kept: int) -> str:
    people: dict[int, int] = {}
    for record in records:
        for person, count in record.people.items():
            people[person] = people.get(person, 0) + count
    tiles = [(f"{looked_at:,}", "photos looked at"), (f"{kept:,}", f"kept ({_share(kept, looked_at)})")]
    tiles.append((f"{looked_at - kept:,}", "dropped"))
    if people:
        several = sum(count > 1 for count in people.values())
        tiles.append((f"{len(people):,}", "people" if len(people) != 1 else "person"))
        tiles.append((f"{several:,}", "of them with several photos"))
    else:
        tiles.append(("–", "people are not told apart"))
    shown = "".join(f"<div class=tile><b>{number}</b><span>{escape(told)}</span></div>" for number, told in tiles)
    return f'<div class="tiles">{shown}</div>'


def _table(kept: int, dropped: Mapping[str, int], looked_at: int) -> str:
    rows = [_row("Kept", "", kept, looked_at, "kept")]
    rows += [_row(REASONS.get(code, code), code, count, looked_at, "") for code, count in dropped.items()]
    return f"<table>{''.join(rows)}</table>"


def _row(name: str, code: str, count: int, looked_at: int, kind: str) -> str:
    wide = 100 * count / max(looked_at, 1)
    return (
        f"<tr><th>{escape(name)} <code>{escape(code)}</code></th><td class=number>{count:,}</td>"
        f'<td class=number>{_share(count, looked_at)}</td><td class=share><i class="{kind}" '
        f'style="width:{wide:.2f}%"></i></td></tr>'
    )


def _charts(records: Sequence[BlockRecord], settings: Mapping[str, Any]) -> str:
    kept = [good for record in records for good in record.measures.kept]
    sizes = [value for record in records for value in record.measures.face_pixels]
    sharpness = [value for record in records for value in record.measures.sharpness]
    return "".join(
        f"<figure><figcaption>{name}</figcaption>{histogram(values, kept, float(settings[limit]), unit)}</figure>"
        for name, values, limit, unit in (
            ("Face", sizes, "min_face", "pixels of the face's shorter side, in the photo"),
            ("Sharpness", sharpness, "min_sharpness", "variance of the Laplacian of the aligned face"),
        )
    )


def _examples(records: Sequence[BlockRecord], code: str) -> list[Example]:
    """Some examples of a reason, spread over the whole set: the first of each block, then the second, and so on."""
    of_blocks = [record.examples.get(code, []) for record in records]
    most = max((len(examples) for examples in of_blocks), default=0)
    found = [examples[place] for place in range(most) for examples in of_blocks if place < len(examples)]
    return found[:MOST_SHOWN]


def _grid(examples: Sequence[Example]) -> str:
    return f'<div class="grid">{"".join(_figure(example) for example in examples)}</div>'


def _figure(example: Example) -> str:
    name = escape(example.name)
    picture = '<div class="none">no picture</div>'
    if example.thumbnail:
        picture = f'<img alt="{name}" src="data:image/jpeg;base64,{escape(example.thumbnail)}">'
    message = escape(example.message if len(example.message) <= 240 else f"{example.message[:239]}…")
    return f"<figure>{picture}<figcaption><b>{name}</b><span>{message}</span></figcaption></figure>"


def _settings(settings: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td><code>{escape(_told(value))}</code></td></tr>"
        for name, value in settings.items()
        if value is not None
    )
    return f"<details><summary>Settings</summary><table>{rows}</table></details>"


def _told(value: object) -> str:
    return ", ".join(str(one) for one in value) or "none" if isinstance(value, list | tuple) else str(value)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"

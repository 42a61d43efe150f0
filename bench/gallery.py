"""A gallery of many pictures in a real browser: how soon it shows, how evenly it scrolls, what it holds.

    python bench/gallery.py [--pictures 5000] [--seconds 8] [--sprites] [--json FILE] [--out FOLDER]

The pictures are noise over colours, each its own, as large on a sheet as photographs are. Scrolled from end to end at a
steady speed, first in the order in which they were asked for, then in the order of their likeness, in which every line
needs thumbnails of all sheets. How much of the time the page's main thread computes is told beside frames, since these
also wait for whatever else the machine does. `--sprites` measures the same pages once more with thumbnails cut out of
large pictures, as sheets of thumbnails are usually made. Needs Chromium (`PORTRAITS_TEST_CHROMIUM`) and playwright.
"""

from __future__ import annotations

import argparse
import base64
import io
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import CDPSession, Page, sync_playwright

from bench import common

sys.path.insert(0, str(common.ROOT / "tests"))

PROMPTS, SIZE = 8, (208, 304)
LARGEST_SPRITE = 16_000
VIEW = {"width": 1440, "height": 900}
SCROLL = """
async ({ seconds, order }) => {
  const view = document.getElementById("view");
  const sort = document.getElementById("sort");
  const long = [];
  const seen = new PerformanceObserver((list) => long.push(...list.getEntries().map((entry) => entry.duration)));
  const began = performance.now();
  sort.value = order;
  sort.dispatchEvent(new Event("change"));
  const sorting = performance.now() - began;
  seen.observe({ type: "longtask" });
  const end = view.scrollHeight - view.clientHeight;
  const frames = [];
  const start = await new Promise(requestAnimationFrame);
  let last = start;
  while (last - start < 1000 * seconds) {
    view.scrollTop = (end * (last - start)) / (1000 * seconds);
    const now = await new Promise(requestAnimationFrame);
    frames.push(now - last);
    last = now;
  }
  seen.disconnect();
  const nodes = document.getElementsByTagName("*").length;
  return { frames, long, sorting, nodes, pixels: end, heap: performance.memory.usedJSHeapSize };
}
"""
THUMBNAIL = re.compile(rb'\.t(\d+)\{background-image:url\("data:image/webp;base64,([^"]+)"\)\}')


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the gallery, open it, scroll it, and tell."""
    options = _parsed(arguments)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.perf_counter()
        index = _write(folder, options.pictures)
        found["built_seconds"] = time.perf_counter() - began
        found["page_bytes"] = index.stat().st_size
        found["sheet_bytes"] = sum(sheet.stat().st_size for sheet in (folder / "gallery").iterdir())
        found["sheets"] = len(list((folder / "gallery").iterdir()))
        found["ways"] = {"sheets": _measure(index, options)}
        if options.sprites:
            _into_sprites(folder / "gallery")
            found["ways"]["sprites"] = _measure(index, options)
    common.finish("gallery", found, _told(found), options)
    return 0


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    made = common.parser(__doc__)
    made.add_argument("--pictures", type=int, default=5_000)
    made.add_argument("--seconds", type=float, default=8.0, help="for which each order is scrolled")
    made.add_argument("--sprites", action="store_true", help="the same with thumbnails cut out of large pictures")
    options = common.parsed(made, arguments)
    if options.toy:
        options.pictures, options.seconds = min(options.pictures, 200), 0.5
    return options


def _write(folder: Path, pictures: int) -> Path:
    """The gallery of so many pictures, each its own file."""
    from gallery_world import row, write_gallery

    def draw(place: Path, one: dict[str, Any]) -> None:
        file = place / one["file"]
        file.parent.mkdir(parents=True, exist_ok=True)
        _picture(one["ordinal"]).save(file, quality=90)

    def rows() -> Iterator[dict[str, Any]]:
        for n in range(pictures):
            person, prompt = f"person-{n // PROMPTS:04d}", f"prompt-{n % PROMPTS}"
            size = {"width": 4 * SIZE[0], "height": 4 * SIZE[1]}
            yield row(n, person, prompt, file=f"{person}/{prompt}.jpg", **size)

    return write_gallery(folder, list(rows()), draw=draw)


def _picture(number: int) -> Image.Image:
    """Colours that run into each other, and fine noise: a thumbnail of it is as large as one of a photograph."""
    random = np.random.default_rng(number)
    coarse = Image.fromarray(random.integers(0, 255, (5, 4, 3), dtype=np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
    noise = random.normal(0, 9, (SIZE[1], SIZE[0], 1))
    return Image.fromarray(np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8))


def _measure(index: Path, options: argparse.Namespace) -> dict[str, Any]:
    from chromium import ARGUMENTS, chromium_binary  # the tests' own browser

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_binary(), args=ARGUMENTS)
        page = browser.new_context(viewport=VIEW).new_page()
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})  # what it computes, not what it waits for
        began = time.perf_counter()
        page.goto(index.as_uri())
        page.wait_for_function("document.querySelector('.tile .picture') && document.styleSheets.length > 1")
        shown = time.perf_counter() - began
        orders = {
            name: _scrolled(page, session, options.seconds, order)
            for name, order in (("asked", ""), ("likeness", "best"))
        }
        browser.close()
    return {"first_seconds": shown, **orders}


def _scrolled(page: Page, session: CDPSession, seconds: float, order: str) -> dict[str, Any]:
    before = _computed(session)
    raw = page.evaluate(SCROLL, {"seconds": seconds, "order": order})
    frames = sorted(raw["frames"])
    return {
        "computed_share": (_computed(session) - before) / seconds,
        "frames": len(frames),
        "median_ms": statistics.median(frames),
        "p95_ms": frames[int(0.95 * (len(frames) - 1))],
        "p99_ms": frames[int(0.99 * (len(frames) - 1))],
        "longest_ms": frames[-1],
        "over_50_ms": sum(frame > 50 for frame in frames),
        "long_tasks": len(raw["long"]),
        "longest_task_ms": max(raw["long"], default=0.0),
        "sorting_ms": raw["sorting"],
        "pixels": raw["pixels"],
        "nodes": raw["nodes"],
        "heap_bytes": raw["heap"],
    }


def _computed(session: CDPSession) -> float:
    """Seconds of a processor that the page's main thread has taken so far."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return float(next(one["value"] for one in metrics if one["name"] == "TaskDuration"))


def _into_sprites(folder: Path) -> None:
    """Put the thumbnails of each sheet side by side into one large picture, from which its rules cut them."""
    for sheet in sorted(folder.glob("*.css")):
        found = THUMBNAIL.findall(sheet.read_bytes())
        tiles = [Image.open(io.BytesIO(base64.b64decode(data))) for _, data in found]
        width, height = tiles[0].size
        across = min(20, len(tiles), LARGEST_SPRITE // width)
        down = -(-len(tiles) // across)
        whole = Image.new("RGB", (across * width, down * height))
        rules = []
        for place, ((number, _), tile) in enumerate(zip(found, tiles, strict=True)):
            x, y = place % across, place // across
            whole.paste(tile, (x * width, y * height))
            position = f"{100 * x / max(across - 1, 1):.4f}% {100 * y / max(down - 1, 1):.4f}%"
            cut = f"background-size:{100 * across}% {100 * down}%!important;background-position:{position}!important"
            rules.append(f".t{number.decode()}{{background-image:url({sheet.stem}.webp);{cut}}}\n")
        whole.save(sheet.with_suffix(".webp"), quality=74, method=4)
        sheet.write_text("".join(rules))


def _told(found: dict[str, Any]) -> str:
    head = (
        "thumbnails",
        "order",
        "frames",
        "median",
        "p95",
        "p99",
        "longest",
        "over 50 ms",
        "long tasks",
        "computing",
        "elements",
    )
    rows = [
        (
            way,
            order,
            one["frames"],
            *(f"{one[name]:.0f} ms" for name in ("median_ms", "p95_ms", "p99_ms", "longest_ms")),
            one["over_50_ms"],
            f"{one['long_tasks']} (longest {one['longest_task_ms']:.0f} ms)",
            f"{one['computed_share']:.0%}",
            one["nodes"],
        )
        for way, measured in found["ways"].items()
        for order, one in ((name, measured[name]) for name in ("asked", "likeness"))
    ]
    first = ", ".join(f"{way} {one['first_seconds']:.2f} s" for way, one in found["ways"].items())
    sizes = (
        f"page {found['page_bytes'] / 2**20:.1f} MiB, {found['sheets']} sheets {found['sheet_bytes'] / 2**20:.1f} MiB"
    )
    return f"{common.table(head, rows)}\n\nFirst thumbnails after: {first}. Files: {sizes}."


if __name__ == "__main__":
    raise SystemExit(main())

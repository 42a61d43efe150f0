"""What marking a picture costs beside writing it: encode, encode and sign, and with a watermark too.

    python bench/marking.py [--side 1024] [--watermark] [--out FOLDER]

Each format in turn, with a certificate that is made for the run (ES256). Milliseconds of a processor, so that a busy
machine changes little; the bytes that a signature adds; how many pictures a second four threads sign, as a worker's
recorder does. `--watermark` wants the extra
`watermark`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench import common
from jobs.settings import Settings
from worker.marking.marker import Marker
from worker.picture_file import MEDIA_TYPES, Format

THREADS = 4
RECORD = {
    **{name: 1 for name in ("steps", "guidance", "seed", "width", "height", "lora_weight")},
    **{name: "a" * 64 for name in ("model_fingerprint", "weight_set_fingerprint")},
    **{"final_prompt": "portrait photo of a person", "negative_prompt": "", "scheduler": "euler", "profile": "bench"},
}


def picture(side: int) -> Image.Image:
    """Soft shapes with grain, which compress about as portraits do."""
    noise = np.random.default_rng(1)
    small = Image.fromarray(noise.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    soft = np.asarray(small.resize((side, side), Image.Resampling.BICUBIC), np.int16)
    return Image.fromarray(np.clip(soft + noise.integers(-3, 4, soft.shape), 0, 255).astype(np.uint8))


def markers(home: Path, with_watermark: bool) -> dict[str, Marker]:
    """The ways to be compared, each ready."""
    asked: dict[str, dict[str, Any]] = {"encode": {"sign": "off"}, "encode and sign": {}}
    if with_watermark:
        asked["watermark, encode and sign"] = {"watermark": "on"}
    made = {name: Marker(Settings(home=home, **given), version="bench") for name, given in asked.items()}
    for marker in made.values():
        marker.check()
    return made


def measure(side: int, form: Format, made: dict[str, Marker], options: Any) -> dict[str, Any]:
    """One format at one size."""
    image = picture(side)

    def way(marker: Marker) -> Callable[[], float]:
        def act() -> float:
            began = time.process_time()
            marker.encode(image, RECORD, format=form)
            return time.process_time() - began

        return act

    turns = common.take_rounds({name: way(marker) for name, marker in made.items()}, options)
    sizes = {name: len(marker.encode(image, RECORD, format=form)[0]) for name, marker in made.items()}
    signs = made["encode and sign"]
    data, _ = made["encode"].encode(image, RECORD, format=form)
    count = 4 if options.toy else 64
    with ThreadPoolExecutor(THREADS) as pool:

        def sign_all() -> None:
            list(pool.map(lambda _: signs.sign(data, MEDIA_TYPES[form]), range(count)))

        seconds = common.take_rounds({"sign": sign_all}, options).spread("sign")
    return {
        "side": side,
        "format": form,
        "milliseconds": {name: turns.spread(name).scaled(1000) for name in made},
        "times_as_long": turns.faster("encode", "encode and sign"),
        "bytes": sizes["encode"],
        "bytes_added": sizes["encode and sign"] - sizes["encode"],
        "signed_per_second_by_threads": seconds.inverse(count),
    }


def markdown(found: Sequence[dict[str, Any]]) -> str:
    """The table of a result."""
    ways = list(found[0]["milliseconds"])
    head = (
        "side",
        "format",
        *(f"{way}, CPU ms" for way in ways),
        "signed / plain",
        "kB",
        "added",
        f"signs/s, {THREADS} threads",
    )
    rows = [
        (
            one["side"],
            one["format"],
            *(one["milliseconds"][way].told(1) for way in ways),
            one["times_as_long"].told(2),
            f"{one['bytes'] / 1000:.0f}",
            f"{one['bytes_added'] / 1000:.1f} kB",
            one["signed_per_second_by_threads"].told(0),
        )
        for one in found
    ]
    return common.table(head, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every format at a demo's size and at the asked one."""
    made = common.parser(__doc__, repeat=15)
    made.add_argument("--side", type=int, default=1024)
    made.add_argument("--watermark", action="store_true")
    options = common.parsed(made, arguments)
    sides = (64,) if options.toy else (64, options.side)
    with tempfile.TemporaryDirectory() as home:
        ready = markers(Path(home), options.watermark)
        found = [measure(side, form, ready, options) for side in sides for form in ("png", "jpeg", "webp")]
    common.finish("marking", {"files": found}, markdown(found), options)


if __name__ == "__main__":
    main()

"""Jobs to show in a gallery, without a database: rows as the view `render_metrics` has them, and their files."""

from __future__ import annotations

import colorsys
import hashlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from jobs.gallery import FolderGallery, Head
from jobs.gallery.data import SECONDS
from jobs.orm import new_id, utcnow

Row = dict[str, Any]
HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"> & \u2028 '\"`"


def head(rows: Sequence[Row], **changes: Any) -> Head:
    """What stands above these rows."""
    states = [row["state"] for row in rows]
    counts = {name: states.count(name) for name in ("done", "failed", "waiting", "cancelled")}
    told: dict[str, Any] = {
        "job_id": str(new_id()),
        "key": "team-page-2026",
        "name": "Team page 2026",
        "profile": "mini",
        "state": "partial" if counts["failed"] else "done",
        "people": len({row["identity_id"] for row in rows}),
        "counts": {"renders": len(rows), **counts},
        "made_at": utcnow(),
    }
    return Head(**{**told, **changes})


def row(ordinal: int, who: str, prompt: str, **changes: Any) -> Row:
    """One finished picture; its likeness and seed follow from its place."""
    own: Row = {
        "render_id": new_id(),
        "identity_id": uuid.uuid5(uuid.NAMESPACE_OID, who),
        "ordinal": ordinal,
        "external_id": who,
        "prompt_name": prompt,
        "prompt": f"portrait photo of {who}, {prompt}",
        "final_prompt": f"portrait photo of trigger words {who}, {prompt}",
        "negative_prompt": "blurry",
        "state": "done",
        "seed": 1_000 + ordinal,
        "drawn_seed": None,
        "draws": 1,
        "width": 96,
        "height": 128,
        "output_width": None,
        "output_height": None,
        "steps": 20,
        "guidance": 5.0,
        "scheduler": "euler",
        "lora_weight": 0.8,
        "error_code": None,
        "error": None,
        "id_similarity": round(0.3 + (ordinal * 37 % 100) / 200, 4),
        "id_similarity_reason": None,
        "recogniser": "antelopev2",
        "finished_at": utcnow(),
        "device": "cpu",
        "model_fingerprint": "a" * 64,
        "weight_set_fingerprint": "b" * 64,
        "storage_key": f"{who}/{prompt}-{ordinal}.png",
        "size_bytes": None,
        "sha256": None,
        "media_type": "image/png",
        "options": None,
        "file": f"{ordinal}/{prompt}.png",
        "further": [],
        **{f"seconds_{name}": 0.25 for name in SECONDS},
    }
    return {**own, **changes}


def failed(ordinal: int, who: str, prompt: str, **changes: Any) -> Row:
    """A picture that was not drawn, with its reason."""
    why = {"state": "failed", "error_code": "no_face", "error": "no face was found in any of the photos"}
    nothing = {"storage_key": None, "file": None, "id_similarity": None, "finished_at": None}
    return row(ordinal, who, prompt, **{**why, **nothing, **changes})


def job(people: Sequence[str], prompts: Sequence[str], seeds: int = 1) -> Iterator[Row]:
    """Every person with every prompt; each seventh picture failed."""
    ordinal = 0
    for who in people:
        for prompt in prompts:
            for _ in range(seeds):
                yield (failed if ordinal % 7 == 6 else row)(ordinal, who, prompt)
                ordinal += 1


def picture(number: int, size: tuple[int, int] = (96, 128)) -> Image.Image:
    """Somebody drawn in a colour of their own."""
    width, height = size
    backdrop, clothes = (
        tuple(round(255 * part) for part in colorsys.hsv_to_rgb(number * 0.381966 % 1, *rest))
        for rest in ((0.45, 0.72), (0.7, 0.5))
    )
    image = Image.new("RGB", size, backdrop)
    pen = ImageDraw.Draw(image)
    pen.ellipse((width * 0.12, height * 0.62, width * 0.88, height * 1.3), fill=clothes)
    pen.ellipse((width * 0.29, height * 0.17, width * 0.71, height * 0.68), fill=(238, 205, 180))
    for x in (0.42, 0.58):
        pen.ellipse((width * (x - 0.03), height * 0.38, width * (x + 0.03), height * 0.43), fill=(45, 40, 40))
    pen.arc((width * 0.41, height * 0.46, width * 0.59, height * 0.58), 20, 160, fill=(150, 70, 70), width=3)
    return image


def draw_file(folder: Path, one: Row, size: tuple[int, int] = (96, 128)) -> None:
    """Put the row's picture where it says."""
    if not one["file"]:
        return
    file = folder / one["file"]
    file.parent.mkdir(parents=True, exist_ok=True)
    picture(one["ordinal"], size).save(file)
    one["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    one["size_bytes"] = file.stat().st_size


def write_gallery(
    folder: Path, rows: Sequence[Row], *, draw: Callable[[Path, Row], None] = draw_file, **changes: Any
) -> Path:
    """Draw these pictures into a folder, with their gallery; returns the page to open."""
    folder.mkdir(parents=True, exist_ok=True)
    gallery = FolderGallery(folder, head(rows, **changes))
    for one in rows:
        draw(folder, one)
        gallery.add(one)
    return gallery.close()

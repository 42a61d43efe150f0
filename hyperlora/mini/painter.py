"""One portrait of one person: the recipe, back to front."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
from PIL import Image

from hyperlora.mini.accessory import paint_accessory
from hyperlora.mini.anatomy import anatomy
from hyperlora.mini.attributes import Attributes, caption
from hyperlora.mini.background import paint_background
from hyperlora.mini.beard import paint_beard
from hyperlora.mini.canvas import Canvas
from hyperlora.mini.clothing import paint_clothing
from hyperlora.mini.face import paint_features
from hyperlora.mini.hair import paint_bun, paint_hair
from hyperlora.mini.haircut import back_sheets, front_sheets
from hyperlora.mini.landmarks import landmarks
from hyperlora.mini.people import Person
from hyperlora.mini.pose import Pose, draw_pose
from hyperlora.mini.skin import paint_head, paint_neck, sheen
from hyperlora.mini.style import in_style

LARGEST = 768


def portrait(
    person: Person,
    attributes: Attributes | Mapping[str, str] | None = None,
    seed: int = 0,
    *,
    size: int = 256,
    pose: Pose | None = None,
) -> Image.Image:
    """Draw the person as an RGB picture of `size` x `size` pixels; the same arguments give the same pixels.

    `attributes` says what a prompt could say; `seed` draws what nobody says: pose, light, details of the background.
    A pose may be given instead; its `size` must be the picture's.
    `image.info` holds "caption" (str), "labels" (dict: person's seed, subject, features and the attributes) and
    "landmarks" ((106, 2) float32, pixels, InsightFace's order).
    Raises `ValueError` for an unknown attribute or word, and for a size outside 64..768.
    """
    if not 64 <= size <= LARGEST:
        raise ValueError(f"size must be from 64 to {LARGEST} pixels, not {size}")
    said = Attributes.of(attributes)
    stance = pose or draw_pose(seed, size)
    if stance.size != size:
        raise ValueError(f"the pose is for {stance.size} pixels, the picture for {size}")
    face = anatomy(person, said.expression)
    canvas = Canvas(size)
    paint_background(canvas, said.background, seed)
    paint_hair(canvas, person, stance, back_sheets(person), "back")
    if person.hair_cut == "bun" and said.accessory not in ("beanie", "straw hat"):
        paint_bun(canvas, person, stance)
    paint_neck(canvas, person, stance)
    paint_clothing(canvas, person, said, stance)
    skin = paint_head(canvas, person, face, stance)
    paint_features(canvas, person, face, stance, skin)
    sheen(canvas, stance, skin)
    paint_beard(canvas, person, face, stance, skin)
    paint_hair(canvas, person, stance, front_sheets(person), "front", skin)
    paint_accessory(canvas, person, face, said, stance, seed)
    rgb = in_style(canvas.pixels(), said.style, seed)
    image = Image.fromarray(np.clip(np.rint(rgb), 0, 255).astype(np.uint8), "RGB")
    image.info["caption"] = caption(person, said)
    image.info["labels"] = {
        "person": person.seed,
        "subject": person.subject,
        "features": asdict(person),
        **said.labels(),
    }
    image.info["landmarks"] = landmarks(face, stance).astype(np.float32)
    return image

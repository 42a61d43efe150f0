"""The picture as a file: PNG with its making written inside.

The text chunk `parameters` is what image tools of this field read and write; the chunk `portraits` holds the same
and more as JSON, with the times and the ID similarity known before the file is written. Pixels are the same at each
drawing of one render; bytes are not, since times differ.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

from PIL.Image import Image
from PIL.PngImagePlugin import PngInfo

SAMPLER_NAMES = {"dpmpp_2m_karras": "DPM++ 2M Karras", "euler": "Euler"}


def parameters_text(record: Mapping[str, Any]) -> str:
    """The record as the three-line `parameters` text: prompt, negative prompt, settings."""
    settings = {
        "Steps": record["steps"],
        "Sampler": SAMPLER_NAMES.get(record["scheduler"], record["scheduler"]),
        "CFG scale": f"{record['guidance']:g}",
        "Seed": record["seed"],
        "Size": f"{record['width']}x{record['height']}",
        "Model hash": str(record["model_fingerprint"])[:10],
        "Model": record["profile"],
        "Lora hashes": f'"hyperlora: {str(record["weight_set_fingerprint"])[:12]}"',
        "Lora weight": f"{record['lora_weight']:g}",
    }
    lines = [str(record["final_prompt"])]
    if record["negative_prompt"]:
        lines.append(f"Negative prompt: {record['negative_prompt']}")
    lines.append(", ".join(f"{name}: {value}" for name, value in settings.items()))
    return "\n".join(lines)


def encode_png(image: Image, record: Mapping[str, Any]) -> bytes:
    """The picture as PNG bytes with both text chunks; compressed lightly, since drawing must not wait for zlib."""
    info = PngInfo()
    info.add_itxt("parameters", parameters_text(record))
    info.add_itxt("portraits", json.dumps(dict(record), sort_keys=True, ensure_ascii=False))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=info, compress_level=4)
    return buffer.getvalue()

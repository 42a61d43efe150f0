"""The folder that fuzzed manifests lie in: good photos, and everything that must not be read beside them."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any

from PIL import Image

PATHS = [
    *("a.jpg", "b.png", "sub/c.webp", "./a.jpg", "sub/../a.jpg", "inside.png", "mask.png"),
    *(
        "../outside/kept-back.png",
        "out.png",
        "out/kept-back.png",
        "pipe.png",
        "null.png",
        "zero.png",
        "sub",
        "empty.png",
    ),
    *(
        "text.png",
        "bomb.png",
        "loop.png",
        "none.png",
        "/etc/passwd",
        "~/.ssh/id_rsa",
        "",
        ".",
        "/",
        "a.jpg/",
        "a.jpg\0",
    ),
    *(
        "file:///etc/passwd",
        "http://127.0.0.1:1/a.png",
        "s3://bucket/key",
        "s3://",
        "s3://../../x",
        "C:\\a.jpg",
        "\\\\h\\a",
    ),
    *(
        "x" * 5_000,
        "a/" * 500,
        "/proc/self/environ",
        "/dev/stdin",
        "set.yaml",
        "again.yaml",
        "kept-back.yaml",
        "sub/é.png",
    ),
]
BASE: dict[str, Any] = {
    "tenant": "acme",
    "key": "spring",
    "name": "The studio",
    "profile": "mini",
    "priority": 1,
    "defaults": {
        "size": 64,
        "steps": 2,
        "outputs": [{"format": "png"}, {"name": "small", "format": "jpeg", "size": 48}],
    },
    "sliders": {"laugh": {"edited": "alan", "original": "hedy"}},
    "prompts": [
        {"name": "office", "text": "portrait of {subject}, {age}", "seeds": [1, 2], "negative_prompt": "blurry"},
        {"name": "laughing", "text": "{subject}", "sliders": {"laugh": 1.2}, "base_weight": 0.4, "attempts": 2},
        {"set": "set.yaml"},
    ],
    "identities": [
        {"id": "ada", "subject": "a woman", "age": "30", "photos": ["a.jpg", {"file": "sub/c.webp", "face": 0}]},
        {
            "id": "alan",
            "subject": "a man",
            "age": "40",
            "fields": {"mood": "happy"},
            "photos": ["b.png"],
            "consent": "form 12",
            "prompts": [
                {"name": "own", "text": "{subject}", "image": {"file": "a.jpg", "strength": 0.6}},
                {"name": "new", "text": "{subject}", "inpaint": {"file": "a.jpg", "mask": "mask.png", "strength": 1}},
            ],
        },
        {"id": "hedy", "photos": ["inside.png"], "draw": False},
        {"id": "both", "subject": "people", "age": "x", "identity": {"mix": {"ada": 1, "alan": 0.5}}},
        {
            "id": "beside",
            "subject": "two people",
            "age": "x",
            "identity": {"together": {"ada": [0, 0, 0.5, 1], "alan": {"region": [0.5, 0, 1, 1], "prompt": "a man"}}},
        },
    ],
}


def lay_out(home: Path) -> Path:
    """Make the folder `in` with all of it; returns it."""
    folder, outside = home / "in", home / "outside"
    (folder / "sub").mkdir(parents=True)
    outside.mkdir()
    for number, name in enumerate(("a.jpg", "b.png", "sub/c.webp", "mask.png", "sub/é.png")):
        Image.new("RGB", (64, 64), (40 * number, 80, 120)).save(folder / name)
    Image.new("RGB", (64, 64), "red").save(outside / "kept-back.png")
    (outside / "kept-back.yaml").write_text("- {name: secret, text: secret}\n")
    (folder / "set.yaml").write_text("- {name: beach, text: '{subject} on a beach'}\n")
    (folder / "again.yaml").write_text("prompts:\n- {set: again.yaml}\n")
    (folder / "job.yaml").write_text("defaults: {size: 64, steps: 2}\nprompts:\n- {name: office, text: 'a portrait'}\n")
    links = {"inside.png": "a.jpg", "out.png": "../outside/kept-back.png", "out": "../outside", "loop.png": "loop.png"}
    links |= {"null.png": "/dev/null", "zero.png": "/dev/zero", "kept-back.yaml": "../outside/kept-back.yaml"}
    for name, target in links.items():
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "pipe.png")
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("no picture")
    (folder / "bomb.png").write_bytes(_bomb())
    return folder


def _bomb() -> bytes:
    """A PNG of some kilobytes that tells 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 6, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 10_000_000))
        + chunk(b"IEND", b"")
    )

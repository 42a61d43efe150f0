"""What a picture is said to show: its own words, or a template's with what is known of it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hyperlora.errors import InvalidRequest

MOST_CHARACTERS = 2000
DEFAULT_TEMPLATE = "a portrait of a person"
_SLOT = re.compile(r"\{([^{}]*)\}")
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def check_templates(templates: Sequence[str]) -> None:
    """Refuse templates with braces that are no `{name}`. Raises `InvalidRequest`."""
    for template in templates:
        slots = _SLOT.findall(template)
        if not all(re.fullmatch(r"\w+", slot) for slot in slots) or re.search(r"[{}]", _SLOT.sub("", template)):
            raise InvalidRequest(f"in a template {{name}} stands for a label, found {template!r}")
        if not template.strip():
            raise InvalidRequest("a template must say something, found an empty one")


def tidy(text: str) -> str:
    """On one line, without characters that show nothing, cut after 2,000."""
    return " ".join(_UNSEEN.sub(" ", text).split())[:MOST_CHARACTERS].rstrip()


def own_caption(written: str, facts: Mapping[str, Any]) -> str:
    """The caption file's words, else `caption` of the picture's `.json`; empty where there are none."""
    told = facts.get("caption")
    return tidy(written) or (tidy(told) if isinstance(told, str) else "")


def templated(templates: Sequence[str], labels: Mapping[str, object], key: str) -> str:
    """One of the templates, the same for the same key, filled with labels.

    Templates that ask for labels which the picture does not have are left out; empty where none remains.
    """
    fitting = [template for template in templates if all(slot in labels for slot in _SLOT.findall(template))]
    if not fitting:
        return ""
    chosen = fitting[int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % len(fitting)]
    return tidy(_SLOT.sub(lambda slot: str(labels[slot[1]]), chosen))

"""A page as one HTML file: data, style and script inside, and nothing that anybody wrote is ever markup or code.

Names, prompts and reasons are hostile text. They stand in a block of JSON, in which no `<` is left, and the script puts
them into the page as text. The page's own policy lets run only this script and only this style, by their hashes; what
else it may load is thumbnails and pictures from the places its links name.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined

CONTENT_TYPE = "text/html; charset=utf-8"
SCRIPTS = ("model.js", "grid.js", "detail.js", "main.js")
STYLES = ("base.css", "grid.css", "detail.css")
_JSON_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


@dataclass(frozen=True)
class Links:
    """Where a page finds its files. Addresses are relative to the page, unless they are signed.

    `pictures`: the folder that files of pictures are relative to; "" is the page's own, None says that there is none.
    `serve`: the address of `portraits serve`, which shows full pictures where files cannot be linked to.
    `back`: the page of the job, where the gallery is served; a stored page leads nowhere back.
    `expires_at` in ISO 8601, for people and for the page's clock; `renew` is the command that signs anew.
    """

    sheets: Sequence[str]
    pictures: str | None
    previous: str | None = None
    next: str | None = None
    serve: str | None = None
    back: str | None = None
    expires_at: str | None = None
    renew: str | None = None

    def signed(self) -> list[str]:
        """Every address here that carries a signature."""
        named = (*self.sheets, self.previous, self.next)
        return [] if self.expires_at is None else [address for address in named if address]


def render(data: Mapping[str, Any], links: Links) -> bytes:
    """The page of these data, `PageData.as_data()`, with these links."""
    head = data["head"]
    script, style = _text(SCRIPTS), _text(STYLES)
    html: str = _template().render(
        title=head["name"] or f"Job {head['key']}",
        head=head,
        policy=_policy(script, style, links),
        data=json_block(data),
        links=json_block(vars(links)),
        script=script,
        style=style,
    )
    return html.encode("utf-8")


def policy_of(links: Links) -> str:
    """What a page with these links may load and run, for whoever serves it with headers of its own."""
    return _policy(_text(SCRIPTS), _text(STYLES), links)


def json_block(value: Any) -> str:
    """JSON that may stand between <script> tags: none of its characters ends the block or opens another."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character, escape in _JSON_ESCAPES.items():
        text = text.replace(character, escape)
    # What no encoding can hold: half a pair, from a name that was cut somewhere.
    return text.encode("utf-8", "replace").decode("utf-8")


def _policy(script: str, style: str, links: Links) -> str:
    sources = " ".join(sorted({_source(address) for address in links.sheets})) or "'none'"
    pictures = "data:" if links.pictures is None else f"data: {_source(links.pictures)}"
    rules = {
        "default-src": "'none'",
        "script-src": _hash(script),
        "style-src": f"{_hash(style)} {sources}" if links.sheets else _hash(style),
        "img-src": pictures,
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _source(address: str) -> str:
    """Where this address may be loaded from, as a policy says it."""
    parts = urlsplit(address)
    if parts.scheme in {"http", "https"}:
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return "file:" if parts.scheme == "file" else "'self' file:"


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
    return f"'sha256-{digest}'"


@cache
def _text(names: tuple[str, ...]) -> str:
    """These files, one after the other; scripts share one scope, which is theirs alone."""
    folder = resources.files("jobs.gallery") / "static"
    text = "\n".join((folder / name).read_text(encoding="utf-8") for name in names)
    return f'(() => {{\n"use strict";\n{text}\n}})();' if names is SCRIPTS else text


@cache
def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("jobs.gallery", "static"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")

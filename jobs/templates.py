"""Prompts as templates: `{field}` and nothing more.

`str.format` would let a manifest reach into objects (`{subject.__class__}`, `{0[key]}`, `{age:>99999999}`), so
templates are parsed here: a name between braces is replaced by the field's text, `{{` and `}}` stand for the braces
themselves, and everything else between braces is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

MAX_PROMPT_CHARACTERS = 4000
# Letters, digits, spaces, _ and -: the headings of a spreadsheet may be used as they are.
FIELD_NAME = re.compile(r"[^\W\d](?:[\w -]{0,62}\w)?")
_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class TemplateFault(ValueError):
    """A template cannot be read, or cannot be filled; the message says why and what to do."""


@dataclass(frozen=True)
class Template:
    """A parsed template: texts and fields alternate, the first and the last are texts. `texts` is one longer."""

    texts: tuple[str, ...]
    names: tuple[str, ...]

    @property
    def fields(self) -> frozenset[str]:
        """The names of the fields that must be known."""
        return frozenset(self.names)

    def missing(self, known: Mapping[str, str]) -> list[str]:
        """The fields that nobody gave, in the order of their first use."""
        return [name for name in dict.fromkeys(self.names) if name not in known]

    def length(self, values: Mapping[str, str]) -> int:
        """Characters of the filled template, without filling it."""
        return sum(map(len, self.texts)) + sum(len(values[name]) for name in self.names)

    def fill(self, values: Mapping[str, str]) -> str:
        """The prompt. Every field must be known; what a value holds is never read as a template again."""
        if not self.names:
            return self.texts[0]
        parts = [self.texts[0]]
        for name, text in zip(self.names, self.texts[1:], strict=True):
            parts += (values[name], text)
        return "".join(parts)


def parse_template(text: str) -> Template:
    """Parse `text`; runs of white space become one space, as they are one to the text encoder.

    Raises `TemplateFault` for a lone brace, and for anything between braces that is not a field's name.
    """
    text = " ".join(text.split())
    texts, names, literal, position = [], [], "", 0
    for token in _TOKEN.finditer(text):
        literal += text[position : token.start()]
        position = token.end()
        if token.group() in ("{{", "}}"):
            literal += token.group()[0]
            continue
        name = token.group(1)
        if name is None:
            raise TemplateFault(
                f"a lone {token.group()!r} at character {token.start() + 1}; "
                f"write {token.group() * 2!r} for the brace itself"
            )
        if not FIELD_NAME.fullmatch(name):
            raise TemplateFault(
                f"{token.group()[:60]!r} at character {token.start() + 1} is not a field; "
                "only {name} is allowed, where name is letters, digits, spaces, _ and -"
            )
        texts.append(literal)
        names.append(name)
        literal = ""
    texts.append(literal + text[position:])
    return Template(tuple(texts), tuple(names))

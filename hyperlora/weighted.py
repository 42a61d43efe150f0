"""Texts in compel's syntax: read and checked here, and turned into what the UNet reads by compel itself.

A part is a text whose words carry weights: `a portrait of a (red scarf)1.4, crowd-`. Several parts are blended into
one, `("a fox", "an owl").blend(0.7, 0.3)`, or stand one after the other, `("a fox", "a snowy wood").and()`.

compel's rules for the numbers: above 1 a word's embedding moves away from the empty text's, below 1 the whole text
moves towards the one in which the word is masked.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch

from hyperlora.errors import PromptSyntax

MAX_DEPTH = 8
"""Parentheses within parentheses; compel's parser goes down the stack with each."""

MAX_WEIGHT = 10.0
"""Weights beyond this are a slip of the keyboard; 0 to 2 is usual."""

# What stands right behind a closing parenthesis: a number, or what looks like one.
_NUMBER_BEHIND = re.compile(r"(?<!\\)\)((?:[-+]?(?:\d|\.\d)|[-+]?(?:nan|inf)\b)[^\s,;:)(\]\"']*)", re.IGNORECASE)
_NUMBER = re.compile(r"\d*\.?\d+|\d+\.")
_OPERATOR = re.compile(r"\.(?:attend|blend|and|add|swap)\s*\(")
_LIST_OPERATOR = re.compile(r"\.(?:blend|and|add)\s*\(")


@dataclass(frozen=True)
class WeightedText:
    """A text that compel has read; `parts` are (texts of the blend, their shares, 1 in sum) in order.

    `plain` is the text without the syntax where nothing in it is weighted or blended, else None.
    """

    conjunction: Any
    parts: tuple[tuple[tuple[tuple[str, ...], ...], tuple[float, ...]], ...]
    plain: str | None

    def chunks(self, count: Callable[[str], int], room: int) -> int:
        """How many chunks the embedding has: `count(text)` gives tokens, `room` is how many fit into a chunk."""
        return sum(
            max(max(1, -(-sum(count(fragment) for fragment in text) // room)) for text in texts)
            for texts, _ in self.parts
        )

    @property
    def pooled(self) -> tuple[tuple[str, float], ...]:
        """The texts whose pooled vectors stand for the whole, with their shares: those of the first part."""
        texts, shares = self.parts[0]
        return tuple((" ".join(text), share) for text, share in zip(texts, shares, strict=True))

    def embed(self, tokenizer: Any, text_encoder: Any) -> torch.Tensor:
        """The penultimate hidden states of one encoder with the weights applied, (77 * chunks, width)."""
        from compel import Compel, ReturnedEmbeddingsType, SplitLongTextMode

        compel = Compel(
            tokenizer,
            text_encoder,
            truncate_long_prompts=False,
            returned_embeddings_type=ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED,
            # Chunks as for a text without weights.
            split_long_text_mode=SplitLongTextMode.BRUTAL,
        )
        embedded_1TC: torch.Tensor = compel.build_conditioning_tensor_for_conjunction(self.conjunction)[0]
        if not torch.isfinite(embedded_1TC).all():
            raise PromptSyntax("the weights in the prompt are so large that numbers overflow; 0 to 2 is usual")
        return embedded_1TC[0]


@lru_cache(maxsize=256)
def parse(text: str) -> WeightedText:
    """Read a text in compel's syntax.

    Raises `PromptSyntax` where it cannot be read, and for what would be silently dropped: text around a list of
    parts, operators in the wrong place, `.swap()` and LoRAs.
    """
    _check_parentheses(text)
    _check_numbers(text)
    try:
        conjunction = _parser().parse_conjunction(text)
        operands = _operands(text)
        if operands is not None:
            _parser().conjunction.parse_string(text.strip(), parse_all=True)
    except RecursionError as error:
        raise PromptSyntax("the weighted prompt is nested too deeply") from error
    except _parse_errors() as error:
        raise PromptSyntax(f"the weighted prompt cannot be read: {error}; found {text[:200]!r}") from error
    if conjunction.lora_weights:
        raise PromptSyntax("a weighted prompt cannot name LoRAs (withLora, useLora); give them beside the prompt")
    parts = tuple(_part(prompt) for prompt in conjunction.prompts) or ((((),), (1.0,)),)
    return WeightedText(conjunction, parts, _plain(conjunction))


def _check_numbers(text: str) -> None:
    """Refuse numbers that compel would read in part, taking the rest for a word: `(red)1e3`, `(red)-2`, `(red)nan`."""
    for found in _NUMBER_BEHIND.finditer(text):
        number = found.group(1).rstrip(".!?")
        if not _NUMBER.fullmatch(number) or not float(number) <= MAX_WEIGHT:
            raise PromptSyntax(
                f"wanted a weight from 0 to {MAX_WEIGHT:g}, written like 1.3, behind the parenthesis, "
                f"found {number[:40]!r}"
            )


def with_words(text: str, words: str, present: re.Pattern[str]) -> str:
    """Put words in front of a text that has no match for `present`; in a list of parts, in front of each such part."""
    operands = _operands(text)
    if operands is None:
        if present.search(text):
            return text
        return f"{words}, {text}" if text.strip() else words
    pieces, end = [], 0
    for start, stop in operands:
        part = text[start:stop]
        opening = part[0] if part[:1] in ('"', "(") else ""
        if not present.search(part):
            # A bare word must be quoted to become several.
            part = f"{opening}{words}, {part[1:]}" if opening else f'"{words}, {part}"'
        pieces += [text[end:start], part]
        end = stop
    return "".join([*pieces, text[end:]])


@cache
def _parser() -> Any:
    import pyparsing
    from compel.prompt_parser import PromptParser

    # Without its memory of what it tried, the parser takes four times as long with every further parenthesis.
    pyparsing.ParserElement.enable_packrat(cache_size_limit=None)
    return PromptParser()


def _parse_errors() -> tuple[type[Exception], ...]:
    from compel.prompt_parser import PromptParser
    from pyparsing import ParseBaseException

    # What compel's own constructors raise for arguments that are no numbers, or too few or too many of them.
    return (ParseBaseException, PromptParser.ParsingException, ValueError, TypeError, IndexError, AssertionError)


def _check_parentheses(text: str) -> None:
    depth = 0
    for character in re.sub(r"\\.", "", text):
        depth += (character == "(") - (character == ")")
        if depth > MAX_DEPTH:
            raise PromptSyntax(f"a weighted prompt may have {MAX_DEPTH} parentheses in each other, found more")
        if depth < 0:
            break
    if depth:
        raise PromptSyntax(
            f"the parentheses of a weighted prompt must be in pairs, found {text[:200]!r}; "
            r"write \( and \) where they are part of the text"
        )


def _operands(text: str) -> list[tuple[int, int]] | None:
    """Where the parts of a list begin and end, without the spaces around them; None where the text is no list."""
    if not text.lstrip().startswith("("):
        return None
    opening = text.index("(")
    found: list[tuple[int, int]] = []
    start, depth, quoted, position = opening + 1, 1, False, opening + 1
    while position < len(text):
        character = text[position]
        if character == "\\":
            position += 1
        elif character == '"':
            quoted = not quoted
        elif not quoted:
            depth += (character == "(") - (character == ")")
            if depth == 0 or (depth == 1 and character == ","):
                found.append(_stripped(text, start, position))
                start = position + 1
            if depth == 0:
                return found if _LIST_OPERATOR.match(text, position + 1) else None
        position += 1
    return None


def _stripped(text: str, start: int, stop: int) -> tuple[int, int]:
    part = text[start:stop]
    return start + len(part) - len(part.lstrip()), stop - len(part) + len(part.rstrip())


def _part(prompt: Any) -> tuple[tuple[tuple[str, ...], ...], tuple[float, ...]]:
    """Check one part of the conjunction and take its texts and shares out."""
    from compel.prompt_parser import Blend

    if not isinstance(prompt, Blend):
        return (_fragments(prompt),), (1.0,)
    texts = tuple(_fragments(text) for text in prompt.prompts)
    total = sum(prompt.weights) if prompt.normalize_weights else 1.0
    if total == 0:
        raise PromptSyntax(f"the weights of .blend() must not add up to 0, found {prompt.weights}")
    return texts, tuple(weight / total for weight in prompt.weights)


def _fragments(prompt: Any) -> tuple[str, ...]:
    if prompt.wants_cross_attention_control:
        raise PromptSyntax("a weighted prompt cannot have .swap(); draw two pictures instead")
    fragments = tuple(child.text for child in prompt.children)
    stray = _OPERATOR.search(" ".join(fragments))
    if stray is not None:
        raise PromptSyntax(
            f"the weighted prompt cannot be read at {stray[0]!r}: .attend() wants a number or signs, .blend() and "
            '.and() want the whole prompt to be a list such as ("a fox", "an owl").blend(0.7, 0.3)'
        )
    return fragments


def _plain(conjunction: Any) -> str | None:
    from compel.prompt_parser import FlattenedPrompt

    if not conjunction.prompts:
        return ""
    only = conjunction.prompts[0]
    if len(conjunction.prompts) > 1 or conjunction.weights != [1.0] or not isinstance(only, FlattenedPrompt):
        return None
    if any(child.weight != 1.0 for child in only.children):
        return None
    return " ".join(child.text for child in only.children)

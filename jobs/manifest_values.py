"""The scalars of a manifest, each with what it refuses and the words for it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator

from jobs.located import MAX_INTEGER
from jobs.options import MAX_NAME, MAX_OUTPUT_SIDE, slug

MAX_COUNTED_SEEDS = 1000
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_NUMERAL = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_SIZE = re.compile(r"([0-9]{1,6})\s*[xX×]\s*([0-9]{1,6})")


@dataclass(frozen=True)
class Seeds:
    """Either the seeds themselves, or how many to derive."""

    count: int
    given: tuple[int, ...] | None = None


def as_text(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise ValueError("wanted a text")
    value = value.strip()
    found = _CONTROL.search(value)
    if found:
        raise ValueError(f"the text holds the control character U+{ord(found.group()):04X}; remove it")
    return value


def _one_line(value: str) -> str:
    if "\n" in value or "\t" in value:
        raise ValueError("the text has several lines or tabs; write it on one line")
    return value


def _sides(value: Any) -> tuple[int, int]:
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        value = [int(match.group(1)), int(match.group(2))]
    if isinstance(value, int) and not isinstance(value, bool):
        value = [value, value]
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(type(side) is int for side in value):
        raise ValueError("wanted 1024x768, [1024, 768] or 1024")
    return value[0], value[1]


def _size(value: Any) -> tuple[int, int]:
    sides = _sides(value)
    if any(side < 64 or side % 8 for side in sides):
        raise ValueError("wanted sides of at least 64 pixels that are multiples of 8")
    return sides


def _file_size(value: Any) -> tuple[int, int]:
    sides = _sides(value)
    if any(not 16 <= side <= MAX_OUTPUT_SIDE for side in sides):
        raise ValueError(f"wanted sides of 16 to {MAX_OUTPUT_SIDE} pixels")
    return sides


def _seeds(value: Any) -> Seeds:
    if type(value) is int:
        if not 1 <= value <= MAX_COUNTED_SEEDS:
            raise ValueError(
                f"a number counts the seeds to derive, 1 to {MAX_COUNTED_SEEDS}; "
                f"the one seed {value} is written [{value}]"
            )
        return Seeds(value)
    if not isinstance(value, list | tuple) or not value or not all(type(seed) is int for seed in value):
        raise ValueError("wanted a number of seeds, or a list of seeds such as [1, 2, 3]")
    if any(not 0 <= seed <= MAX_INTEGER for seed in value):
        raise ValueError(f"wanted seeds from 0 to {MAX_INTEGER}")
    if len(set(value)) != len(value):
        raise ValueError("a seed stands twice in the list; the pictures would be the same")
    return Seeds(len(value), tuple(value))


def _number(value: Any) -> Any:
    if isinstance(value, str) and _NUMERAL.fullmatch(value.strip()):
        raise ValueError("wanted a number, found a text; leave the quotes away")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("wanted a number")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("wanted true or false")
    return value


Text = Annotated[str, BeforeValidator(as_text)]
Line = Annotated[Text, AfterValidator(_one_line)]
Slug = Annotated[Line, Field(max_length=MAX_NAME), AfterValidator(slug)]
Size = Annotated[tuple[int, int], PlainValidator(_size)]
FileSize = Annotated[tuple[int, int], PlainValidator(_file_size)]
SeedList = Annotated[Seeds, PlainValidator(_seeds)]
Whole = Annotated[int, BeforeValidator(_number)]
Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Flag = Annotated[bool, PlainValidator(_flag)]
FileName = Annotated[Line, Field(min_length=1, max_length=1000)]
PartName = Annotated[Line, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]


class Strict(BaseModel):
    """A mapping of which every key is known."""

    model_config = ConfigDict(extra="forbid", frozen=True)

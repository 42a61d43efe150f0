"""What a manifest may say, as pydantic models; every unknown key is refused.

A prompt's settings come from the nearest place that gives them: the prompt, the `defaults` of its set's file, the
`defaults` of the job, what the profile draws by default, and at last the values in `DEFAULTS`.

- `size`: `128x128`, `[width, height]` or one number for both; multiples of 8, from 64 to the limit `max_side`.
- `seeds`: a list of seeds (0 to 2^63 - 1, each once), or a number: how many seeds are derived.
- `guidance`: 0 to 50; up to 1 means without classifier-free guidance. `lora_weight`: -1.5 to 1.5.
- numbers are written as numbers: neither `true` nor a text such as "5" is one.
- texts lose the white space around them; control characters are refused; `id` may be written as a whole number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError

from jobs.located import MAX_INTEGER, Faults, line_of
from jobs.settings import Settings
from jobs.templates import FIELD_NAME

SCHEDULERS = ("dpmpp_2m_karras", "euler")
MAX_COUNTED_SEEDS = 1000
MAX_PROMPTS = 1000
MAX_FIELDS = 200
MAX_FIELD_CHARACTERS = 2000
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_NUMERAL = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_SIZE = re.compile(r"([0-9]{1,6})\s*[xX×]\s*([0-9]{1,6})")
_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9_-]*[a-z0-9])?")
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))}


@dataclass(frozen=True)
class Seeds:
    """Either the seeds themselves, or how many to derive."""

    count: int
    given: tuple[int, ...] | None = None


def _text(value: Any) -> Any:
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


def _slug(value: str) -> str:
    if not _SLUG.fullmatch(value) or value in _RESERVED:
        raise ValueError("wanted lower-case letters a to z, digits, - and _, as in a file's name")
    return value


def _size(value: Any) -> tuple[int, int]:
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        value = [int(match.group(1)), int(match.group(2))]
    if isinstance(value, int) and not isinstance(value, bool):
        value = [value, value]
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(type(side) is int for side in value):
        raise ValueError("wanted 1024x768, [1024, 768] or 1024")
    if any(side < 64 or side % 8 for side in value):
        raise ValueError("wanted sides of at least 64 pixels that are multiples of 8")
    return value[0], value[1]


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


def _fields(value: Any) -> dict[str, str]:
    """Fields as texts, so that the same person is the same in every format: 31 is '31', true is 'true'."""
    if not isinstance(value, Mapping):
        raise ValueError("wanted a mapping of names and values")
    if len(value) > MAX_FIELDS:
        raise ValueError(f"wanted at most {MAX_FIELDS} fields, found {len(value)}")
    fields = {}
    for name, raw in value.items():
        if not FIELD_NAME.fullmatch(name):
            raise ValueError(f"the name {name[:60]!r} cannot be a field; use letters, digits, spaces, _ and -")
        if name in IdentityEntry.model_fields:
            raise ValueError(f"{name!r} is a key of its own; write it beside `fields`")
        if raw is not None:
            fields[name] = _field_text(name, raw)
    return fields


def _field_text(name: str, raw: Any) -> str:
    if isinstance(raw, bool):
        return "true" if raw else "false"
    if isinstance(raw, float):
        return repr(raw)
    try:
        text = " ".join(str(_text(raw)).split())
    except ValueError as error:
        raise ValueError(f"{name!r}: {error}") from error
    if len(text) > MAX_FIELD_CHARACTERS:
        raise ValueError(f"{name!r} has {len(text)} characters; at most {MAX_FIELD_CHARACTERS} are allowed")
    return text


def _age(value: Any) -> str:
    return _field_text("age", value)


def _number(value: Any) -> Any:
    if isinstance(value, str) and _NUMERAL.fullmatch(value.strip()):
        raise ValueError("wanted a number, found a text; leave the quotes away")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("wanted a number")
    return value


Text = Annotated[str, BeforeValidator(_text)]
Line = Annotated[Text, AfterValidator(_one_line)]
Slug = Annotated[Line, Field(max_length=64), AfterValidator(_slug)]
Size = Annotated[tuple[int, int], PlainValidator(_size)]
SeedList = Annotated[Seeds, PlainValidator(_seeds)]
Whole = Annotated[int, BeforeValidator(_number)]
Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Drawing(_Strict):
    """How a picture is drawn; everything that a prompt may leave to its defaults."""

    size: Size | None = None
    steps: Annotated[Whole, Field(ge=1)] | None = None
    guidance: Annotated[Number, Field(ge=0, le=50)] | None = None
    scheduler: Literal["dpmpp_2m_karras", "euler"] | None = None
    negative_prompt: Text | None = None
    lora_weight: Annotated[Number, Field(ge=-1.5, le=1.5)] | None = None
    seeds: SeedList | None = None


class PromptEntry(Drawing):
    """One prompt. Without a name it is called after its text."""

    name: Slug | None = None
    text: Annotated[Text, Field(min_length=1)]


class SetEntry(_Strict):
    """A set of prompts in a file of its own, inside the folder of the file that names it."""

    set: Line


class JobEntry(_Strict):
    """The job part of a manifest; `defaults`, `prompts` and `identities` are read on their own."""

    tenant: Slug | None = None
    key: Annotated[Line, Field(min_length=1, max_length=200)] | None = None
    name: Annotated[Line, Field(min_length=1, max_length=200)] | None = None
    profile: Annotated[Line, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)] | None = None
    priority: Annotated[Whole, Field(ge=-100, le=100)] = 0
    defaults: Any = None
    prompts: Any = None
    identities: Any = None


class SetFile(_Strict):
    """A prompt set's file; a bare list of prompts is one too."""

    name: Annotated[Line, Field(max_length=200)] | None = None
    defaults: Any = None
    prompts: Any = None


class IdentityEntry(_Strict):
    """One person."""

    id: Annotated[Line, Field(min_length=1, max_length=200)]
    subject: Annotated[Line, Field(max_length=MAX_FIELD_CHARACTERS)] | None = None
    age: Annotated[str, PlainValidator(_age)] | None = None
    fields: Annotated[dict[str, str], PlainValidator(_fields)] = {}
    consent: Annotated[Line, Field(max_length=500)] | None = None
    purpose: Annotated[Line, Field(max_length=500)] | None = None
    photos: Annotated[list[Annotated[Line, Field(min_length=1, max_length=1000)]], Field(min_length=1)]
    prompts: Any = None

    def known(self) -> dict[str, str]:
        """What templates may use: `subject`, `age` and the fields."""
        first = {"subject": self.subject, "age": self.age}
        return {**{name: value for name, value in first.items() if value}, **self.fields}


class Resolved(_Strict):
    """`Drawing` with nothing left open."""

    size: tuple[int, int]
    steps: int
    guidance: float
    scheduler: str
    negative_prompt: str
    lora_weight: float
    seeds: Seeds


DEFAULTS = Resolved(
    size=(1024, 1024),
    steps=30,
    guidance=5.0,
    scheduler=SCHEDULERS[0],
    negative_prompt="",
    lora_weight=0.8,
    seeds=Seeds(1),
)

Entry = TypeVar("Entry", bound=BaseModel)


class Reading:
    """Validates entries and turns what pydantic finds into faults with the file, the line and the field."""

    def __init__(self, faults: Faults, settings: Settings) -> None:
        self.faults = faults
        self.settings = settings

    def entry(
        self, model: type[Entry], record: Any, *, source: str | None, field: str = "", line: int | None = None
    ) -> Entry | None:
        """The entry, or None when it has faults (which are noted). `line` is used for what has none of its own."""
        try:
            return model.model_validate(record)
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                path = [step for step in detail["loc"] if not isinstance(step, str) or not step.startswith("function-")]
                self.faults.add(
                    _message(model, detail, path),
                    line=line_of(record, path) or line,
                    field=_dotted(field, path),
                    source=source,
                )
            return None

    def within_limits(self, drawing: Drawing, record: Any, *, source: str | None, field: str) -> None:
        """Note a fault for every setting above the limits that the settings set."""
        checks = {"size": (max(drawing.size or (0,)), self.settings.max_side, "pixels on the longest side")}
        checks["steps"] = (drawing.steps or 0, self.settings.max_steps, "steps")
        for name, (found, most, what) in checks.items():
            if found > most:
                self.faults.add(
                    f"found {found} {what}, at most {most} are allowed",
                    line=line_of(record, [name]),
                    field=_dotted(field, [name]),
                    source=source,
                )


def _message(model: type[BaseModel], detail: Any, path: list[str | int]) -> str:
    kind, found = detail["type"], _shown(detail.get("input"))
    if kind == "extra_forbidden":
        name, known = str(path[-1]), list(model.model_fields)
        near = get_close_matches(name, known, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        return f"unknown field {name!r}{hint}; the known fields are {', '.join(known)}"
    if kind == "missing":
        return "the field is missing; add it"
    if kind in ("too_short", "string_too_short"):  # every least length is 1
        return "the list is empty; name at least one" if isinstance(detail["input"], list) else "the text is empty"
    if kind in ("too_long", "string_too_long"):
        length, most = len(str(detail["input"]).strip()), detail["ctx"]["max_length"]
        return f"the text has {length} characters; at most {most} are allowed"
    if kind in ("model_type", "model_attributes_type"):
        return f"wanted a mapping with the fields {', '.join(model.model_fields)}; found {found}"
    message = str(detail["msg"]).removeprefix("Value error, ").replace("Input should be", "wanted")
    return f"{message}; found {found}"


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple) and len(value) > 8:
        return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _dotted(field: str, path: list[str | int]) -> str | None:
    for step in path:
        field = f"{field}[{step}]" if isinstance(step, int) else f"{field}.{step}" if field else step
    return field or None

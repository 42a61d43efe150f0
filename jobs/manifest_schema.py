"""What a manifest may say, as pydantic models; every unknown key is refused.

A prompt's settings come from the nearest place that gives them: the prompt, the `defaults` of its set's file, the
`defaults` of the job, what the profile draws by default, and at last the values in `DEFAULTS`.

- `size`: `128x128`, `[width, height]` or one number for both; multiples of 8, from 64 to the limit `max_side`.
- `seeds`: a list of seeds (0 to 2^63 - 1, each once), or a number: how many seeds are derived.
- `guidance`: 0 to 50; up to 1 means without classifier-free guidance. `lora_weight`: -1.5 to 1.5.
- what else may be said about drawing stands in `manifest_options`, who an identity may be in `manifest_identity`.
- numbers are written as numbers: neither `true` nor a text such as "5" is one.
- texts lose the white space around them; control characters are refused; `id` may be written as a whole number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, Field, PlainValidator, ValidationError

from jobs.located import Faults, line_of
from jobs.manifest_identity import Composition, Id, Photo
from jobs.manifest_options import Options
from jobs.manifest_values import Flag, Line, Number, SeedList, Seeds, Size, Slug, Strict, Text, Whole, as_text
from jobs.settings import Settings
from jobs.templates import FIELD_NAME

SCHEDULERS = ("dpmpp_2m_karras", "euler", "euler_trailing", "ddim_trailing", "lcm", "tcd", "dmd2")
MAX_PROMPTS = 1000
MAX_FIELDS = 200
MAX_FIELD_CHARACTERS = 2000
# Not `identity` and `draw`: they came later, and tables have columns of these names.
_KEYS_OF_THEIR_OWN = {"id", "subject", "age", "fields", "consent", "purpose", "photos", "prompts"}


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
        if name in _KEYS_OF_THEIR_OWN:
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
        text = " ".join(str(as_text(raw)).split())
    except ValueError as error:
        raise ValueError(f"{name!r}: {error}") from error
    if len(text) > MAX_FIELD_CHARACTERS:
        raise ValueError(f"{name!r} has {len(text)} characters; at most {MAX_FIELD_CHARACTERS} are allowed")
    return text


def _age(value: Any) -> str:
    return _field_text("age", value)


class Drawing(Options):
    """How a picture is drawn; everything that a prompt may leave to its defaults."""

    size: Size | None = None
    steps: Annotated[Whole, Field(ge=1)] | None = None
    guidance: Annotated[Number, Field(ge=0, le=50)] | None = None
    scheduler: Literal["dpmpp_2m_karras", "euler", "euler_trailing", "ddim_trailing", "lcm", "tcd", "dmd2"] | None = (
        None
    )
    negative_prompt: Text | None = None
    lora_weight: Annotated[Number, Field(ge=-1.5, le=1.5)] | None = None
    seeds: SeedList | None = None


class PromptEntry(Drawing):
    """One prompt. Without a name it is called after its text."""

    name: Slug | None = None
    text: Annotated[Text, Field(min_length=1)]


class SetEntry(Strict):
    """A set of prompts in a file of its own, inside the folder of the file that names it."""

    set: Line


class JobEntry(Strict):
    """The job part of a manifest; `defaults`, `prompts`, `sliders` and `identities` are read on their own."""

    tenant: Slug | None = None
    key: Annotated[Line, Field(min_length=1, max_length=200)] | None = None
    name: Annotated[Line, Field(min_length=1, max_length=200)] | None = None
    profile: Annotated[Line, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)] | None = None
    priority: Annotated[Whole, Field(ge=-100, le=100)] = 0
    defaults: Any = None
    prompts: Any = None
    identities: Any = None
    sliders: Any = None


class SetFile(Strict):
    """A prompt set's file; a bare list of prompts is one too."""

    name: Annotated[Line, Field(max_length=200)] | None = None
    defaults: Any = None
    prompts: Any = None


class IdentityEntry(Strict):
    """One person, by photos, or made of others. Without `draw` a person is only there for others to be made of."""

    id: Id
    subject: Annotated[Line, Field(max_length=MAX_FIELD_CHARACTERS)] | None = None
    age: Annotated[str, PlainValidator(_age)] | None = None
    fields: Annotated[dict[str, str], PlainValidator(_fields)] = Field(default_factory=dict)
    consent: Annotated[Line, Field(max_length=500)] | None = None
    purpose: Annotated[Line, Field(max_length=500)] | None = None
    photos: Annotated[list[Photo], Field(min_length=1)] | None = None
    prompts: Any = None
    identity: Composition | None = None
    draw: Flag = True

    @property
    def sources(self) -> list[str]:
        """The names of the photos."""
        return [photo.file for photo in self.photos or ()]

    def known(self) -> dict[str, str]:
        """What templates may use: `subject`, `age` and the fields."""
        first = {"subject": self.subject, "age": self.age}
        return {**{name: value for name, value in first.items() if value}, **self.fields}


class Resolved(Strict):
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
                path = _path(record, detail)
                self.faults.add(
                    _message(model, detail, path),
                    line=line_of(record, path) or line,
                    field=dotted(field, path),
                    source=source,
                )
            return None

    def within_limits(self, drawing: Drawing, record: Any, *, source: str | None, field: str) -> None:
        """Note a fault for every setting above the limits that the settings set."""
        checks: dict[tuple[str | int, ...], tuple[int, int, str]] = {}
        checks["size",] = (max(drawing.size or (0,)), self.settings.max_side, "pixels on the longest side")
        checks["steps",] = (drawing.steps or 0, self.settings.max_steps, "steps")
        if drawing.detail is not None:
            checks["detail", "steps"] = (drawing.detail.steps, self.settings.max_steps, "steps")
        for index, output in enumerate(drawing.outputs or ()):
            longest = (max(output.size or (0,)), self.settings.max_output_side, "pixels on the longest side")
            checks["outputs", index, "size"] = longest
        for path, (found, most, what) in checks.items():
            if found > most:
                self.faults.add(
                    f"found {found} {what}, at most {most} are allowed",
                    line=line_of(record, path),
                    field=dotted(field, path),
                    source=source,
                )


def _path(record: Any, detail: Any) -> list[str | int]:
    """The way to what is wrong, without the steps that pydantic adds to it and the record does not have."""
    path: list[str | int] = []
    last = len(detail["loc"]) - 1
    for index, step in enumerate(detail["loc"]):
        named = index == last and detail["type"] in ("missing", "extra_forbidden")
        if isinstance(record, Mapping) and isinstance(step, str) and (step in record or named):
            path.append(step)
            record = record.get(step)
        elif isinstance(record, list | tuple) and isinstance(step, int) and step < len(record):
            path.append(step)
            record = record[step]
    return path


def _message(model: type[BaseModel], detail: Any, path: list[str | int]) -> str:
    kind, found = detail["type"], _shown(detail.get("input"))
    if kind == "extra_forbidden":
        name, known = str(path[-1]), list(_model_at(model, path[:-1]).model_fields)
        near = get_close_matches(name, known, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        return f"unknown field {name!r}{hint}; the known fields are {', '.join(known)}"
    if kind == "missing":
        return "the field is missing; add it"
    if kind in ("too_short", "string_too_short", "too_long", "string_too_long"):
        return _length_message(detail)
    if kind in ("model_type", "model_attributes_type"):
        return f"wanted a mapping with the fields {', '.join(_model_at(model, path).model_fields)}; found {found}"
    message = str(detail["msg"]).removeprefix("Value error, ").replace("Input should be", "wanted")
    return f"{message}; found {found}"


def _length_message(detail: Any) -> str:
    """Of a text, a list or a mapping that is too short or too long."""
    value, least, most = detail["input"], detail["ctx"].get("min_length"), detail["ctx"].get("max_length")
    if isinstance(value, list | tuple | Mapping):
        if least == 1:
            return "the list is empty; name at least one"
        return f"wanted at {f'least {least}' if least else f'most {most}'} entries, found {len(value)}"
    if least is not None:  # of texts every least length is 1
        return "the text is empty"
    return f"the text has {len(str(value).strip())} characters; at most {most} are allowed"


def _model_at(model: type[BaseModel], path: list[str | int]) -> type[BaseModel]:
    """The model of the mapping that `path` leads to."""
    for step in path:
        if isinstance(step, str) and step in model.model_fields:
            model = _model_in(model.model_fields[step].annotation) or model
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple) and len(value) > 8:
        return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def dotted(field: str, path: Iterable[str | int]) -> str | None:
    for step in path:
        field = f"{field}[{step}]" if isinstance(step, int) else f"{field}.{step}" if field else step
    return field or None

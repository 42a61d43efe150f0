"""Prompts, ready to be filled: names found, templates parsed, settings resolved.

A prompt without a name is called after its text: lower-case letters and digits with dashes between. A name that had to
be cut, or whose text holds other letters, ends with six digits of the text's SHA-256, so that different texts get
different names. Names decide seeds and file names, and are unique for one identity.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from jobs.errors import FileRefused, ManifestInvalid
from jobs.files import read_inside
from jobs.located import Listed, Mapped, line_of
from jobs.manifest_options import OWN_PHOTO, planned_options
from jobs.manifest_pictures import GivenPictures
from jobs.manifest_reader import parse_document
from jobs.manifest_schema import (
    DEFAULTS,
    MAX_PROMPTS,
    Drawing,
    PromptEntry,
    Reading,
    Resolved,
    SetEntry,
    SetFile,
    dotted,
)
from jobs.manifest_values import Seeds
from jobs.planned import PlannedRender, derived_seed, seed_base
from jobs.templates import MAX_PROMPT_CHARACTERS, Template, TemplateFault, parse_template

_NAME_CHARACTERS = 48


@dataclass(frozen=True)
class Prompt:
    """A prompt with everything decided but the person. `line`, `field`, `source` say where it stands.

    `options` are planned options (see `manifest_options`), None when nothing is out of the ordinary.
    """

    name: str
    text: Template
    negative: Template
    drawing: Resolved
    options: Mapping[str, Any] | None = None
    line: int | None = None
    field: str | None = None
    source: str | None = None

    @property
    def fields(self) -> frozenset[str]:
        """The fields it needs."""
        return self.text.fields | self.negative.fields

    def too_long(self, values: Mapping[str, str]) -> bool:
        """Whether it is longer than any text encoder reads, once filled."""
        return max(self.text.length(values), self.negative.length(values)) > MAX_PROMPT_CHARACTERS

    def canonical(self) -> list[Any]:
        """Plain data that decides the pictures; `from_canonical` reads it back."""
        drawing = self.drawing
        plain = [
            self.name,
            [self.text.texts, self.text.names],
            [self.negative.texts, self.negative.names],
            drawing.size,
            drawing.steps,
            drawing.guidance,
            drawing.scheduler,
            drawing.lora_weight,
            drawing.seeds.given or drawing.seeds.count,
        ]
        # Only when there are any: a manifest that says nothing of them keeps the hash it always had.
        return plain if self.options is None else [*plain, self.options]

    @classmethod
    def from_canonical(cls, data: Sequence[Any]) -> Prompt:
        """The prompt whose `canonical` went through JSON."""
        name, text, negative, size, steps, guidance, scheduler, lora_weight, seeds, *options = data
        drawing = Resolved(
            size=tuple(size),
            steps=steps,
            guidance=guidance,
            scheduler=scheduler,
            negative_prompt="",
            lora_weight=lora_weight,
            seeds=Seeds(seeds) if isinstance(seeds, int) else Seeds(len(seeds), tuple(seeds)),
        )
        texts = [Template(tuple(part[0]), tuple(part[1])) for part in (text, negative)]
        return cls(name, texts[0], texts[1], drawing, options[0] if options else None)

    @property
    def needs_photo(self) -> bool:
        """Whether it takes key points from the person's own photo."""
        return any(control["keypoints"] == OWN_PHOTO for control in (self.options or {}).get("control", ()))

    @property
    def base_weight(self) -> float:
        """How much of the Base-LoRA it takes, which is made of a person's photos."""
        return float((self.options or {}).get("base_weight", 0.0))


def renders(
    prompts: Sequence[Prompt], values: Mapping[str, str], job_key: str, external_id: str
) -> Iterator[PlannedRender]:
    """The pictures of one identity: prompts in their order, each with its seeds in theirs."""
    ordinal = 0
    for prompt in prompts:
        text, negative, drawing = prompt.text.fill(values), prompt.negative.fill(values), prompt.drawing
        base = seed_base(job_key, external_id, prompt.name)
        for index in range(drawing.seeds.count):
            yield PlannedRender(
                ordinal=ordinal,
                prompt_name=prompt.name,
                prompt=text,
                negative_prompt=negative,
                seed=drawing.seeds.given[index] if drawing.seeds.given else derived_seed(base, index),
                seed_index=index,
                width=drawing.size[0],
                height=drawing.size[1],
                steps=drawing.steps,
                guidance=drawing.guidance,
                scheduler=drawing.scheduler,
                lora_weight=drawing.lora_weight,
                options=prompt.options,
            )
            ordinal += 1


def parts_of(prompts: Sequence[Prompt]) -> list[tuple[str, str]]:
    """("ControlNet" or "upscaler", name) of everything that these prompts ask of a profile, each once."""
    found = set()
    for prompt in prompts:
        options = prompt.options or {}
        found |= {("ControlNet", control["net"]) for control in options.get("control", ())}
        found |= {("upscaler", output["upscale"]) for output in options.get("outputs", ()) if output["upscale"]}
    return sorted(found)


class PromptReader:
    """Reads lists of prompts, inline and from the files of named sets; what is wrong becomes a fault."""

    def __init__(
        self, reading: Reading, pictures: GivenPictures, defaults: Sequence[Drawing], sliders: Collection[str]
    ) -> None:
        self._reading = reading
        self._pictures = pictures
        self._defaults = list(defaults)
        self._sliders = sliders

    def prompts(
        self, entries: Any, *, source: str | None, folder: Path | None, field: str, line: int | None
    ) -> list[Prompt]:
        """The prompts of a list; those with faults are left out."""
        found: list[Prompt] = []
        for index, entry in enumerate(self._listed(entries, source, field, line)):
            place = f"{field}[{index}]"
            if isinstance(entry, Mapped) and "set" in entry:
                found += self._set(entry, source, folder, place)
            else:
                found += self._prompt(entry, self._defaults, source, place, line_of(entries, [index]))
        names: dict[str, Prompt] = {}
        for prompt in found:
            first = names.setdefault(prompt.name, prompt)
            if first is not prompt:
                self._reading.faults.add(
                    f"the prompt name {prompt.name!r} stands twice, first in {first.source or 'the manifest'}, line "
                    f"{first.line or 'unknown'}; give one of them another `name`",
                    line=prompt.line,
                    field=prompt.field,
                    source=prompt.source,
                )
        return list(names.values())

    def defaults(self, record: Any, *, source: str | None, field: str, line: int | None = None) -> Drawing | None:
        """A `defaults` mapping; None when there is none, or when it has faults."""
        if record is None:
            return None
        drawing = self._reading.entry(Drawing, record, source=source, field=field, line=line)
        if drawing is not None:
            self._check(drawing, record, source, field)
        return drawing

    def _check(self, drawing: Drawing, record: Any, source: str | None, field: str) -> None:
        """Note what is wrong with the limits, pictures and sliders of a drawing; it is left as it is."""
        faults = self._reading.faults
        self._reading.within_limits(drawing, record, source=source, field=field)
        for path, file in drawing.files():
            fault = self._pictures.fault(file)
            if fault is not None:
                faults.add(fault, line=line_of(record, path), field=dotted(field, path), source=source)
        for name in drawing.sliders or ():
            if name not in self._sliders:
                path = ("sliders", name)
                known = ", ".join(sorted(self._sliders)) or "none"
                message = f"no slider {name!r} is defined, only: {known}; add it to the job's `sliders`"
                faults.add(message, line=line_of(record, path), field=dotted(field, path), source=source)

    def _listed(self, entries: Any, source: str | None, field: str, line: int | None) -> Sequence[Any]:
        faults = self._reading.faults
        if not isinstance(entries, Listed):
            faults.add("wanted a list of prompts", line=line, field=field, source=source)
        elif not entries:
            faults.add("the list of prompts is empty; add one", line=line, field=field, source=source)
        elif len(entries) > MAX_PROMPTS:
            faults.add(f"{len(entries)} prompts, at most {MAX_PROMPTS}", line=line, field=field, source=source)
        else:
            return entries
        return ()

    def _set(self, entry: Mapped, source: str | None, folder: Path | None, field: str) -> list[Prompt]:
        asked = self._reading.entry(SetEntry, entry, source=source, field=field)
        if asked is None:
            return []
        faults, limit = self._reading.faults, self._reading.settings.max_manifest_bytes
        if folder is None:
            message = "a manifest that is sent has no files beside it; write the set's prompts out"
            faults.add(message, line=line_of(entry, ["set"]), field=f"{field}.set", source=source)
            return []
        if PurePosixPath(asked.set).suffix.lower() not in (".yaml", ".yml", ".json"):
            message = f"wanted a file named .yaml or .json, found {asked.set!r}"
            faults.add(message, line=line_of(entry, ["set"]), field=f"{field}.set", source=source)
            return []
        try:
            tree = parse_document(read_inside(folder, asked.set, limit=limit), asked.set)
        except FileRefused as error:
            faults.add(str(error), line=line_of(entry, ["set"]), field=f"{field}.set", source=source)
            return []
        except ManifestInvalid as error:
            for fault in error.faults:
                faults.add(fault.message, line=fault.line, field=fault.field, source=fault.source)
            return []
        return self.set_prompts(tree, source=asked.set)

    def set_prompts(self, tree: Any, *, source: str) -> list[Prompt]:
        """The prompts of a set's document: a list, or a mapping with `prompts` and perhaps `defaults` and `name`."""
        entries, field, line, defaults = tree, "prompts", 1, self._defaults
        if isinstance(tree, Mapped):
            read = self._reading.entry(SetFile, tree, source=source)
            if read is None:
                return []
            own = self.defaults(read.defaults, source=source, field="defaults", line=line_of(tree, ["defaults"]))
            defaults = [own, *defaults] if own else defaults
            entries, line = tree.get("prompts"), line_of(tree, ["prompts"]) or 1
        found: list[Prompt] = []
        for index, entry in enumerate(self._listed(entries, source, field, line)):
            found += self._prompt(entry, defaults, source, f"{field}[{index}]", line_of(entries, [index]))
        return found

    def _prompt(
        self, record: Any, defaults: Sequence[Drawing], source: str | None, field: str, line: int | None
    ) -> list[Prompt]:
        if not isinstance(record, Mapped):
            message = "wanted a prompt: a mapping with `text`, or with `set` and a file's name"
            self._reading.faults.add(message, line=line, field=field, source=source)
            return []
        entry = self._reading.entry(PromptEntry, record, source=source, field=field)
        if entry is None:
            return []
        self._check(entry, record, source, field)
        drawing = _resolve([entry, *defaults])
        texts = {"text": entry.text, "negative_prompt": drawing.negative_prompt}
        parsed = [self._template(text, record, name, source, field) for name, text in texts.items()]
        if parsed[0] is None or parsed[1] is None:
            return []
        try:
            options = planned_options([entry, *defaults], self._pictures.use)
        except FileRefused:
            return []  # noted where the file is named
        name = entry.name or name_of(entry.text)
        return [Prompt(name, parsed[0], parsed[1], drawing, options, line, field, source)]

    def _template(self, text: str, record: Mapped, name: str, source: str | None, field: str) -> Template | None:
        try:
            if len(text) > MAX_PROMPT_CHARACTERS:
                raise TemplateFault(f"{len(text)} characters; at most {MAX_PROMPT_CHARACTERS} are allowed")
            return parse_template(text)
        except TemplateFault as error:
            self._reading.faults.add(str(error), line=line_of(record, [name]), field=f"{field}.{name}", source=source)
            return None


def name_of(text: str) -> str:
    """The name of a prompt that has none; see the head of this file."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")
    if slug and len(slug) <= _NAME_CHARACTERS and text.isascii():
        return slug
    mark = hashlib.sha256(" ".join(text.split()).encode()).hexdigest()[:6]
    cut = slug[:_NAME_CHARACTERS].rpartition("-")[0] if len(slug) > _NAME_CHARACTERS else slug
    return f"{cut.strip('-') or slug[:_NAME_CHARACTERS] or 'prompt'}-{mark}"


def _resolve(nearest_first: Sequence[Drawing]) -> Resolved:
    values = DEFAULTS.model_dump() | {"seeds": DEFAULTS.seeds}
    for name in values:
        given = (getattr(drawing, name) for drawing in nearest_first)
        values[name] = next((value for value in given if value is not None), values[name])
    return Resolved(**values)

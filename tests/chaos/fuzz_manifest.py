"""The fuzzer of manifests: a program that feeds hostile documents, tables and mappings to the reader, and enqueues.

    python fuzz_manifest.py HOME DATABASE_URL NUMBER

HOME/in is the manifest's folder, beside photos with links out of it, a pipe, a device and a bomb. Every input ends as a
job, whose people and pictures are walked and written into the database, or as an error of `jobs.errors`.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from fuzz_guard import Guard, examples, outcome_of
from fuzz_world import BASE, PATHS, lay_out
from hypothesis import given
from hypothesis import strategies as st

from jobs.database import Database
from jobs.errors import JobsError, ManifestInvalid
from jobs.intake import enqueue_manifest
from jobs.manifest import Manifest, open_manifest, parse_manifest
from jobs.settings import Settings

SECONDS_EACH = 20.0
MOST_RENDERS = 100
TOKENS = [
    *(
        b"&a ",
        b"*a",
        b"!!python/object/apply:os.system ['true']",
        b"<<: *a",
        b"---\n",
        b"...\n",
        b"? ",
        b"- ",
        b"{",
        b"[",
    ),
    *(
        b"\0",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\xed\xa0\x80",
        b"\x1b[2J",
        b"\r",
        b"\n",
        b"\t",
        b'"',
        b"'",
        b",",
        b";",
        b"|",
    ),
    *(
        b"NaN",
        b"Infinity",
        b"1e999",
        b"9" * 400,
        b"0x10",
        b".inf",
        b"null",
        b"true",
        b"~",
        b"%YAML 9.9\n",
        b"#",
        b"\xe2\x80\xa8",
    ),
    *(
        b"{" * 40,
        b"[" * 2_000,
        b'{"a":' * 1_000,
        b"a" * 70_000,
        b"- " * 300,
        b'"' + b"x" * 300_000,
        b"{subject}",
        b"{{",
        b"{x!r}",
    ),
]
SCALARS = st.one_of(
    st.sampled_from(
        [None, True, False, 0, -1, 2**63 - 1, 2**63, -(2**64), 10**30, 0.0, -0.0, 1e308, float("nan"), float("inf")]
    ),
    st.sampled_from(
        [
            "",
            " ",
            "x" * 100_000,
            "{",
            "{subject",
            "{0}",
            "{a.b}",
            "{a[0]}",
            "a\0b",
            "\ud800",
            "\u202e",
            "é" * 300,
            "..",
            "😀",
        ]
    ),
    st.sampled_from([*PATHS, "1024x1024", "0x0", "999999x8", "euler", "ada", "alan", "mini", "png", "auto", "compel"]),
    st.text(max_size=20),
    st.integers(),
    st.floats(),
)
FIELDS = (
    "id photos prompts subject fields identity mix together weight_set draw face file mask defaults size seeds outputs "
    "sliders detail image inpaint set text name tenant key profile priority steps"
)
NAMES = st.one_of(st.sampled_from(FIELDS.split()), st.text(max_size=8))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(NAMES, inner, max_size=4)),
    max_leaves=12,
)


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every entry of a tree."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in pairs:
        yield (*path, key)
        yield from places(value, (*path, key))


@st.composite
def trees(draw: st.DrawFn) -> dict[str, Any]:
    """The valid manifest with a few entries replaced, removed, renamed, doubled or added."""
    tree = json.loads(json.dumps(BASE))
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2, 4]))):
        known = list(places(tree))
        if not known:
            break
        *way, last = draw(st.sampled_from(known))
        holder = tree
        for step in way:
            holder = holder[step]
        match draw(st.sampled_from(["set", "set", "set", "remove", "rename", "double", "add"])):
            case "set":
                holder[last] = draw(VALUES)
            case "remove":
                del holder[last]
            case "rename" if isinstance(holder, dict):
                holder[draw(NAMES)] = holder.pop(last)
            case "double" if isinstance(holder, list):
                holder += [holder[last]] * draw(st.sampled_from([1, 3, 30]))
            case _ if isinstance(holder, dict):
                holder[draw(NAMES)] = draw(VALUES)
    return tree


@st.composite
def worded(draw: st.DrawFn) -> dict[str, Any]:
    """The valid manifest in other words: most are accepted, and must fit the database."""
    tree = json.loads(json.dumps(BASE))
    words = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="{}"), min_size=1, max_size=40)
    ada, office = tree["identities"][0], tree["prompts"][0]
    ada |= {"subject": draw(words), "consent": draw(words), "fields": {"mood": draw(words)}}
    office |= {"text": draw(words) + " {subject}", "negative_prompt": draw(words), "seeds": draw(st.integers(1, 3))}
    return tree | {"name": draw(words), "key": draw(words), "priority": draw(st.integers(-101, 101))}


@st.composite
def pathed(draw: st.DrawFn) -> dict[str, Any]:
    """The valid manifest with other files in the place of some of its own."""
    tree = json.loads(json.dumps(BASE))
    ada, alan, *_ = tree["identities"]
    ada["photos"] = draw(st.lists(st.sampled_from(PATHS), min_size=1, max_size=3))
    alan["prompts"][1]["inpaint"]["mask"] = draw(st.sampled_from(["mask.png", *PATHS]))
    tree["prompts"][2]["set"] = draw(st.sampled_from(["set.yaml", "set.yaml", *PATHS]))
    return tree


def beyond_json(value: Any, loop: list[Any]) -> Any:
    """A mapping with what only Python can say: whole numbers without end, a list that holds itself."""
    if isinstance(value, dict):
        return {key: beyond_json(inner, loop) for key, inner in value.items()}
    if isinstance(value, list):
        return [beyond_json(inner, loop) for inner in value]
    return {10**30: 10**5_000, 2**63: {1, 2}, -(2**64): loop}.get(value, value) if type(value) is int else value


class Plain(yaml.SafeDumper):
    """Writes no aliases: they are refused."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def as_yaml(tree: Any) -> bytes:
    return yaml.dump(tree, Dumper=Plain, allow_unicode=True).encode("utf-8", "surrogatepass")


def as_json(tree: Any) -> bytes:
    return json.dumps(tree).encode()


def as_lines(tree: dict[str, Any]) -> bytes:
    """The job's line, then a line for each person."""
    people = tree.pop("identities", [])
    return b"\n".join(as_json(each) for each in [{"job": tree}, *(people if isinstance(people, list) else [people])])


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """A table with hostile cells."""
    file = io.StringIO()
    table = csv.writer(file, delimiter=draw(st.sampled_from(",;\t")), quoting=draw(st.sampled_from([0, 1])))
    table.writerow(["id", "photos", "subject", *draw(st.lists(NAMES, max_size=2))])
    for number in range(draw(st.integers(0, 3))):
        cells = [f"p{number}", draw(st.sampled_from(PATHS)), "a person"]
        table.writerow([*cells, *map(str, draw(st.lists(SCALARS, max_size=3)))])
    return file.getvalue().encode("utf-8", "surrogatepass")


@st.composite
def spoilt(draw: st.DrawFn, documents: st.SearchStrategy[bytes]) -> bytes:
    """A document with bytes changed, cut out, or put in."""
    data = draw(documents)
    for _ in range(draw(st.sampled_from([1, 1, 2, 3]))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["insert", "insert", "cut", "set"])):
            case "insert":
                data = data[:at] + draw(st.one_of(st.sampled_from(TOKENS), st.binary(max_size=4))) + data[at:]
            case "cut":
                data = data[:at] + data[at + draw(st.integers(1, 40)) :]
            case _:
                data = data[:at] + draw(st.binary(min_size=1, max_size=2)) + data[at + 1 :]
    return data


WRITTEN: dict[str, Callable[[Any], bytes]] = {".yaml": as_yaml, ".json": as_json, ".jsonl": as_lines}
FILES = {".csv": tables(), **{suffix: trees().map(write) for suffix, write in WRITTEN.items()}}
INPUTS = st.one_of(
    *(st.tuples(st.just(suffix), written) for suffix, written in FILES.items()),
    *(st.tuples(st.just(suffix), worded().map(write)) for suffix, write in WRITTEN.items()),
    *(st.tuples(st.just(suffix), spoilt(written)) for suffix, written in FILES.items()),
    st.tuples(st.just("mapping"), trees()),
    st.tuples(st.just("mapping"), pathed()),
    st.tuples(st.just(".yaml"), pathed().map(as_yaml)),
    st.tuples(st.just("mapping"), st.dictionaries(NAMES, VALUES, max_size=4)),
)


def walk(manifest: Manifest, limits: Settings) -> None:
    """Everything that enqueueing does with a manifest."""
    with manifest as opened:
        checked = opened.check()
        people = list(opened.people())
        assert len(people) >= checked.identities
        counted = sum(len(list(islice(person.renders, MOST_RENDERS + 1))) for person in people)
        if checked.renders <= MOST_RENDERS:
            assert counted == checked.renders
            job = enqueue_manifest(opened, limits)
            assert job.renders == checked.renders


def main(home: Path, database_url: str, number: int) -> None:
    """Feed so many inputs."""
    folder = lay_out(home)
    urls: dict[str, Any] = {"home": home / "home", "database_url": database_url}
    limits = Settings(max_photo_pixels=1_000_000, max_renders_per_job=10_000, max_manifest_bytes=2**20, **urls)
    Database.from_settings(limits).dispose()
    guard = Guard(home, seconds_each=SECONDS_EACH)

    def read(kind: str, content: Any) -> None:
        common: dict[str, Any] = {"settings": limits, "again": True}
        if kind == "mapping":
            loop: list[Any] = []
            loop.append(loop)
            return walk(parse_manifest(beyond_json(content, loop), base=folder, **common), limits)
        path = folder / f"manifest{kind}"
        path.write_bytes(content)
        job_file = folder / "job.yaml" if kind == ".csv" else None
        return walk(open_manifest(path, job_file=job_file, **common), limits)

    read("mapping", BASE)  # what is imported late is imported now
    guard.begin()

    @examples(number)
    @given(INPUTS)
    def fuzz(given_: tuple[str, Any]) -> None:
        with guard.input():
            guard.outcomes[outcome_of(lambda: read(*given_), (JobsError,))] += 1

    fuzz()
    guard.report()


assert issubclass(ManifestInvalid, JobsError)
if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))

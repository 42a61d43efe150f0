"""docs/manifest.md: every example is read by the real reader, every field stands on the page with its true default."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from pydantic import BaseModel

from jobs.errors import ManifestInvalid
from jobs.manifest import open_manifest
from jobs.manifest_identity import Composition, PhotoEntry, PlaceEntry, SliderEntry
from jobs.manifest_options import (
    GATED_ATTEMPTS,
    ControlEntry,
    DetailEntry,
    ImageEntry,
    InpaintEntry,
    OutputEntry,
)
from jobs.manifest_schema import DEFAULTS, IdentityEntry, JobEntry, PromptEntry, SetEntry, SetFile
from jobs.profiles import built_in_profiles, load_profiles
from jobs.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "manifest.md").read_text(encoding="utf-8")
MODELS: tuple[type[BaseModel], ...] = (
    JobEntry, SetEntry, SetFile, PromptEntry, IdentityEntry, PhotoEntry, Composition, PlaceEntry, SliderEntry,
    ControlEntry, ImageEntry, InpaintEntry, DetailEntry, OutputEntry,
)  # fmt: skip
PROMPTS = [{"text": "portrait photo of {subject}"}]
PEOPLE = [{"id": "somebody", "subject": "a person", "photos": ["photos/ada-1.jpg"]}]


def blocks(language: str) -> list[str]:
    """The page's code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A manifest's folder with every file that the page names."""
    shutil.copytree(ROOT / "examples" / "photos", tmp_path / "photos")
    for number, name in enumerate(
        ("photos/group.jpg", "pictures/postcard.jpg", "poses/standing.png", "masks/front.png")
    ):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        Image.new("RGB", (64, 64), (9 * number, 90, 90)).save(file)
    (tmp_path / "prompts").mkdir()
    (style,) = [block for block in blocks("yaml") if block.startswith("# prompts/styles.yaml")]
    (tmp_path / "prompts" / "styles.yaml").write_text(style, encoding="utf-8")
    return tmp_path


def read(file: Path, home: Path, **more: Any) -> int:
    """The pictures that the manifest asks for. Raises ManifestInvalid with every fault."""
    with open_manifest(file, settings=Settings(home=home, _env_file=None), **more) as opened:
        return opened.check().renders


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: block.splitlines()[0][:40])
def test_every_example_is_right(block: str, folder: Path) -> None:
    # Given an example, with a prompt and a person where it shows neither
    manifest = yaml.safe_load(block)
    if block.startswith("# prompts/styles.yaml"):
        manifest = {"prompts": [{"set": "prompts/styles.yaml"}]}
    whole = {"prompts": PROMPTS, "identities": PEOPLE, **manifest}
    file = folder / "manifest.yaml"
    file.write_text(yaml.safe_dump(whole, sort_keys=False), encoding="utf-8")

    # When it is read, then there is no fault, and something to draw
    try:
        assert read(file, folder / "home") > 0
    except ManifestInvalid as error:
        pytest.fail(str(error))


def test_the_table_and_the_stream_are_right(folder: Path) -> None:
    (table,), (stream,) = blocks("csv"), blocks("json")
    (folder / "people.csv").write_text(table, encoding="utf-8")
    (folder / "people.jsonl").write_text(stream, encoding="utf-8")
    (folder / "job.yaml").write_text(yaml.safe_dump({"prompts": [{"text": "{subject}, a {role}"}]}), encoding="utf-8")
    assert read(folder / "people.csv", folder / "home", job_file=folder / "job.yaml") == 2
    assert read(folder / "people.jsonl", folder / "home") == 2
    assert all(json.loads(line) for line in stream.splitlines())


@pytest.mark.parametrize(("name", "pictures"), [("studio.yaml", 27), ("controls.yaml", 3)])
def test_the_examples_of_the_page_are_right(name: str, pictures: int, tmp_path: Path) -> None:
    assert read(ROOT / "examples" / name, tmp_path / "home") == pictures


def profile_texts() -> Iterator[tuple[str, str]]:
    """Every profiles file that the docs show, with the page."""
    for page in ("README.md", "docs/lora.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        yield from ((page, block) for block in re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    commented = re.findall(
        r"^#   (.*)$", (ROOT / "examples" / "controls.yaml").read_text(encoding="utf-8"), re.MULTILINE
    )
    yield "examples/controls.yaml", "\n".join(commented)


@pytest.mark.parametrize(("page", "text"), list(profile_texts()), ids=lambda value: value[:24])
def test_every_profile_that_is_shown_is_right(page: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / "profiles.toml"
    file.write_text(text, encoding="utf-8")
    found = load_profiles(Settings(home=tmp_path, profiles_file=file, _env_file=None))
    assert len(found.keys() - built_in_profiles().keys()) == 1, page


def keys(tree: Any) -> Iterator[str]:
    """Every key of the examples."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield str(key)
            yield from keys(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from keys(value)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_field_has_its_words_and_an_example(model: type[BaseModel]) -> None:
    shown = {key for block in blocks("yaml") for key in keys(yaml.safe_load(block))}
    told = set(re.findall(r"`([a-z_]+)`", PAGE))
    fields = set(model.model_fields)
    assert sorted(fields - shown) == [], "no example has it"
    assert sorted(fields - told - {"file", "edited", "original"}) == [], "no table or sentence names it"


def test_the_defaults_are_those_of_the_code() -> None:
    # Given the rows `field` | words | default
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| .* \| ([^|]*) \|$", PAGE, flags=re.MULTILINE))

    # Then each default is the code's
    size = "x".join(map(str, DEFAULTS.size))
    assert (rows["scheduler"], rows["negative_prompt"]) == (DEFAULTS.scheduler, "empty")
    assert f"multiples of 8 from 64. | {size} |" in PAGE
    for name in ("guidance", "lora_weight"):
        assert float(rows[name]) == getattr(DEFAULTS, name)
    assert (int(rows["seeds"]), rows["priority"]) == (
        DEFAULTS.seeds.count,
        str(JobEntry.model_fields["priority"].default),
    )
    assert f"Denoising steps. | {DEFAULTS.steps} |" in PAGE
    assert float(rows["scale"]) == ControlEntry.model_fields["scale"].default
    detail = DetailEntry()
    assert (rows["when"], float(rows["below"]), int(rows["faces"])) == (detail.when, detail.below, detail.faces)
    assert f"Steps of each redrawing. | {detail.steps} |" in PAGE and f"up to 1. | {detail.strength} |" in PAGE
    assert rows["format"] == OutputEntry().format and f"({GATED_ATTEMPTS} unless given" in PAGE
    assert f"strength: {ImageEntry.model_fields['strength'].default}" in PAGE
    assert f"strength: {InpaintEntry.model_fields['strength'].default}" in PAGE


@pytest.mark.parametrize("page", ["manifest.md", "lora.md"])
def test_links_and_pictures_are_there(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for target, _, anchor in re.findall(r"\]\(([^)#\s]*)(#([a-z0-9-]+))?\)", text):
        file = ROOT / "docs" / target if target else ROOT / "docs" / page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}

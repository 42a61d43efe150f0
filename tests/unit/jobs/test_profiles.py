"""Profiles: presets below defaults, a safety checker that is chosen, names that manifests may use."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.errors import ProfileInvalid
from jobs.presets import PRESETS
from jobs.profiles import (
    MINI,
    MINI_UNTRAINED,
    PACK_CARD,
    UNTRAINED_NOTICE,
    built_in_profiles,
    drawing_defaults,
    find_profile,
    load_profiles,
)
from jobs.settings import Settings

MODEL = 'base = "b"\nhyperlora = "h"\nclip_vision = "c"\n'
Write = Callable[[str], Settings]


@pytest.fixture
def write(tmp_path: Path, settings: Settings) -> Write:
    def written(text: str) -> Settings:
        (tmp_path / "profiles.toml").write_text(text)
        return settings.model_copy(update={"profiles_file": tmp_path / "profiles.toml"})

    return written


def test_the_built_in_profile_has_no_checker_by_name(settings: Settings) -> None:
    assert find_profile(settings, MINI).safety == "none"


def test_a_profile_says_how_pictures_are_checked(write: Write) -> None:
    # Given a profile that says nothing of it
    with pytest.raises(ProfileInvalid, match=r'\[profiles.big\].*`safety`.*safety = "none"'):
        load_profiles(write(f"[profiles.big]\n{MODEL}"))

    # Then saying that there is none is enough
    assert load_profiles(write(f'[profiles.big]\n{MODEL}safety = "none"\n'))["big"].safety == "none"


def test_fakes_and_a_changed_mini_need_none(write: Write) -> None:
    found = load_profiles(write('[profiles.fake]\nrenderer = "fake"\n[profiles.mini]\nbatch_size = 2\n'))
    assert (found["fake"].safety, found["mini"].safety, found["mini"].batch_size) == ("", "none", 2)
    # Then all else of the built-in profile is as it was
    assert found["mini"] == built_in_profiles()["mini"].model_copy(update={"batch_size": 2})


def test_a_mini_of_other_weights_takes_nothing_from_the_built_in_one(write: Write) -> None:
    found = load_profiles(write(f'[profiles.mini]\n{MODEL}safety = "none"\n'))["mini"]
    assert (found.base, found.faces, found.dtype, found.notice) == ("b", "opencv", "float16", None)
    with pytest.raises(ProfileInvalid, match="lacks hyperlora, clip_vision"):
        load_profiles(write('[profiles.mini]\nbase = "b"\n'))


def test_mini_is_the_pack_of_a_checkout(tmp_path: Path) -> None:
    # Given a checkout's packs
    (tmp_path / "mini-tiny").mkdir()
    card = {
        "sdxl": "sdxl", "hyperlora": "hyperlora", "clip_vision": "clip", "faces": "insightface:mini_faces",
        "size": 64, "steps": 20, "scheduler": "dpmpp_2m_karras", "guidance": 3.0,
    }  # fmt: skip
    (tmp_path / "mini-tiny" / PACK_CARD).write_text(json.dumps(card))

    # When the built-in profiles are made
    found = built_in_profiles(tmp_path)

    # Then mini has the pack's places and numbers, and nothing to be warned of
    mini = found[MINI]
    assert (mini.base, mini.clip_vision) == (str(tmp_path / "mini-tiny/sdxl"), str(tmp_path / "mini-tiny/clip"))
    assert mini.faces == f"insightface:{tmp_path}/mini-tiny/mini_faces"
    assert mini.drawing() == {"size": 64, "steps": 20, "scheduler": "dpmpp_2m_karras", "guidance": 3.0}
    assert mini.notice is None and found[MINI_UNTRAINED].notice is not None


def test_without_a_checkout_mini_is_untrained(tmp_path: Path) -> None:
    found = built_in_profiles(tmp_path)
    assert found[MINI].base == "" and found[MINI].drawing()["size"] == 128
    assert found[MINI].notice == UNTRAINED_NOTICE


def test_a_preset_lies_below_what_the_profile_says(write: Write) -> None:
    # Given a profile with a preset and one value of its own
    text = f'[profiles.fast]\n{MODEL}safety = "none"\npreset = "lightning-4"\ndefaults = {{ size = 1024, steps = 5 }}\n'

    # Then its values count, and the preset's where it says nothing
    assert drawing_defaults(write(text))("fast") == {
        "size": 1024,
        "steps": 5,
        "scheduler": "euler_trailing",
        "guidance": 0.0,
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('preset = "lightning-5"', "unknown preset 'lightning-5', known: lightning-2, "),
        ('preset_weights = "x.safetensors"', "`preset_weights` without `preset`"),
        ('controlnets = { "a b" = "x" }', "controlnets"),
        ('controlnets = { pose = "" }', "controlnets"),
        ("upscalers = { x4 = 4 }", "upscalers"),
        ("safety = true", "safety"),
        ('lossy = { linears = "int4" }', "lossy.linears: Input should be 'int8', 'fp8' or 'fp8-emulated'"),
        ('lossy = { linear = "int8" }', "lossy: .*unknown option 'linear', known: linears, cache"),
        ("lossy = { cache = { evry = 2 } }", "lossy.cache: .*unknown option 'evry', known: every, first, blocks"),
        ("lossy = { cache = { every = 17 } }", "lossy.cache.every: .*less than or equal to 16"),
        ("lossy = {}", "lossy: .*wanted any of linears, cache, found none"),
        ('lossy = "int8"', "lossy: .*wanted a table with any of linears, cache, found 'int8'"),
    ],
)
def test_faults_of_a_profile(write: Write, line: str, message: str) -> None:
    lines = "" if line.startswith("safety") else 'safety = "none"\n'
    with pytest.raises(ProfileInvalid, match=message):
        load_profiles(write(f"[profiles.big]\n{MODEL}{lines}{line}\n"))


def test_a_profile_is_exact_unless_it_says_otherwise(write: Write) -> None:
    # Given a profile of its own, and the built-in one with a line more
    text = f'[profiles.big]\n{MODEL}safety = "none"\n[profiles.mini]\nlossy = {{ linears = "int8", cache = {{}} }}\n'
    found = load_profiles(write(text))
    # Then only what is asked for is on, with its defaults, and in words
    assert found["big"].lossy is None and built_in_profiles()[MINI].lossy is None
    lossy = found[MINI].lossy
    assert lossy is not None
    assert lossy.told() == {"linears": "int8", "cache": {"every": 2, "first": 0.25, "blocks": 1}}
    assert lossy.words() == "linears int8; cache every 2, first 0.25, blocks 1"


def test_a_preset_is_drawn_as_the_model_says() -> None:
    """Both packages keep a table, since a producer has no torch: they must say the same."""
    from hyperlora.presets import PRESETS as KNOWN

    there = {
        name: {"scheduler": one.scheduler, "steps": one.steps, "guidance": one.guidance} for name, one in KNOWN.items()
    }
    assert {name: dict(values) for name, values in PRESETS.items()} == there


def test_a_manifest_may_name_the_schedulers_that_the_model_has() -> None:
    from hyperlora.schedulers import SCHEDULERS as KNOWN
    from jobs.manifest_schema import SCHEDULERS, Drawing

    assert set(SCHEDULERS) == set(KNOWN)
    for name in SCHEDULERS:
        assert Drawing.model_validate({"scheduler": name}).scheduler == name


def test_a_changed_default_leaves_the_built_in_ones(write: Write) -> None:
    # Given a profile of the mini pack that changes one number, and one that names a preset
    before = built_in_profiles()[MINI].drawing()
    changed = load_profiles(write("[profiles.mini]\ndefaults = { steps = 7 }\n"))[MINI].drawing()
    few = load_profiles(write('[profiles.mini]\npreset = "lightning-4"\npreset_weights = "w"\n'))[MINI].drawing()

    # Then the rest stays as it was, and the preset decides what it is about
    assert changed == {**before, "steps": 7}
    assert (few["size"], few["steps"], few["scheduler"]) == (before["size"], 4, "euler_trailing")

"""From a profile or a pack's folder to the model that is evaluated."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperlora.errors import InvalidRequest
from jobs.settings import Settings
from worker.evaluation import PROMPTS, drawn_subjects, is_mini, load_model, read_prompts

PROFILES = """
[profiles.own]
base = "{pack}/sdxl"
hyperlora = "{pack}/hyperlora"
clip_vision = "{pack}/clip_vision"
faces = "opencv"
dtype = "float32"
batch_size = 3
safety = "none"
defaults = {{ size = 64, steps = 2, guidance = 1.5 }}

[profiles.fake]
renderer = "fake"
"""


@pytest.fixture
def settings(tmp_path: Path, untrained: Path) -> Settings:
    """A home that has the untrained pack, and a profile of the same weights."""
    (tmp_path / "packs").mkdir()
    (tmp_path / "packs" / "mini-untrained").symlink_to(untrained, target_is_directory=True)
    profiles = tmp_path / "profiles.toml"
    profiles.write_text(PROFILES.format(pack=untrained), encoding="utf-8")
    return Settings(home=tmp_path, profiles_file=profiles, profile="mini-untrained", device="cpu")


def test_a_built_in_profile_is_its_pack(settings: Settings, untrained: Path) -> None:
    # When the untrained pack is loaded by profile and by folder
    by_profile = load_model(settings, pack=None, profile=None, changes={"steps": 3})
    by_folder = load_model(settings, pack=untrained, profile=None, changes={"steps": 3})

    # Then both are the same model of the mini world
    assert by_profile.name == "mini-untrained" and is_mini(by_profile) and by_profile.setting.steps == 3
    assert by_profile.fingerprint == by_folder.fingerprint


def test_a_profile_draws_as_it_says(settings: Settings) -> None:
    model = load_model(settings, pack=None, profile="own", changes={"weight": 0.5})
    drawn = model.setting
    assert (drawn.size, drawn.steps, drawn.guidance, drawn.batch_size, drawn.weight) == (64, 2, 1.5, 3, 0.5)
    assert model.name == "own" and not is_mini(model)


def test_a_profile_without_a_checkpoint_is_refused(settings: Settings) -> None:
    with pytest.raises(InvalidRequest, match="has no HyperLoRA checkpoint"):
        load_model(settings, pack=None, profile="fake", changes={})


def test_drawn_people_have_prompts_of_their_own(settings: Settings, untrained: Path) -> None:
    model = load_model(settings, pack=untrained, profile=None, changes={"size": 64})
    one, other = drawn_subjects(model, people=2, prompts=2, photos=1)
    assert (one.name, other.name) == ("2000000", "2000001") and set(one.prompts).isdisjoint(other.prompts)
    assert one.photos[0].size == (256, 256) and one.gallery is not None and one.gallery[0].size == (64, 64)
    assert len(set(one.seeds) | set(other.seeds)) == 4


def test_prompts_are_lines(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("# people\n a garden \n\nat sea\n", encoding="utf-8")
    assert read_prompts(file) == ["a garden", "at sea"] and read_prompts(None) == list(PROMPTS)
    for content in ("\n# nothing\n", None):
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_text(content, encoding="utf-8")
        with pytest.raises(InvalidRequest, match="prompt"):
            read_prompts(file)

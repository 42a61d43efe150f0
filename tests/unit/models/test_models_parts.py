"""Which files are read, which licence holds, and that a worker loads what is locked."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from hyperlora.errors import WeightsMissing
from jobs.profiles import Profile, built_in_profiles
from jobs.settings import Settings
from worker.errors import LicenceNotAccepted, LockInvalid
from worker.models import lock
from worker.models.licence import Licence, licence_of, require_accepted
from worker.models.lock import Locked, LockedFile
from worker.models.parts import Part, is_safe_name, parts_of, wanted_files
from worker.models.pinned import pinned

COMMIT = "c" * 40


@pytest.mark.parametrize(
    "name",
    [
        "../outside.safetensors",
        "/etc/x.json",
        "a/../../x.json",
        "a\\..\\x.json",
        ".hidden.json",
        "a/.git/x.json",
        "model.bin",
        "model.safetensors.py",
        "model.pt",
        "x\n.json",
        "x" * 500 + ".json",
        "",
    ],
)
def test_a_hostile_or_needless_name_is_left_out(name: str) -> None:
    assert not is_safe_name(name)
    part = Part("lab/model", "folder", ("x",))
    assert wanted_files(part, [name, "model.safetensors"]) == ["model.safetensors"]


def test_sharded_weights_of_a_pipeline_are_wanted_and_other_variants_are_not() -> None:
    names = [
        "unet/model-00001-of-00002.safetensors",
        "unet/model-00002-of-00002.safetensors",
        "unet/model.safetensors.index.json",
        "unet/model.fp16-00001-of-00002.safetensors",
        "safety_checker/model.safetensors",
        "model_index.json",
    ]
    wanted = wanted_files(Part("studio/sdxl", "pipeline", ("x",)), names)
    assert wanted == sorted(["model_index.json", *names[:3]])


def test_one_file_is_wanted_where_one_is_named() -> None:
    part = Part("ByteDance/SDXL-Lightning/four.safetensors", "file", ("x",))
    assert wanted_files(part, ["four.safetensors", "eight.safetensors", "config.json"]) == ["four.safetensors"]
    with pytest.raises(WeightsMissing, match="no weights in safetensors"):
        wanted_files(part, ["eight.safetensors"])


def test_what_several_profiles_share_is_one_part() -> None:
    # Given two profiles with one tower, and a fake one
    shared = {"clip_vision": "openai/clip-vit-large-patch14", "hyperlora": "lab/h", "faces": "insightface:/packs/a"}
    first = Profile(name="a", base="studio/a", revision="v1", controlnets={"pose": "lab/pose"}, **shared)
    second = Profile(name="b", base="studio/a", upscalers={"x4": "/up/x4.safetensors"}, safety="lab/safe", **shared)
    fake = Profile(name="f", renderer="fake")
    # Then each place is there once with whom it is for, and the base twice, as its revision differs
    parts = {(part.place, part.revision): part for part in parts_of([first, second, fake])}
    assert parts["openai/clip-vit-large-patch14", None].names == ("a: clip_vision", "b: clip_vision")
    assert {place for place, _ in parts} == {
        *(
            "studio/a",
            "lab/h",
            "openai/clip-vit-large-patch14",
            "/packs/a",
            "lab/pose",
            "lab/safe",
            "/up/x4.safetensors",
        )
    }
    assert ("studio/a", "v1") in parts and ("studio/a", None) in parts
    assert parts["/packs/a", None].is_local and not parts["lab/pose", None].is_local


def test_the_repositorys_own_licence_comes_first() -> None:
    clip = Part("openai/clip-vit-large-patch14", "folder", ("x",))
    assert licence_of(clip).id == "mit"
    assert licence_of(clip, "apache-2.0") == Licence("apache-2.0")
    assert licence_of(Part("lab/none", "folder", ("x",))).id == "unknown"
    mini = next(part for part in parts_of(built_in_profiles().values()))
    assert licence_of(mini).id == "apache-2.0"


def test_an_unknown_licence_must_be_accepted_too() -> None:
    wanted = [("lab/none", Licence("unknown"))]
    with pytest.raises(LicenceNotAccepted, match="--accept-licence unknown"):
        require_accepted(wanted, ["mit"])
    require_accepted(wanted, ["unknown"])
    require_accepted(wanted, ["all"])


@pytest.fixture
def chosen(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")  # type: ignore[call-arg]


def test_a_worker_loads_what_is_locked_and_here(
    chosen: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Given two locked models, one of which is here, and one that was never pulled
    here = tmp_path / "weights"
    (here / "fidelity").mkdir(parents=True)
    (here / "fidelity" / "a.safetensors").write_bytes(b"weights")
    file = LockedFile(7, hashlib.sha256(b"weights").hexdigest())
    locked = {
        "lab/h/fidelity": Locked("mit", {"fidelity/a.safetensors": file}, "main", COMMIT, str(here)),
        "studio/a@v1": Locked("mit", {"model_index.json": file}, "v1", COMMIT, str(tmp_path / "gone")),
    }
    lock.write(lock.path_of(chosen), locked)
    assert lock.read(lock.path_of(chosen)) == locked
    profile = Profile(name="a", base="studio/a", revision="v1", hyperlora="lab/h/fidelity", clip_vision="lab/clip")
    # When it is pinned
    found = pinned(profile, chosen)
    # Then the one that is here is a folder of this machine, and the others are as they were, which is said
    assert found.hyperlora == str(here / "fidelity")
    assert (found.base, found.clip_vision) == ("studio/a", "lab/clip")
    assert "studio/a is locked, and not all of it is here" in caplog.text
    # And without a lock file nothing changes
    lock.path_of(chosen).unlink()
    assert pinned(profile, chosen) is profile


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"version": 2, "models": {}}', '{"version": 1, "models": {"a": 1}}'])
def test_a_lock_file_that_is_none_is_told(chosen: Settings, text: str) -> None:
    path = lock.path_of(chosen)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(LockInvalid, match=r"models\.lock"):
        lock.read(path)


def test_the_lock_lies_beside_the_profiles(tmp_path: Path) -> None:
    chosen = Settings(home=tmp_path / "home", profiles_file=tmp_path / "here" / "p.toml")  # type: ignore[call-arg]
    assert lock.path_of(chosen) == tmp_path / "here" / "models.lock"
    lock.write(lock.path_of(chosen), {"b": Locked("mit"), "a": Locked("mit")})
    assert list(json.loads(lock.path_of(chosen).read_text())["models"]) == ["a", "b"]
    assert [path.name for path in lock.path_of(chosen).parent.iterdir()] == ["models.lock"]

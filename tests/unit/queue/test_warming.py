"""What a worker compiles before it is ready and when it is idle, and where the code is kept."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from pydantic import ValidationError

from hyperlora.compiler import EngineOptions
from hyperlora.errors import CompilationFailed
from hyperlora.pipeline import PortraitPipeline
from hyperlora.shapes import Shape
from jobs.errors import SettingsInvalid
from jobs.settings import Settings
from worker.engine_choice import save_choice
from worker.warming import BUDGET_SECONDS, CACHES, IDLE_SECONDS, Warming, engine_options, keep_compiled, sizes_to_warm

H100, EAGER = "NVIDIA H100", EngineOptions(fuse_qkv=True, channels_last=True)
BLOCKS, WHOLE = replace(EAGER, compile="blocks"), replace(EAGER, compile="whole")


def asking(folder: Path, **asked: Any) -> Settings:
    """Settings of a home in a folder."""
    return Settings(home=folder, **asked)


class StandIn:
    """A pipeline and its engine that note what they are asked to compile."""

    default_size = 1024

    def __init__(self, fails: Callable[[tuple[Any, ...]], Exception | None] = lambda asked: None) -> None:
        self.options, self.engine = BLOCKS, self
        self.asked: list[tuple[Any, ...]] = []
        self.wanted: Counter[Shape] = Counter()
        self.compiled: list[Shape] = []
        self._fails = fails

    def warm(self, width: int, height: int, batch: int, *, guided: bool, rank: int | None) -> float:
        self.asked.append((width, height, batch, guided, rank))
        fault = self._fails(self.asked[-1])
        if fault is not None:
            raise fault
        return 1.0

    def want(self, width: int, height: int, batch: int, *, guided: bool, rank: int | None, times: int) -> Shape:
        shape = Shape(width, height, 2 * batch if guided else batch, 77, rank or 0)
        self.wanted[shape] += times
        return shape

    def most_wanted(self, *, at_least: int) -> Shape | None:
        return next((shape for shape, times in self.wanted.most_common() if times >= at_least), None)

    def warm_wanted(self, *, at_least: int) -> Shape | None:
        fault = self._fails(())
        if fault is not None:
            raise fault
        shape = self.most_wanted(at_least=at_least)
        if shape is not None:
            del self.wanted[shape]
            self.compiled.append(shape)
        return shape

    def run_with(self, options: EngineOptions) -> None:
        self.options = options


def warming(
    pipeline: StandIn,
    given: Settings,
    *,
    now: Callable[[], float] = lambda: 0.0,
    wait: Callable[[float], object] = lambda seconds: None,
) -> Warming:
    return Warming(cast(PortraitPipeline, pipeline), given, batch=8, guided=True, rank=4, now=now, wait=wait)


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set for PyTorch is forgotten after each test."""
    for variable in CACHES:
        monkeypatch.setenv(variable, "to be removed")
        monkeypatch.delenv(variable)


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ("auto", [(1024, 1024), (896, 896)]),
        ("none", []),
        ("832x1216", [(832, 1216)]),
        ("832x1216, 1024x1024,832x1216", [(832, 1216), (1024, 1024)]),
    ],
)
def test_sizes_are_those_that_are_named(asked: str, wanted: list[tuple[int, int]]) -> None:
    assert Settings(warm=asked).warm == asked
    assert sizes_to_warm(asked, side=1024, detail_side=896) == wanted


@pytest.mark.parametrize("asked", ["", "1024", "1024x", "0x64", "99999x64", "64x64;rm", ",".join(["64x64"] * 17)])
def test_what_is_no_size_is_refused(asked: str) -> None:
    with pytest.raises(ValidationError, match="warm"):
        Settings(warm=asked)


@pytest.mark.parametrize(
    ("compile_what", "device", "wanted"),
    [
        ("auto", "cpu", EAGER),
        ("auto", "cuda", BLOCKS),
        ("off", "cuda:1", EAGER),
        ("whole", "cpu", WHOLE),
    ],
)
def test_gpus_compile_and_cpus_do_not_unless_asked(
    tmp_path: Path, compile_what: str, device: str, wanted: EngineOptions
) -> None:
    assert engine_options(asking(tmp_path, compile=compile_what), device, H100) == wanted


def test_what_was_measured_is_used_unless_another_way_is_asked_for(tmp_path: Path) -> None:
    # Given a card on which compiling the whole was found to be best
    best = EngineOptions(compile="whole", room=1.5)
    save_choice(tmp_path, H100, best)

    # Then it is done so there, and not on other cards, nor where a way is named
    assert engine_options(asking(tmp_path), "cuda", H100) == best
    assert engine_options(asking(tmp_path), "cuda", "NVIDIA L4") == BLOCKS
    assert engine_options(asking(tmp_path, compile="blocks"), "cuda", H100) == BLOCKS


def test_before_work_each_size_is_compiled_for_one_person_and_for_several(tmp_path: Path) -> None:
    # Given a worker that is asked for one size
    pipeline = StandIn()

    # When it makes ready
    warming(pipeline, asking(tmp_path, warm="640x512")).before_work(detail_side=896, should_stop=lambda: False)

    # Then both kinds of batches are compiled, and the code is kept in its home
    assert pipeline.asked == [(640, 512, 8, True, None), (640, 512, 8, True, 4)]
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "compiled" / "inductor")


def test_a_worker_that_is_told_to_stop_compiles_no_more(tmp_path: Path) -> None:
    pipeline = StandIn()
    warming(pipeline, asking(tmp_path)).before_work(detail_side=896, should_stop=lambda: len(pipeline.asked) == 1)
    assert pipeline.asked == [(1024, 1024, 8, True, None)]


def test_a_machine_without_a_compiler_draws_without_compiled_code_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a machine that cannot compile
    def broken(_asked: tuple[Any, ...]) -> Exception:
        return CompilationFailed("no code can be compiled for 1024x1024: no C++ compiler")

    pipeline = StandIn(broken)

    # When nobody asked for it by name, then it goes on eager, and tries no second time
    warming(pipeline, asking(tmp_path)).before_work(detail_side=896, should_stop=lambda: False)
    assert pipeline.options == EAGER and len(pipeline.asked) == 1
    assert "no C++ compiler; drawing goes on without compiled code" in caplog.text

    # And when somebody did, then the worker is not ready
    with pytest.raises(CompilationFailed):
        warming(StandIn(broken), asking(tmp_path, compile="blocks")).before_work(
            detail_side=896, should_stop=lambda: False
        )


def test_a_size_that_does_not_fit_does_not_keep_others_from_being_compiled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = StandIn(lambda asked: torch.OutOfMemoryError() if asked[0] == 1024 else None)
    warming(pipeline, asking(tmp_path)).before_work(detail_side=896, should_stop=lambda: False)
    assert [each[0] for each in pipeline.asked] == [1024, 1024, 896, 896]
    assert "8 pictures of 1024x1024 do not fit" in caplog.text


def test_what_warming_has_no_time_for_is_left_for_idle_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # Given a machine that needs six minutes for each shape
    pipeline = StandIn()
    slow = warming(pipeline, asking(tmp_path), now=lambda: 360.0 * len(pipeline.asked))
    assert BUDGET_SECONDS == 600.0

    # When it makes ready
    slow.before_work(detail_side=896, should_stop=lambda: False)

    # Then it is ready after two, and the others are compiled when nothing comes
    assert pipeline.asked == [(1024, 1024, 8, True, None), (1024, 1024, 8, True, 4)]
    assert "896x896, 16 rows, 77 tokens is compiled when there is nothing to draw" in caplog.text
    for _ in range(3):
        slow.when_idle(lambda: False)
    assert pipeline.compiled == [Shape(896, 896, 16, 77), Shape(896, 896, 16, 77, 4)]


OFTEN, SELDOM = Shape(832, 1216, 16, 77), Shape(640, 640, 16, 77)


def test_an_idle_worker_compiles_one_shape_at_a_time_and_none_that_is_rare(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a shape that was missed often, another, and one that was missed twice
    caplog.set_level("INFO")
    pipeline = StandIn()
    pipeline.wanted.update({OFTEN: 4, Shape(512, 512, 16, 77): 3, SELDOM: 2})
    beside = warming(pipeline, asking(tmp_path))

    # When it is idle once
    beside.when_idle(lambda: False)

    # Then the first was compiled
    assert pipeline.compiled == [OFTEN] and "832x1216, 16 rows" in caplog.text

    # And when it is idle again and again, the rare one never is
    for _ in range(3):
        beside.when_idle(lambda: False)
    assert len(pipeline.compiled) == 2 and pipeline.wanted == Counter({SELDOM: 2})


def test_new_work_is_awaited_before_anything_is_compiled(tmp_path: Path) -> None:
    # Given an idle worker with something to compile, and work that comes after some seconds
    pipeline, waited = StandIn(), [0.0]
    pipeline.wanted[OFTEN] = 3

    def wait(seconds: float) -> None:
        waited[0] += seconds

    beside = warming(pipeline, asking(tmp_path), wait=wait)

    # When it is idle / Then it turns to the work within a second or two, and has compiled nothing
    beside.when_idle(lambda: waited[0] >= 7.5)
    assert 7.5 <= waited[0] < 9.5 and pipeline.compiled == []

    # And when nothing comes it begins after a while; with nothing to compile it does not wait
    waited[0] = 0.0
    beside.when_idle(lambda: False)
    beside.when_idle(lambda: False)
    assert waited[0] == IDLE_SECONDS and pipeline.compiled == [OFTEN]


def test_a_fault_while_idle_harms_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipeline = StandIn(lambda asked: torch.OutOfMemoryError("no room"))
    pipeline.wanted[OFTEN] = 3
    warming(pipeline, asking(tmp_path)).when_idle(lambda: False)
    assert "stays without compiled code: no room" in caplog.text


def test_compiled_code_is_kept_where_nobody_else_can_write(tmp_path: Path) -> None:
    # Given a home in which the folder was opened to a group, as Kubernetes does with every file of a volume
    folder = tmp_path / "compiled"
    (folder / "inductor").mkdir(parents=True)
    folder.chmod(0o2770)

    # When a worker starts / Then it closes the folder, and keeps its code there
    keep_compiled(tmp_path)
    assert folder.stat().st_mode & 0o777 == 0o750
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(folder / "inductor")


def test_a_folder_is_made_that_only_the_worker_can_open(tmp_path: Path) -> None:
    keep_compiled(tmp_path)
    assert (tmp_path / "compiled").stat().st_mode & 0o777 == 0o700


def not_ours(folder: Path, patched: pytest.MonkeyPatch) -> None:
    patched.setattr("worker.warming.os.getuid", lambda: folder.stat().st_uid + 1)


def not_to_be_closed(_folder: Path, patched: pytest.MonkeyPatch) -> None:
    patched.setattr(Path, "chmod", lambda self, mode: None)


def not_allowed(_folder: Path, patched: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    patched.setattr(Path, "chmod", refuse)


def written_by_others(folder: Path, patched: pytest.MonkeyPatch) -> None:
    (folder / "planted.py").touch()
    own = Path.lstat
    patched.setattr(Path, "lstat", lambda self: os.stat_result([0, 0, 0, 0, own(self).st_uid + 1, 0, 0, 0, 0, 0]))


@pytest.mark.parametrize("spoil", [not_ours, not_to_be_closed, not_allowed, written_by_others])
def test_code_that_others_may_have_written_is_never_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Path, pytest.MonkeyPatch], None],
) -> None:
    # Given a folder that others may write to and that cannot be made the worker's own
    folder = tmp_path / "compiled"
    folder.mkdir()
    folder.chmod(0o770)
    with monkeypatch.context() as patched:
        spoil(folder, patched)
        patched.setattr("worker.warming.tempfile.tempdir", str(tmp_path))

        # When compiling was asked for by name, then the worker is not ready
        with pytest.raises(SettingsInvalid, match="chmod -R go-w"):
            keep_compiled(tmp_path)
        assert not os.environ.keys() & CACHES.keys()

        # And when not, it warns and compiles elsewhere, once, where only it can write
        keep_compiled(tmp_path, required=False)
        keep_compiled(tmp_path, required=False)
    (elsewhere,) = tmp_path.glob("portraits-compiled-*")
    assert os.environ["TRITON_CACHE_DIR"] == str(elsewhere / "triton")
    assert elsewhere.stat().st_mode & 0o777 == 0o700
    assert "the next start compiles again" in caplog.text


def test_a_place_that_was_named_for_pytorch_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/elsewhere")
    keep_compiled(tmp_path)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/elsewhere"
    assert os.environ["TRITON_CACHE_DIR"] == str(tmp_path / "compiled" / "triton")

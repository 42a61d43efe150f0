"""Where ONNX Runtime runs a pack: the best that is present, or what was asked for, and never a silent fall back."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from hyperlora.errors import ProviderMissing
from hyperlora.faces import load_analyzer
from hyperlora.faces.insightface import InsightFaceAnalyzer
from hyperlora.faces.providers import CPU, CUDA, TENSORRT, Providers, choose_providers

ALL = [TENSORRT, CUDA, CPU]


@pytest.mark.parametrize(
    "available, libraries, cache, chosen",
    [
        (ALL, True, True, (TENSORRT, CUDA, CPU)),
        (ALL, False, True, (CUDA, CPU)),  # the wheel names TensorRT whether its libraries are here or not
        (ALL, True, False, (CUDA, CPU)),  # engines that are not kept would be built at each start
        ([CUDA, CPU], True, True, (CUDA, CPU)),
        ([CPU], True, True, (CPU,)),
        (["AzureExecutionProvider", CPU], False, True, (CPU,)),
    ],
)
def test_left_alone_the_best_that_is_present_is_taken(
    available: list[str], libraries: bool, cache: bool, chosen: tuple[str, ...], tmp_path: Path
) -> None:
    found = choose_providers(
        available=available, engine_cache=tmp_path / "engines" if cache else None, has_tensorrt=lambda: libraries
    )
    assert found.names == chosen and not found.asked


def test_names_may_be_short_and_engines_are_kept(tmp_path: Path) -> None:
    # Given a folder for engines
    folder = tmp_path / "home" / "engines"
    # When TensorRT is asked for by its short name, with spaces as in a setting
    found = choose_providers(["TensorRT", " cuda"], available=ALL, engine_cache=folder)
    # Then it is taken by ONNX Runtime's, and builds its engines into the folder, which is there
    assert found.names == (TENSORRT, CUDA) and found.asked
    assert found.options[0]["trt_engine_cache_path"] == str(folder) and folder.is_dir()


def test_what_is_asked_for_must_be_there() -> None:
    with pytest.raises(ProviderMissing, match=r"CUDAExecutionProvider was asked for.*has CPUExecutionProvider"):
        choose_providers(["cuda", "cpu"], available=[CPU])


def test_a_session_on_another_device_than_asked_for_is_refused(tmp_path: Path) -> None:
    # Given CUDA asked for and present, of which a session fell back to the CPU as ONNX Runtime does
    asked = choose_providers(["cuda"], available=ALL)
    assert asked.check(tmp_path, [[CUDA, CPU], [CUDA, CPU]]) == (CUDA, CPU)
    with pytest.raises(ProviderMissing, match="was to run on CUDAExecutionProvider"):
        asked.check(tmp_path, [[CUDA, CPU], [CPU]])


def test_a_fall_back_that_nobody_forbade_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # Given nothing asked for, CUDA named by the runtime, and sessions that ended on the CPU
    chosen = choose_providers(available=[CUDA, CPU])
    with caplog.at_level(logging.INFO, logger="hyperlora.faces.providers"):
        taken = chosen.check(tmp_path, [[CUDA, CPU], [CPU]])
    # Then the log warns, and says what the pack runs on: the worst of its networks
    assert taken == (CPU,)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "runs on CPUExecutionProvider" in caplog.messages[-1]


def test_the_analyzer_tells_what_it_runs_on(pack: InsightFaceAnalyzer, pack_folder: Path) -> None:
    assert pack.providers == (CPU,)
    with pytest.raises(ProviderMissing):
        load_analyzer(f"insightface:{pack_folder}", providers=["tensorrt"])


def test_a_gpu_is_shared_with_what_draws_and_answers_as_a_cpu_does() -> None:
    # Given the second GPU, of which each network may take 512 MB
    found = choose_providers(["tensorrt", "cuda", "cpu"], available=ALL, gpu=1, gpu_bytes=512 << 20)
    tensorrt, cuda, cpu = found.options
    # When its options are looked at / Then CUDA takes no more than that, and rounds nothing to ten bits
    assert cuda == {
        "cudnn_conv_algo_search": "HEURISTIC",
        "cudnn_conv_use_max_workspace": "0",
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": "0",
        "device_id": "1",
        "gpu_mem_limit": "536870912",
    }
    assert tensorrt == {"device_id": "1", "trt_max_workspace_size": "536870912"}
    assert cpu == {}
    # And without a number or a limit it takes the first and what it needs
    assert {"device_id", "gpu_mem_limit"}.isdisjoint(choose_providers(["cuda"], available=ALL).options[0])


def test_an_analyzer_hands_on_which_gpu_it_is_given(pack_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a pack, and what providers are chosen with
    asked: list[object] = []

    def chosen(names: list[str], **terms: object) -> Providers:
        asked.append((terms["gpu"], terms["gpu_bytes"]))
        return choose_providers(names)

    monkeypatch.setattr("hyperlora.faces.insightface.choose_providers", chosen)
    # When it is loaded for a GPU / Then they are chosen for that GPU
    load_analyzer(f"insightface:{pack_folder}", providers=["cpu"], gpu=1, gpu_bytes=1000)
    assert asked == [(1, 1000)]

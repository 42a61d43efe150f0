"""On which device ONNX Runtime runs the networks of a face pack.

Left alone, it takes the best that is present: TensorRT, CUDA, the CPU. Asked for by name, it must be there: ONNX
Runtime itself would go on without a word on the CPU, tens of times slower.
"""

from __future__ import annotations

import ctypes.util
import importlib.util
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperlora.errors import ProviderMissing

log = logging.getLogger(__name__)
TENSORRT, CUDA, CPU = "TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"
SHORT = {"tensorrt": TENSORRT, "cuda": CUDA, "cpu": CPU}
BEST_FIRST = (TENSORRT, CUDA, CPU)
CUDA_OPTIONS = {
    # The exhaustive search for convolutions, the default, would be repeated for each size of a batch.
    "cudnn_conv_algo_search": "HEURISTIC",
    # What convolutions work with is held to 32 MB, and memory grows by what is asked for, not to the next power of two:
    # the rest of the card draws.
    "cudnn_conv_use_max_workspace": "0",
    "arena_extend_strategy": "kSameAsRequested",
    # Rounded to 10 bits, one photo's embedding would differ from a CPU's, and from its own in a batch.
    "use_tf32": "0",
}


@dataclass(frozen=True)
class Providers:
    """Execution providers, the preferred one first, and whether somebody asked for them by name."""

    names: tuple[str, ...]
    options: tuple[dict[str, Any], ...]
    asked: bool

    def check(self, place: Path, taken: Iterable[Sequence[str]]) -> tuple[str, ...]:
        """What the sessions run on, said in the log.

        Parameters
        ----------
        place
            The pack, for messages.
        taken
            Each session's providers, as ONNX Runtime tells them after loading.

        Raises
        ------
        ProviderMissing
            A session does not run on the provider that was asked for.
        """
        found = [tuple(each) for each in taken]
        for each in found:
            if self.names[0] not in each:
                message = (
                    f"the face pack {place} was to run on {self.names[0]}, ONNX Runtime took {', '.join(each)}: "
                    "its libraries (CUDA, cuDNN, TensorRT) are missing or of another version"
                )
                if self.asked:
                    raise ProviderMissing(f"{message}; install them, or ask for another provider")
                log.warning("%s", message)
        worst = min(found, key=lambda each: -_rank(each[0])) if found else self.names
        log.info("the face pack %s runs on %s", place, ", ".join(worst))
        return worst


def choose_providers(
    asked: Sequence[str] | None = None,
    *,
    available: Sequence[str] | None = None,
    engine_cache: Path | None = None,
    has_tensorrt: Callable[[], bool] | None = None,
    gpu: int | None = None,
    gpu_bytes: int | None = None,
) -> Providers:
    """The providers to load a pack with.

    Parameters
    ----------
    asked
        Names, the preferred first: tensorrt, cuda, cpu or ONNX Runtime's own; None or empty takes the best present.
    available
        What this ONNX Runtime was built with; None asks it.
    engine_cache
        Folder in which TensorRT keeps its engines, which take minutes to build. Without it, TensorRT is only taken when
        asked for.
    has_tensorrt
        Whether TensorRT's libraries are here: ONNX Runtime's GPU wheel names the provider with and without them.
    gpu
        The number of the GPU for CUDA and TensorRT; None for the first.
    gpu_bytes
        The most that each network may take of its memory; None for as much as it wants. TensorRT keeps to it in what it
        works with, not in its weights.

    Raises
    ------
    ProviderMissing
        A name that this ONNX Runtime does not have.
    """
    present = tuple(_present() if available is None else available)
    if asked:
        names = tuple(dict.fromkeys(SHORT.get(name.strip().lower(), name.strip()) for name in asked))
        for name in names:
            if name not in present:
                raise ProviderMissing(
                    f"the execution provider {name} was asked for, this ONNX Runtime has {', '.join(present)}; install "
                    "onnxruntime-gpu for CUDA and TensorRT, or ask for another one"
                )
    else:
        wanted = {CUDA, CPU} | ({TENSORRT} if engine_cache and (has_tensorrt or _tensorrt_libraries)() else set())
        names = tuple(name for name in BEST_FIRST if name in present and name in wanted) or present[:1]
    return Providers(names, tuple(_options(name, engine_cache, gpu, gpu_bytes) for name in names), bool(asked))


def _options(name: str, engine_cache: Path | None, gpu: int | None, gpu_bytes: int | None) -> dict[str, Any]:
    place = {} if gpu is None else {"device_id": str(gpu)}
    if name == CUDA:
        return {**CUDA_OPTIONS, **place, **({} if gpu_bytes is None else {"gpu_mem_limit": str(gpu_bytes)})}
    if name == TENSORRT:
        held = {} if gpu_bytes is None else {"trt_max_workspace_size": str(gpu_bytes)}
        return {**place, **held, **_kept_engines(engine_cache)}
    return {}


def _kept_engines(folder: Path | None) -> dict[str, Any]:
    if folder is None:
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    kept = {"trt_engine_cache_enable": True, "trt_timing_cache_enable": True}
    return {**kept, "trt_engine_cache_path": str(folder), "trt_timing_cache_path": str(folder)}


def _present() -> list[str]:
    import onnxruntime

    return list(onnxruntime.get_available_providers())


def _tensorrt_libraries() -> bool:
    return importlib.util.find_spec("tensorrt") is not None or ctypes.util.find_library("nvinfer") is not None


def _rank(name: str) -> int:
    return BEST_FIRST.index(name) if name in BEST_FIRST else len(BEST_FIRST)

"""PyTorch's compiler, held to what was asked of it: it compiles while warming, and never while drawing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from hyperlora.errors import CompilationFailed, InvalidRequest

Compile = Literal["off", "blocks", "whole"]
ROOM = 1.18
"""So much dearer an eager step is than a compiled one: a batch may be filled up by this factor. Seen on an H100."""
DRAWING, WARMING, PROVING = "eager_on_recompile", "default", "fail_on_recompile"
"""What the compiler does when it meets a shape that it has no code for: run it eager, make the code, or raise."""
MOST_GRAPHS = 1024
GRAPH_MODES = ("reduce-overhead", "max-autotune")
"""Modes of `torch.compile` that capture CUDA graphs."""


@dataclass(frozen=True)
class EngineOptions:
    """How the networks are run; every choice gives the same pictures, but for rounding.

    Parameters
    ----------
    compile
        `whole` compiles the UNet, `blocks` its repeated blocks, which takes a fraction of the time.
    fuse_qkv
        Queries, keys and values by one product.
    cache_text
        Keys and values of the text once a batch instead of once a step.
    channels_last
        The memory layout of convolutions that GPUs are fastest with; None: on GPUs.
    backend, mode
        Of `torch.compile`.
    room
        By what factor a batch may be filled up to reach a compiled shape.
    """

    compile: Compile = "off"
    fuse_qkv: bool = False
    cache_text: bool = True
    channels_last: bool | None = None
    backend: str | Callable[..., Any] = "inductor"
    mode: str | None = None
    room: float = ROOM

    def __post_init__(self) -> None:
        if self.compile not in get_args(Compile):
            raise InvalidRequest(f"compile wants one of {', '.join(get_args(Compile))}, found {self.compile!r}")
        if self.mode in GRAPH_MODES:
            raise InvalidRequest(
                f"mode {self.mode!r} keeps results in memory that the next call takes; use one without CUDA graphs"
            )
        if not 1.0 <= self.room < float("inf"):
            raise InvalidRequest(f"room is a factor of at least 1, found {self.room}")


class Compiler:
    """Compiles modules for the shapes that they are warmed with; one for each model, used by one thread."""

    def __init__(self, options: EngineOptions) -> None:
        self.options = options
        self.on = options.compile != "off"
        self._stance = DRAWING
        self._before = _graphs() if self.on else 0
        self._taken: list[Any] = []

    @property
    def compilations(self) -> int:
        """Graphs that were compiled in this process since this was made."""
        return _graphs() - self._before if self.on else 0

    def take(self, modules: Iterable[Any]) -> None:
        """Let these modules run compiled code where there is some."""
        for module in modules:
            module.compile(backend=self.options.backend, mode=self.options.mode, dynamic=False, fullgraph=True)
            self._taken.append(module)

    def release(self) -> None:
        """Let all modules run as they did before."""
        for module in self._taken:
            module._compiled_call_impl = None  # what `nn.Module.compile` sets; there is no public way back
        self._taken.clear()

    @contextmanager
    def running(self) -> Iterator[None]:
        """The context of every call of such modules."""
        if not self.on:
            yield
            return
        # The usual limits mean an endless change of shapes; here every graph was asked for.
        limits = torch._dynamo.config.patch(recompile_limit=MOST_GRAPHS, accumulated_recompile_limit=MOST_GRAPHS)
        with torch.compiler.set_stance(self._stance), limits:
            yield

    @contextmanager
    def warming(self, what: object) -> Iterator[Callable[[], None]]:
        """Calls inside compile; once what is given is called, they must find the code that was made.

        Raises `CompilationFailed`, which names what was to be compiled, also where a second call does not find it:
        else everything would run eager without a word.
        """

        def prove() -> None:
            self._stance = PROVING

        self._stance = WARMING
        try:
            yield prove
        except Exception as error:
            if _is_compilers(error):
                raise CompilationFailed(f"no code can be compiled for {what}: {_told(error)}") from error
            raise
        finally:
            self._stance = DRAWING


def _graphs() -> int:
    import torch._dynamo.utils  # takes a second or two, which who never compiles need not wait for

    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def _is_compilers(error: BaseException) -> bool:
    import torch._dynamo.exc

    is_missed = isinstance(error, RuntimeError) and "fail_on_recompile" in str(error)
    return is_missed or isinstance(error, torch._dynamo.exc.TorchDynamoException)


def _told(error: BaseException) -> str:
    """What the compiler says before it comes to advice: who raised, and what."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__

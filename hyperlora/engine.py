"""How the UNet is run: compiled for the shapes that are drawn most, eager for all others, and with nothing done twice.

Shapes: B rows of the batch (doubled with guidance), T text tokens, latents (B, 4, H, W).

A shape is compiled only when it is warmed. Drawing never compiles: what meets no compiled code runs eager, and is
remembered, so that whoever has time can warm it (`warm_wanted`). A batch a little smaller than a warmed one is filled
up with copies of its last row, which are thrown away. Weights are merged in place: no change of person compiles again.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch.nn.attention import SDPBackend

from hyperlora.attention import UNetAttention
from hyperlora.attention_kernels import attention_size, chosen_kernels, measured_kernels
from hyperlora.errors import CompilationFailed, InvalidRequest
from hyperlora.grouped import Stack, factors_of, own_rank
from hyperlora.merge import WeightMerger
from hyperlora.sampling import Conditioning
from hyperlora.shapes import Shape, fitting, to_rank, worthwhile
from hyperlora.stand_in import lora_of_nobody, stand_in
from hyperlora.unet_call import UNetCall, fill

log = logging.getLogger(__name__)
Compile = Literal["off", "blocks", "whole"]
BLOCKS = ("BasicTransformerBlock", "ResnetBlock2D")
"""What is compiled by `blocks`: each kind once for each shape, however many of them the UNet has."""
ROOM = 1.18
"""So much dearer an eager step is than a compiled one: a batch may be filled up by this factor. Seen on an H100."""
MOST_GRAPHS = 1024
TOKENS = 77
DRAWING, WARMING = "eager_on_recompile", "default"
"""What PyTorch's compiler does when it meets a shape that it has no code for."""


@dataclass(frozen=True)
class EngineOptions:
    """How the UNet is run; every choice gives the same pictures, but for rounding.

    Parameters
    ----------
    compile
        `whole` compiles the UNet, `blocks` its repeated blocks, which takes a fraction of the time.
    fuse_qkv
        Queries, keys and values by one product.
    cache_text
        Keys and values of the text once a batch instead of once a step.
    backend, mode
        Of `torch.compile`.
    room
        By what factor a batch may be filled up to reach a compiled shape.
    """

    compile: Compile = "off"
    fuse_qkv: bool = False
    cache_text: bool = True
    backend: str | Callable[..., Any] = "inductor"
    mode: str | None = None
    room: float = ROOM

    def __post_init__(self) -> None:
        if self.compile not in get_args(Compile):
            raise InvalidRequest(f"compile wants one of {', '.join(get_args(Compile))}, found {self.compile!r}")
        if not 1.0 <= self.room < float("inf"):
            raise InvalidRequest(f"room is a factor of at least 1, found {self.room}")


class Engine:
    """Runs one UNet; used by one thread."""

    def __init__(
        self, unet: Any, merger: WeightMerger, options: EngineOptions | None = None, *, size_step: int = 8
    ) -> None:
        """`size_step` is the pixels of a latent."""
        self.options = options or EngineOptions()
        self.warmed: set[Shape] = set()
        """The shapes that run compiled."""
        self.wanted: Counter[Shape] = Counter()
        """Shapes that ran eager though compiled code was wanted, and how often."""
        self._unet, self._merger, self._size_step = unet, merger, size_step
        self._stance = DRAWING
        self._attention = UNetAttention(unet)
        self._kernels: tuple[SDPBackend, ...] | None = None
        self._most_rows: dict[Shape, int] = {}
        self._graphs_before = _graphs() if self.options.compile != "off" else 0
        if self.options.fuse_qkv:
            self._attention.fuse(merger.adjacent)
        for module in self._compiled():
            module.compile(backend=self.options.backend, mode=self.options.mode, dynamic=False, fullgraph=True)

    @property
    def compilations(self) -> int:
        """Graphs that were compiled in this process since the engine was made."""
        return _graphs() - self._graphs_before if self.options.compile != "off" else 0

    def unfuse(self) -> None:
        """Make every projection a product of its own again, for whoever replaces a projection's product."""
        self._attention.unfuse()

    @contextmanager
    def drawing(
        self,
        conditioning: Conditioning,
        *,
        width: int,
        height: int,
        own: Sequence[Stack] | None = None,
        regional: bool = False,
    ) -> Iterator[UNetCall]:
        """What `denoise` calls as the UNet while one batch is drawn.

        Parameters
        ----------
        conditioning
            The batch's texts.
        width, height
            Of the pictures, in pixels.
        own
            For each row its LoRAs with their weights.
        regional
            Whether something else attends to the texts: then nothing is computed before the steps or filled up.

        Raises
        ------
        LoRAMismatch
            LoRAs of layers that cannot have one per row.
        """
        tokens_BTC = conditioning.tokens_BTC
        if own is not None:
            self._attention.require(name for stack in own for lora, _ in stack for name in lora.layers)
        rank = own_rank(own) if own is not None else 0
        asked = Shape(width, height, len(tokens_BTC), tokens_BTC.shape[1], rank)
        more = 0 if regional else self._choose(asked).rows - asked.rows
        try:
            if own is not None:
                rows = [*own, *[own[-1]] * more]
                self._attention.give(factors_of(rows, device=self._unet.device, dtype=self._unet.dtype))
            with self._mode():
                if self.options.cache_text and not regional:
                    self._attention.read_text(fill(tokens_BTC, more).contiguous())
            yield UNetCall(self._unet, more, self._mode)
        finally:
            self._attention.clear()

    def warm(
        self, width: int, height: int, batch: int, *, guided: bool = True, rank: int | None = None, chunks: int = 1
    ) -> float:
        """Compile for batches of `batch` pictures of this size, with a LoRA of `rank` for each if it is given.

        Returns the seconds; 0.0 where nothing is to be compiled, or is compiled already. Raises `CompilationFailed`.
        """
        rows = 2 * batch if guided else batch
        return self._warm(Shape(width, height, rows, TOKENS * chunks, to_rank(rank) if rank else 0))

    def warm_wanted(self) -> Shape | None:
        """Compile for the shape that was missed most; None where none was. Raises `CompilationFailed`."""
        if not self.wanted:
            return None
        ((shape, _),) = self.wanted.most_common(1)
        del self.wanted[shape]
        self._warm(shape)
        return shape

    def _compiled(self) -> list[Any]:
        """The modules that are compiled."""
        if self.options.compile == "off":
            return []
        if self.options.compile == "whole":
            return [self._unet]
        return [module for module in self._unet.modules() if type(module).__name__ in BLOCKS]

    def _choose(self, asked: Shape) -> Shape:
        """The shape to draw in; one that is not compiled is noted."""
        if self.options.compile == "off":
            return asked
        found = fitting(asked, self.warmed, self.options.room)
        if found is not None:
            return found
        kind = replace(asked, rows=0)
        self._most_rows[kind] = max(asked.rows, self._most_rows.get(kind, 0))
        self.wanted[worthwhile(asked, self._most_rows[kind])] += 1
        return asked

    @torch.inference_mode()
    def _warm(self, shape: Shape) -> float:
        if self.options.compile == "off" or shape in self.warmed:
            return 0.0
        began = time.perf_counter()
        self.warmed.add(shape)
        self._stance = WARMING
        try:
            latents_BCHW, conditioning = stand_in(self._unet, shape, self._size_step)
            own = [((lora_of_nobody(self._merger.shapes, shape.rank), 1.0),)] * shape.rows if shape.rank else None
            with self.drawing(conditioning, width=shape.width, height=shape.height, own=own) as call:
                call(
                    latents_BCHW,
                    torch.tensor(500.0),
                    encoder_hidden_states=conditioning.tokens_BTC,
                    added_cond_kwargs=conditioning.added,
                    return_dict=False,
                )
        except BaseException as error:
            self.warmed.discard(shape)
            if _is_compilers(error):
                raise CompilationFailed(f"the UNet cannot be compiled for {shape}: {_told(error)}") from error
            raise
        finally:
            self._stance = DRAWING
        if self._unet.device.type == "cuda":
            torch.cuda.synchronize(self._unet.device)
        return time.perf_counter() - began

    @contextmanager
    def _mode(self) -> Iterator[None]:
        """The context of every call: the fastest attention, and the compiler's stance."""
        with chosen_kernels(self._kernel_order()):
            if self.options.compile == "off":
                yield
                return
            # The default limits mean an endless change of shapes; here every graph was asked for.
            limits = torch._dynamo.config.patch(recompile_limit=MOST_GRAPHS, accumulated_recompile_limit=MOST_GRAPHS)
            with torch.compiler.set_stance(self._stance), limits:
                yield

    def _kernel_order(self) -> tuple[SDPBackend, ...]:
        if self._kernels is None:
            unet = self._unet
            self._kernels = measured_kernels(unet.device, unet.dtype, **attention_size(unet))
        return self._kernels


def _graphs() -> int:
    import torch._dynamo.utils  # takes a second or two, which who never compiles need not wait for

    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def _is_compilers(error: BaseException) -> bool:
    import torch._dynamo.exc

    return isinstance(error, torch._dynamo.exc.TorchDynamoException)


def _told(error: BaseException) -> str:
    """What the compiler says before it comes to advice: who raised, and what."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__

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
from dataclasses import replace
from typing import Any

import torch

from hyperlora.attention import UNetAttention
from hyperlora.attention_kernels import attention_size, chosen_kernels, measured_kernels
from hyperlora.compiler import Compiler, EngineOptions
from hyperlora.grouped import Stack, factors_of, own_rank
from hyperlora.host_memory import lay_out
from hyperlora.merge import WeightMerger
from hyperlora.sampling import Conditioning
from hyperlora.shapes import Shape, fitting, to_rank, worthwhile
from hyperlora.stand_in import lora_of_nobody, stand_in, stand_in_timestep
from hyperlora.unet_call import UNetCall, fill
from hyperlora.vae_call import VaeDecoder

__all__ = ["Engine", "EngineOptions"]

log = logging.getLogger(__name__)
BLOCKS = ("BasicTransformerBlock", "ResnetBlock2D")
"""What is compiled by `blocks`: each kind once for each shape, however many of them the UNet has."""
TOKENS = 77


class Engine:
    """Runs one UNet and the decoder behind it; used by one thread."""

    def __init__(
        self,
        unet: Any,
        vae: Any,
        merger: WeightMerger,
        options: EngineOptions,
        *,
        size_step: int,
        decoded_at_once: Callable[[int, int], int],
    ) -> None:
        """`size_step` is the pixels of a latent; `decoded_at_once` says how many pictures of (width, height)."""
        self.options = options
        self.warmed: set[Shape] = set()
        """The shapes that run compiled."""
        self.wanted: Counter[Shape] = Counter()
        """Shapes that ran eager though compiled code was wanted, and how often."""
        self.failed: set[Shape] = set()
        """Shapes for which no code could be made, or that did not fit: not tried again."""
        self._unet, self._merger, self._size_step = unet, merger, size_step
        on_gpu = unet.device.type == "cuda"
        if on_gpu if options.channels_last is None else options.channels_last:
            unet.to(memory_format=torch.channels_last)
            lay_out(vae, torch.channels_last)  # which may be a visitor
        self._compiler = Compiler(options)
        self._attention = UNetAttention(unet)
        # Measured now: while kernels are tried, no other thread may attend.
        self._kernels = measured_kernels(unet.device, unet.dtype, **attention_size(unet))
        self._most_rows: dict[Shape, int] = {}
        self._pictures: dict[int, int] = {}
        """Rows -> pictures, as they were named for warming."""
        if options.fuse_qkv:
            self._attention.fuse(merger.adjacent)
        self._compiler.take(self._compiled())
        self.decoder = VaeDecoder(vae, self._compiler)
        self._decoded_at_once = decoded_at_once

    @property
    def compilations(self) -> int:
        """Graphs that were compiled in this process since the engine was made."""
        return self._compiler.compilations

    def unfuse(self) -> None:
        """Make every projection a product of its own again, for whoever replaces a projection's product."""
        self._attention.unfuse()

    def release(self) -> None:
        """Let the networks run as they did before there was an engine, but for the processors of the attention."""
        self._compiler.release()
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
        controlled: bool = False,
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
        controlled
            Whether ControlNets are at work: a UNet that is compiled whole has no code for them.

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
        eager = regional or (controlled and self.options.compile == "whole")
        more = 0 if eager else self._choose(asked).rows - asked.rows
        try:
            if own is not None:
                rows = [*own, *[own[-1]] * more]
                self._attention.give(factors_of(rows, device=self._unet.device, dtype=self._unet.dtype))
            with self._running():
                if self.options.cache_text and not regional:
                    self._attention.read_text(fill(tokens_BTC, more).contiguous())
            yield UNetCall(self._unet, more, self._running)
        finally:
            self._attention.clear()

    def warm(
        self, width: int, height: int, batch: int, *, guided: bool = True, rank: int | None = None, chunks: int = 1
    ) -> float:
        """Compile for batches of `batch` pictures of this size, with a LoRA of `rank` for each if it is given.

        Returns the seconds; 0.0 where nothing is to be compiled, or is compiled already. Raises `CompilationFailed`.
        """
        return self._warm(self._shape(width, height, batch, guided, rank, chunks))

    def want(
        self, width: int, height: int, batch: int, *, guided: bool = True, rank: int | None = None, times: int = 1
    ) -> Shape:
        """Note what `warm` would compile for as missed so often, to be compiled later; returns the shape."""
        shape = self._shape(width, height, batch, guided, rank)
        self.wanted[shape] += times
        return shape

    def _shape(self, width: int, height: int, batch: int, guided: bool, rank: int | None, chunks: int = 1) -> Shape:
        rows = 2 * batch if guided else batch
        self._pictures[rows] = batch
        return Shape(width, height, rows, TOKENS * chunks, to_rank(rank) if rank else 0)

    def most_wanted(self, *, at_least: int = 1) -> Shape | None:
        """The shape that was missed most, so often at least; None where none was, or compiling for it failed."""
        missed = ((shape, times) for shape, times in self.wanted.most_common() if shape not in self.failed)
        shape, times = next(missed, (None, 0))
        return shape if times >= at_least else None

    def warm_wanted(self, *, at_least: int = 1) -> Shape | None:
        """Compile for the shape of `most_wanted`, and return it.

        Raises `CompilationFailed` and out of memory; the shape is in `failed` then.
        """
        shape = self.most_wanted(at_least=at_least)
        if shape is not None:
            del self.wanted[shape]
            self._warm(shape)
        return shape

    def _compiled(self) -> list[Any]:
        """The modules that are compiled."""
        if not self._compiler.on:
            return []
        if self.options.compile == "whole":
            return [self._unet]
        return [module for module in self._unet.modules() if type(module).__name__ in BLOCKS]

    def _choose(self, asked: Shape) -> Shape:
        """The shape to draw in; one that is not compiled is noted."""
        if not self._compiler.on:
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
        if not self._compiler.on or shape in self.warmed:
            return 0.0
        began = time.perf_counter()
        self.warmed.add(shape)
        try:
            with self._compiler.warming(shape) as prove:
                self._call_once(shape)
                prove()
                self._call_once(shape)
        except BaseException:
            self.warmed.discard(shape)
            self.failed.add(shape)
            raise
        self._warm_decoder(shape)
        if self._unet.device.type == "cuda":
            torch.cuda.synchronize(self._unet.device)
        return time.perf_counter() - began

    def _warm_decoder(self, shape: Shape) -> None:
        """Compile for the passes that a batch is decoded in; what does not fit stays eager."""
        pictures = self._pictures.get(shape.rows, max(1, shape.rows // 2))
        most = self._decoded_at_once(shape.width, shape.height)
        for count in {min(most, pictures), pictures % most} - {0}:
            try:
                self.decoder.warm(shape.height // self._size_step, shape.width // self._size_step, count)
            except torch.OutOfMemoryError:
                log.warning("decoding %d pictures of %dx%d at once does not fit", count, shape.width, shape.height)

    def _call_once(self, shape: Shape) -> None:
        """One step of a batch of this shape, of nobody."""
        latents_BCHW, conditioning = stand_in(self._unet, shape, self._size_step)
        own = [((lora_of_nobody(self._merger.shapes, shape.rank), 1.0),)] * shape.rows if shape.rank else None
        with self.drawing(conditioning, width=shape.width, height=shape.height, own=own) as call:
            call(
                latents_BCHW,
                stand_in_timestep(self._unet),
                encoder_hidden_states=conditioning.tokens_BTC,
                added_cond_kwargs=conditioning.added,
                return_dict=False,
            )

    @contextmanager
    def _running(self) -> Iterator[None]:
        """The context of every call: the fastest attention, and compiled code where there is some."""
        with chosen_kernels(self._kernels), self._compiler.running():
            yield

"""Pictures enlarged by any super-resolution model that `spandrel` reads, tile by tile.

Large pictures are cut into tiles that overlap. Of each overlap the outer quarters, which lack their surroundings, are
thrown away and the middle is blended, so that no seam shows; where a model looks no further than a quarter of the
overlap, the picture is the same as in one piece. Memory holds one row of enlarged tiles, never the whole in floats.

Shapes: C channels (3), H height, W width of the given picture; S times that of the enlarged one.
"""

from __future__ import annotations

import importlib.util
import itertools
import logging
import math
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file

from hyperlora.errors import NonFinitePicture, NonFiniteWeights, UpscalerMismatch, WeightsMissing
from hyperlora.hub import file_sha256, resolve
from hyperlora.one_at_a_time import LOADING

log = logging.getLogger(__name__)

TILE = 512
OVERLAP = 64
"""Pixels of the given picture: the side of a tile, and what two neighbours share at least."""


class Upscaler:
    """A super-resolution model. Calls from several threads come one after the other, so that memory holds one."""

    def __init__(
        self,
        enlarge: Callable[[torch.Tensor], torch.Tensor],
        *,
        scale: int,
        name: str,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        whole: bool = False,
        tile: int = TILE,
        overlap: int = OVERLAP,
        file: Path | None = None,
    ) -> None:
        """`enlarge` maps (1, 3, H, W) in 0..1 to (1, 3, scale * H, scale * W); `whole`: it must not be given tiles."""
        if not 0 < overlap <= tile // 2:
            raise ValueError(f"an overlap from 1 to half a tile was wanted, found {overlap} of {tile}")
        self.scale, self.name, self.device, self.dtype, self.file = scale, name, torch.device(device), dtype, file
        self._enlarge, self._whole, self._tile, self._overlap = enlarge, whole, tile, overlap
        self._lock = threading.Lock()

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Upscaler:
        """Read a .safetensors file, or a folder or hub id with exactly one.

        Where the architecture cannot compute in `dtype` it computes in float32; `.dtype` tells. Raises: WeightsMissing,
        NonFiniteWeights, UpscalerMismatch when spandrel is not installed or does not know the file, or when it is no
        upscaler (a face restorer or inpainter, a scale of 1, gray pictures).
        """
        file = _weights_file(path)
        spandrel = _spandrel()
        try:
            tensors = spandrel.canonicalize_state_dict(load_file(file))
        except SafetensorError as error:
            raise UpscalerMismatch(f"{file} is not a safetensors file: {error}") from error
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise NonFiniteWeights(f"the upscaler {file.stem} has NaN or infinity in {name}; fetch it again")
        try:
            with LOADING:
                found = spandrel.ModelLoader().load_from_state_dict(tensors)
        except spandrel.UnsupportedModelError as error:
            raise UpscalerMismatch(f"spandrel knows no model with the tensors of {file}") from error
        except (RuntimeError, ValueError, KeyError, IndexError, TypeError, AssertionError, AttributeError) as error:
            raise UpscalerMismatch(
                f"{file} looks like a model that spandrel knows, but does not fit it: {error}"
            ) from error
        _check_purpose(found, file)
        able = {torch.float16: found.supports_half, torch.bfloat16: found.supports_bfloat16}
        if not able.get(dtype, True):
            log.info("the upscaler %s computes in float32, since %s cannot in %s", file.stem, found.architecture, dtype)
            dtype = torch.float32
        found.to(device, dtype).eval().model.requires_grad_(False)
        whole = found.tiling is spandrel.ModelTiling.INTERNAL
        return cls(found, scale=found.scale, name=file.stem, device=device, dtype=dtype, whole=whole, file=file)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the file; read once."""
        if self.file is None:
            raise WeightsMissing("a fingerprint needs the file that the upscaler was loaded from")
        return file_sha256(self.file)

    def __call__(self, image: Image.Image) -> Image.Image:
        """The picture `scale` times as wide and high, RGB. Raises NonFinitePicture."""
        pixels_HWC = np.asarray(image.convert("RGB"))
        with self._lock:
            return Image.fromarray(self._tiled(pixels_HWC))

    def _tiled(self, pixels_HWC: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        height, width = pixels_HWC.shape[:2]
        scale, tile = self.scale, max(height, width) if self._whole else self._tile
        rows, columns = (_spans(length, tile, self._overlap) for length in (height, width))
        down, across = (_weights(spans, scale, self._overlap, self.device) for spans in (rows, columns))
        enlarged_HWC = np.empty((height * scale, width * scale, 3), np.uint8)
        kept_CHW, top = torch.zeros(3, 0, width * scale, device=self.device), 0
        for row, (first, last) in enumerate(rows):
            # What the row before left of the rows that both share, then nothing yet.
            band_CHW = torch.zeros(3, (last - first) * scale, width * scale, device=self.device)
            band_CHW[:, : kept_CHW.shape[1]] = kept_CHW
            for column, (left, right) in enumerate(columns):
                part_CHW = self._part(pixels_HWC[first:last, left:right])
                weight_HW = down[row][:, None] * across[column][None, :]
                band_CHW[:, :, left * scale : right * scale] += part_CHW * weight_HW
            bottom = rows[row + 1][0] * scale if row + 1 < len(rows) else last * scale
            done_CHW, kept_CHW = band_CHW[:, : bottom - top], band_CHW[:, bottom - top :]
            enlarged_HWC[top:bottom] = _bytes(done_CHW)
            top = bottom
        return enlarged_HWC

    @torch.inference_mode()
    def _part(self, pixels_HWC: np.ndarray[Any, Any]) -> torch.Tensor:
        """One tile enlarged, (3, scale * H, scale * W) in 0..1, float32."""
        part_1CHW = torch.from_numpy(pixels_HWC.copy()).to(self.device).permute(2, 0, 1)[None]
        found_CHW = self._enlarge((part_1CHW / 255).to(self.dtype))[0].float()
        wanted = (3, pixels_HWC.shape[0] * self.scale, pixels_HWC.shape[1] * self.scale)
        if tuple(found_CHW.shape) != wanted:
            raise UpscalerMismatch(f"the upscaler {self.name} should give {wanted}, it gave {tuple(found_CHW.shape)}")
        if not bool(torch.isfinite(found_CHW).all()):
            raise NonFinitePicture(f"the upscaler {self.name} gave NaN or infinity in {self.dtype}; use float32")
        return found_CHW.clamp(0, 1)


def _spans(length: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """First and last (exclusive) pixel of each tile along one side, spread evenly, sharing at least `overlap`."""
    if length <= tile:
        return [(0, length)]
    count = math.ceil((length - overlap) / (tile - overlap))
    firsts = [round(number * (length - tile) / (count - 1)) for number in range(count)]
    return [(first, first + tile) for first in firsts]


def _weights(spans: Sequence[tuple[int, int]], scale: int, overlap: int, device: torch.device) -> list[torch.Tensor]:
    """How much of each tile's enlarged pixels counts along one side; neighbours add up to 1.

    In the middle of what two share, one fades out while the other fades in, over half of `overlap`.
    """
    # Places are those of pixel centres in the given picture, (0.5 / scale) being the first.
    middles = [(after[0] + before[1]) / 2 for before, after in itertools.pairwise(spans)]
    weights = []
    for number, (first, last) in enumerate(spans):
        places = first + (torch.arange((last - first) * scale, device=device, dtype=torch.float32) + 0.5) / scale
        weight = torch.ones_like(places)
        if number > 0:
            weight = weight * ((places - middles[number - 1]) / (overlap / 2) + 0.5).clamp(0, 1)
        if number < len(middles):
            weight = weight * (1 - ((places - middles[number]) / (overlap / 2) + 0.5).clamp(0, 1))
        weights.append(weight)
    return weights


def _bytes(picture_CHW: torch.Tensor) -> np.ndarray[Any, Any]:
    """(H, W, 3) 8 bits from 0..1, rounded."""
    rounded_HWC: np.ndarray[Any, Any] = (picture_CHW * 255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
    return rounded_HWC


def _weights_file(path: str | Path) -> Path:
    local = Path(path).expanduser()
    if local.is_file():
        if local.suffix != ".safetensors":
            raise UpscalerMismatch(
                f"an upscaler as .safetensors was wanted, found {local.name}; pickled files can run code when they are "
                "read, so convert it first"
            )
        return local
    folder = resolve(path)
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        told = ", ".join(file.name for file in files) or "none"
        raise UpscalerMismatch(
            f"a folder with exactly one .safetensors file was wanted, {folder} has {told}; name the file"
        )
    return files[0]


def _check_purpose(found: Any, file: Path) -> None:
    kind = f"{found.architecture.name}, for {found.purpose}"
    if found.purpose != "SR" or found.scale < 2:
        raise UpscalerMismatch(
            f"{file} is no upscaler ({kind}, scale {found.scale}); a super-resolution model that enlarges and leaves "
            "faces as they are was wanted"
        )
    if (found.input_channels, found.output_channels) != (3, 3):
        raise UpscalerMismatch(
            f"{file} ({kind}) maps {found.input_channels} channels to {found.output_channels}; RGB to RGB was wanted"
        )


def _spandrel() -> Any:
    """The library; raises UpscalerMismatch where it is missing or torchvision does not go with torch."""
    try:
        with _without_torchvision():
            import spandrel
    except (ImportError, RuntimeError) as error:
        raise UpscalerMismatch(
            f"upscaling needs the extra `upscale`, and no torchvision but one for torch {torch.__version__}: {error}"
        ) from error
    return spandrel


@contextmanager
def _without_torchvision() -> Iterator[None]:
    """Let spandrel be imported where there is no torchvision.

    Of its 40 architectures an inpainter and a face restorer import three names of torchvision. No upscaler needs them,
    and torchvision is hard to have: the package index offers it for one CUDA only. Nothing is left behind.
    """
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    if "spandrel" in sys.modules or importlib.util.find_spec("torchvision") is not None:
        yield
        return
    stand_ins = {name: types.ModuleType(name) for name in names}
    for wanted in ("InterpolationMode", "normalize", "rotate"):
        setattr(stand_ins[names[-1]], wanted, None)
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in names:
            sys.modules.pop(name, None)

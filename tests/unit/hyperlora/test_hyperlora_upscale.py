"""Upscaling: spandrel's models from safetensors only, tiles without seams, and what is no upscaler is refused."""

from __future__ import annotations

import importlib.util
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import init_empty_weights
from PIL import Image
from safetensors.torch import save_file

from hyperlora import upscale
from hyperlora.control import ControlNet
from hyperlora.errors import ControlMismatch, NonFinitePicture, NonFiniteWeights, UpscalerMismatch, WeightsMissing
from hyperlora.upscale import Upscaler

upscale._spandrel()
from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact  # noqa: E402
from spandrel.architectures.ESRGAN.__arch.RRDB import RRDBNet  # noqa: E402


def compact(*, scale: int = 2, channels: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    """A tiny random Real-ESRGAN Compact model; it looks 4 pixels far."""
    torch.manual_seed(seed)
    model = SRVGGNetCompact(num_in_ch=channels, num_out_ch=channels, num_feat=8, num_conv=2, upscale=scale)
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def photo(width: int, height: int) -> Image.Image:
    """Waves and noise of every kind."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([127 + 120 * np.sin(x / 7), 127 + 120 * np.cos(y / 11), (x * 5 + y * 3) % 256], axis=2)
    noise = np.random.default_rng(1).normal(0, 8, waves.shape)
    return Image.fromarray((waves + noise).clip(0, 255).astype(np.uint8))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "2x-tiny.safetensors"
    save_file(compact(), path)
    return path


def test_a_file_enlarges_as_spandrel_does(file: Path) -> None:
    # Given a model as a file
    upscaler = Upscaler.from_file(file)
    image = photo(70, 50)

    # When a picture smaller than a tile is enlarged
    enlarged = upscaler(image)

    # Then it is what spandrel's model gives
    assert (upscaler.scale, upscaler.name) == (2, "2x-tiny")
    assert (enlarged.size, enlarged.mode) == ((140, 100), "RGB")
    model = SRVGGNetCompact(num_feat=8, num_conv=2, upscale=2)
    model.load_state_dict(compact())
    with torch.no_grad():
        wanted = model((torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 255).float())[0]
    assert np.array_equal(np.asarray(enlarged), (wanted.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())
    # And the picture is no plain enlargement: the weights matter
    plain = image.resize((140, 100), Image.Resampling.NEAREST)
    assert np.abs(np.asarray(enlarged, np.int16) - np.asarray(plain)).mean() > 2


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(200, 150), (65, 64), (64, 65), (97, 161), (400, 33), (1, 300), (64, 64)])
def test_tiles_give_the_same_picture_as_one_piece(tmp_path: Path, scale: int, size: tuple[int, int]) -> None:
    # Given a model that looks no further than a quarter of the overlap
    save_file(compact(scale=scale), tmp_path / "model.safetensors")
    in_one = Upscaler.from_file(tmp_path)
    assert max(size) <= upscale.TILE
    in_tiles = Upscaler(in_one._enlarge, scale=scale, name="tiled", tile=64, overlap=32)

    # When a picture is enlarged in one piece and in tiles
    image = photo(*size)
    whole, tiled = (np.asarray(one(image), np.int16) for one in (in_one, in_tiles))

    # Then no value differs by more than what rounding makes of the last bit
    assert np.abs(whole - tiled).max() <= 1
    assert (whole != tiled).mean() < 1e-3


def test_no_seam_shows_where_every_tile_is_of_another_tone() -> None:
    # Given a model whose tiles differ, as those do that look at the whole of what they are given
    tones = iter(np.linspace(0.2, 0.8, 100))

    def toned(part: torch.Tensor) -> torch.Tensor:
        return torch.full((1, 3, part.shape[2] * 2, part.shape[3] * 2), float(next(tones)))

    # When a picture is enlarged in tiles
    tiled = np.asarray(Upscaler(toned, scale=2, name="toned", tile=64, overlap=32)(photo(300, 300)), np.int16)

    # Then the tone goes over from tile to tile in steps too small to see, though tiles differ by far more
    steps = max(np.abs(np.diff(tiled, axis=axis)).max() for axis in (0, 1))
    assert np.ptp(tiled) > 100
    assert steps <= 4


def test_memory_holds_one_tile_at_a_time() -> None:
    seen: list[tuple[int, ...]] = []

    def noted(part: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(part.shape))
        return torch.nn.functional.interpolate(part, scale_factor=2.0)

    image = photo(1100, 700)
    enlarged = Upscaler(noted, scale=2, name="noted")(image)
    assert len(seen) == 6
    assert {shape[0] for shape in seen} == {1} and max(max(shape) for shape in seen) == upscale.TILE
    # and blending what is equal changes nothing
    assert np.array_equal(np.asarray(enlarged), np.asarray(image.resize((2200, 1400), Image.Resampling.NEAREST)))


def test_only_models_that_tile_by_themselves_are_given_everything(file: Path) -> None:
    # Given a picture larger than a tile
    seen: list[tuple[int, ...]] = []

    def noted(part: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(part.shape))
        return torch.nn.functional.interpolate(part, scale_factor=2.0)

    # When a model that does its own tiling enlarges it
    Upscaler(noted, scale=2, name="noted", whole=True)(photo(900, 30))

    # Then it sees all of it, and an ordinary file's model does not
    assert seen == [(1, 3, 30, 900)]
    assert not Upscaler.from_file(file)._whole


def test_another_architecture_is_read_from_a_folder_with_its_size_wishes(tmp_path: Path) -> None:
    # Given an ESRGAN model that halves its input first, so that odd sizes must be padded
    torch.manual_seed(3)
    model = RRDBNet(in_nc=3, out_nc=3, num_filters=8, num_blocks=1, scale=2, shuffle_factor=2)
    save_file({name: tensor.clone() for name, tensor in model.state_dict().items()}, tmp_path / "esr.safetensors")
    (tmp_path / "README.md").write_text("a model card")

    # Then it is read, and sizes come out right
    upscaler = Upscaler.from_file(tmp_path)
    assert upscaler(photo(31, 17)).size == (62, 34)
    assert len(upscaler.fingerprint) == 64


def test_pictures_of_other_modes_become_rgb(file: Path) -> None:
    upscaler = Upscaler.from_file(file)
    for mode in ("L", "RGBA", "P"):
        assert upscaler(photo(20, 20).convert(mode)).mode == "RGB"


def test_half_precision_is_used_where_the_model_can(file: Path) -> None:
    upscaler = Upscaler.from_file(file, dtype=torch.bfloat16)
    assert upscaler.dtype == torch.bfloat16
    near = np.asarray(upscaler(photo(40, 40)), np.int16) - np.asarray(Upscaler.from_file(file)(photo(40, 40)))
    assert 0 < np.abs(near).mean() < 3


def test_an_unknown_model_is_refused(tmp_path: Path) -> None:
    save_file({"layer.weight": torch.zeros(3, 3)}, tmp_path / "model.safetensors")
    with pytest.raises(UpscalerMismatch, match="spandrel knows no model"):
        Upscaler.from_file(tmp_path)


def test_a_half_known_model_is_refused(tmp_path: Path) -> None:
    tensors = compact()
    tensors["body.2.weight"] = torch.zeros(5, 5, 3, 3)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UpscalerMismatch, match="does not fit"):
        Upscaler.from_file(tmp_path)


@pytest.mark.parametrize(("tensors", "told"), [(compact(scale=1), "scale 1"), (compact(channels=1), "1 channels to 1")])
def test_what_is_no_upscaler_is_refused(tmp_path: Path, tensors: dict[str, torch.Tensor], told: str) -> None:
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UpscalerMismatch, match=told):
        Upscaler.from_file(tmp_path)


@pytest.mark.parametrize("name", ["model.pth", "model.pt", "model.bin"])
def test_pickles_are_never_opened(tmp_path: Path, name: str) -> None:
    torch.save(compact(), tmp_path / name)
    with pytest.raises(UpscalerMismatch, match="pickled files can run code"):
        Upscaler.from_file(tmp_path / name)
    with pytest.raises(UpscalerMismatch, match="has none"):
        Upscaler.from_file(tmp_path)


def test_one_file_must_be_meant(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_file(compact(), tmp_path / f"{name}.safetensors")
    with pytest.raises(UpscalerMismatch, match=r"a\.safetensors, b\.safetensors; name the file"):
        Upscaler.from_file(tmp_path)
    with pytest.raises(WeightsMissing):
        Upscaler.from_file(tmp_path / "c.safetensors")


def test_broken_files_and_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(UpscalerMismatch, match="not a safetensors file"):
        Upscaler.from_file(tmp_path / "broken.safetensors")
    tensors = compact()
    tensors["body.2.bias"][0] = torch.inf
    save_file(tensors, tmp_path / "inf.safetensors")
    with pytest.raises(NonFiniteWeights, match=r"body\.2\.bias"):
        Upscaler.from_file(tmp_path / "inf.safetensors")


def test_numbers_that_are_none_are_no_picture() -> None:
    def overflowed(part: torch.Tensor) -> torch.Tensor:
        return torch.full((1, 3, part.shape[2] * 2, part.shape[3] * 2), torch.nan)

    with pytest.raises(NonFinitePicture, match="use float32"):
        Upscaler(overflowed, scale=2, name="overflowed")(photo(8, 8))


def test_a_model_that_gives_another_size_is_told() -> None:
    with pytest.raises(UpscalerMismatch, match="should give"):
        Upscaler(lambda part: part, scale=2, name="same")(photo(8, 8))


def test_a_missing_library_is_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(UpscalerMismatch, match="the extra `upscale`"):
        Upscaler.from_file(file)


def test_nothing_stands_in_for_torchvision_afterwards(file: Path) -> None:
    Upscaler.from_file(file)
    if importlib.util.find_spec("torchvision") is None:
        assert not [name for name in sys.modules if name.startswith("torchvision")]


def test_senseless_tiles_are_refused() -> None:
    same: Any = lambda part: part  # noqa: E731
    for overlap in (0, 40):
        with pytest.raises(ValueError, match="overlap"):
            Upscaler(same, scale=2, name="same", tile=64, overlap=overlap)


def test_an_upscaler_is_whole_however_another_thread_loads_a_model_meanwhile(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a ControlNet that another thread is in the middle of building, without its weights yet
    building, go_on = threading.Event(), threading.Event()
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / "config.json").write_text('{"_class_name": "ControlNetModel"}')
    save_file({"weight": torch.zeros(1)}, tmp_path / "control" / "diffusion_pytorch_model.safetensors")

    def build(*_: object, **__: object) -> None:
        with init_empty_weights():
            building.set()
            assert go_on.wait(60)
        raise OSError("it was never there")

    monkeypatch.setattr("diffusers.ControlNetModel.from_pretrained", build)
    with ThreadPoolExecutor(2) as pool:
        control = pool.submit(ControlNet.from_pretrained, tmp_path / "control")
        assert building.wait(60)
        # When an upscaler is loaded beside it
        asked = pool.submit(Upscaler.from_file, file)
        assert not wait([asked], timeout=0.5).done, "it was built while modules were made without weights"
        go_on.set()
        # Then it has its weights and enlarges
        assert asked.result()(photo(8, 8)).size == (16, 16)
        assert isinstance(control.exception(), ControlMismatch)

"""Every tensor of every kind of checkpoint: missing, superfluous or misshapen, it is the one that is blamed.

The sweeps go over all tensors of a small checkpoint, so nothing here knows which of them the reader looks at first.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_hyperlora_network import conditions, make_network

from hyperlora import HyperLoRA
from hyperlora.errors import CheckpointMismatch, WeightsMissing

Streams = tuple[Any, ...]
Kind = tuple[Path, Streams, int | None]
KINDS: list[tuple[Streams, int | None]] = [(("face", "clip"), 2), (("clip",), None), (("face",), 2)]

# The only witness of a size: a tensor of another size here is a checkpoint of other sizes, not a broken one.
LONE_WITNESSES = {
    ("face", "clip"): [("id_projector.safetensors", "0.weight", 1)],
    ("clip",): [("resampler.safetensors", "proj_in.weight", 1)],
    ("face",): [("base_resampler.safetensors", "proj_in.weight", 1), ("id_projector.safetensors", "0.weight", 1)],
}


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: f"{'+'.join(kind[0])}{'+base' if kind[1] else ''}")
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kind:
    """A folder with a whole checkpoint, as the releases have it: without hyperlora_config.json."""
    streams, base_rank = request.param
    folder = tmp_path_factory.mktemp("whole")
    # Heads as wide as the released ones, so that no config file is needed.
    make_network(streams=streams, base_rank=base_rank, inner=64, dim_head=64).save_pretrained(folder)
    (folder / "hyperlora_config.json").unlink()
    return folder, streams, base_rank


def tensors_of(folder: Path) -> Iterator[tuple[str, str, torch.Tensor]]:
    for file in sorted(folder.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            yield file.name, name, tensor


class Broken:
    """A copy of a whole checkpoint, one file of which is rewritten at a time."""

    def __init__(self, whole: Path, folder: Path) -> None:
        self.whole, self.folder = whole, folder
        shutil.copytree(whole, folder, dirs_exist_ok=True)

    def complaint(self, file: str, tensors: dict[str, torch.Tensor]) -> str:
        """What loading says with this file; "" if it loads."""
        save_file(tensors, self.folder / file)
        try:
            HyperLoRA.from_pretrained(self.folder)
        except (CheckpointMismatch, WeightsMissing) as error:
            return str(error)
        finally:
            shutil.copy(self.whole / file, self.folder / file)
        return ""


@pytest.fixture
def quick_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """No random start for networks that are read from files: half the time of so small a load."""
    for name in ("normal_", "uniform_", "kaiming_uniform_"):
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)


@pytest.mark.usefixtures("quick_loads")
def test_each_missing_tensor_is_named_with_its_file(kind: Kind, tmp_path: Path) -> None:
    # Given a checkpoint, whole; it loads
    whole, streams, base_rank = kind
    assert HyperLoRA.from_pretrained(whole).config.streams == streams
    broken = Broken(whole, tmp_path)
    count = 0
    for file, name, _ in tensors_of(whole):
        # When one tensor is missing
        tensors = load_file(whole / file)
        del tensors[name]
        said = broken.complaint(file, tensors)
        # Then it is named, with its file
        assert f"{file}: tensor {name!r}" in said and "is missing" in said, (name, said)
        count += 1
    # And these were all: 3 modules x 4 projections x (down, up); latents, proj_in, proj_out and, per block, 4 norms,
    # 2 attentions, feed-forward; for a second stream proj_in_2 and, per block, 2 norms and 1 attention; the projector
    bank, one_stream, second_stream = 24, 5 + 2 * (4 * 2 + 2 * 4 + 4), 2 + 2 * (2 * 2 + 4)
    expected = bank + one_stream + (second_stream if len(streams) == 2 else 0) + (4 if "face" in streams else 0)
    assert count == expected + (bank + one_stream if base_rank else 0)


@pytest.mark.usefixtures("quick_loads")
def test_each_superfluous_tensor_is_named(kind: Kind, tmp_path: Path) -> None:
    whole, _, _ = kind
    broken = Broken(whole, tmp_path)
    for file in sorted(path.name for path in whole.glob("*.safetensors")):
        for name in ("layers.1.extra.weight", "extra", "3.to_q.id_down_basis", "0.to_q.other_down_basis"):
            # When a file has one tensor more, then that one is named, with its shape
            said = broken.complaint(file, {**load_file(whole / file), name: torch.zeros(2, 3, 4)})
            assert f"{file}: tensor {name!r} of shape (2, 3, 4) has no place in this checkpoint" in said, said


@pytest.mark.usefixtures("quick_loads")
def test_each_misshapen_tensor_is_named_with_what_was_found(kind: Kind, tmp_path: Path) -> None:
    whole, streams, _ = kind
    broken = Broken(whole, tmp_path)
    lone = []
    for file, name, tensor in tensors_of(whole):
        for axis in range(tensor.ndim):
            # When one tensor is one longer in one direction
            shape = list(tensor.shape)
            shape[axis] += 1
            said = broken.complaint(file, {**load_file(whole / file), name: torch.zeros(shape)})
            if not said:
                lone.append((file, name, axis))
                continue
            # Then it is named with its shape, and not a neighbour
            assert f"{name!r}" in said, (name, axis, said)
            assert str(tuple(shape)) in said or str(shape[axis]) in said, (name, axis, said)
        # And one dimension more is named, too
        said = broken.complaint(file, {**load_file(whole / file), name: tensor.unsqueeze(0)})
        assert f"{file}: tensor {name!r}" in said, (name, said)
    # And what loads is what alone tells a size
    assert lone == LONE_WITNESSES[streams]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool])
def test_tensors_that_are_no_floating_point_numbers_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    make_network().save_pretrained(tmp_path)
    path = tmp_path / "resampler.safetensors"
    tensors = load_file(path)
    tensors["layers.1.attn2.to_v.weight"] = tensors["layers.1.attn2.to_v.weight"].to(dtype)
    save_file(tensors, path)
    with pytest.raises(CheckpointMismatch, match=r"'layers.1.attn2.to_v.weight' holds (I64|I8|BOOL), wanted floating"):
        HyperLoRA.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"bases": 1}, {"bases": 7}, {"rank": 1}, {"rank": 16, "base_rank": 1}, {"id_tokens": 1}, {"id_tokens": 5},
        {"id_token_width": 4}, {"width": 16}, {"depth": 1}, {"depth": 5}, {"inner": 16}, {"feed_forward": 3},
        {"clip_width": 6, "base_rank": 2}, {"face_width": 3}, {"alpha_over_rank": 1.0},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("streams", [("face", "clip"), ("clip",), ("face",)])
def test_every_size_is_derived_from_the_shapes(changes: dict[str, Any], streams: Streams, tmp_path: Path) -> None:
    # Given a checkpoint of other sizes than any release
    network = make_network(streams=streams, **changes)
    network.save_pretrained(tmp_path)
    # When it is loaded, then every size that its tensors speak of is the same, and so is the LoRA of each branch
    loaded = HyperLoRA.from_pretrained(tmp_path)
    unread = {"face_width", "id_tokens", "id_token_width"} if "face" not in streams else set()
    unread |= {"clip_width"} if streams == ("face",) and network.config.base_rank is None else set()
    for name in changes.keys() - unread:
        assert getattr(loaded.config, name) == changes[name], name
    config = network.config
    read = torch.randn(2, config.face_width), torch.randn(2, 4, config.clip_width)
    for branch in config.branches:
        assert loaded.generate(*read, branch).equals(network.generate(*read, branch))


@pytest.mark.parametrize("streams", [("clip",), ("face",)])
def test_a_checkpoint_of_one_encoder_needs_only_that_one(streams: Streams, tmp_path: Path) -> None:
    # Given a checkpoint of one encoder, read from its folder
    make_network(streams=streams).save_pretrained(tmp_path)
    network = HyperLoRA.from_pretrained(tmp_path)
    faces, clips = conditions(2)
    # When only its own condition is given, then the LoRA is there, and the other condition would not have changed it
    alone = network.generate(None, clips) if streams == ("clip",) else network.generate(faces, None)
    assert alone.equals(network.generate(faces, clips))
    assert (tmp_path / "id_projector.safetensors").exists() == (streams == ("face",))


def test_a_checkpoint_for_the_face_alone_without_its_projector_says_so(tmp_path: Path) -> None:
    make_network(streams=("face",)).save_pretrained(tmp_path)
    (tmp_path / "id_projector.safetensors").unlink()
    with pytest.raises(WeightsMissing, match=r"has no id_projector.safetensors, hyperlora_config.json says \['face'\]"):
        HyperLoRA.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "sizes",
    [
        {"hidden_size": True}, {"hidden_size": 0}, {"hidden_size": -8}, {"hidden_size": 1 << 62}, {"hidden_size": "8"},
        {"hidden_size": 8, "cross_attention_dim": 0}, [8, None], {},
    ],
)  # fmt: skip
def test_a_module_of_impossible_sizes_is_named(sizes: Any, tmp_path: Path) -> None:
    make_network().save_pretrained(tmp_path)
    path = tmp_path / "hyper_lora_modules.json"
    modules = json.loads(path.read_text())
    name = list(modules)[1]
    path.write_text(json.dumps({**modules, name: sizes}))
    with pytest.raises(CheckpointMismatch, match=f"module '{name}' needs hidden_size .1 to 1048576. and cross"):
        HyperLoRA.from_pretrained(tmp_path)

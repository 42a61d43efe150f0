"""The released layout: names, derived sizes, refusals, fingerprints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_hyperlora_network import MODULES, conditions, make_network

from hyperlora import HyperLoRA
from hyperlora.errors import CheckpointMismatch, WeightsMissing

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_network(base_rank=2).save_pretrained(tmp_path)
    return tmp_path


def rewrite(path: Path, change: Callable[[Tensors], Any]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_names_and_shapes_are_the_released_ones(folder: Path) -> None:
    # Given a saved checkpoint: Q 24, W 12, K 5, inner 8, ff 20, r 3, base r 2; then files hold exactly these tensors
    assert {file.name for file in folder.iterdir()} == {
        "hyper_lora_modules.json",
        "hyper_lora_modules.safetensors",
        "resampler.safetensors",
        "id_projector.safetensors",
        "base_resampler.safetensors",
        "hyperlora_config.json",
    }
    expected: dict[str, tuple[int, ...]] = {}
    for index, (hidden, context) in enumerate([(8, 8), (8, 12), (6, 6)]):
        for name in ("to_q", "to_k", "to_v", "to_out"):
            inside = context if name in ("to_k", "to_v") else hidden
            for branch, rank in (("id", 3), ("base", 2)):
                expected[f"{index}.{name}.{branch}_down_basis"] = (5, inside, rank)
                expected[f"{index}.{name}.{branch}_up_basis"] = (5, rank, hidden)
    assert shapes(folder / "hyper_lora_modules.safetensors") == expected
    assert shapes(folder / "resampler.safetensors") == resampler_shapes(x=9, y=10)
    assert shapes(folder / "base_resampler.safetensors") == resampler_shapes(x=10, y=None)
    assert shapes(folder / "id_projector.safetensors") == {
        "0.weight": (18, 7),
        "0.bias": (18,),
        "2.weight": (9,),
        "2.bias": (9,),
    }
    modules = json.loads((folder / "hyper_lora_modules.json").read_text())
    assert list(modules) == [module.name for module in MODULES]
    assert modules[MODULES[1].name] == {"hidden_size": 8, "cross_attention_dim": 12}
    assert modules[MODULES[2].name] == {"hidden_size": 6, "cross_attention_dim": None}


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in load_file(path).items()}


def resampler_shapes(x: int, y: int | None) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {"latents": (1, 24, 12), "proj_in.weight": (12, x), "proj_in.bias": (12,)}
    found |= {"proj_out.weight": (5, 12), "proj_out.bias": (5,)}
    norms, attentions = ["norm_attn1", "norm_attn2_l", "norm_attn2_x", "norm_ff"], ["attn1", "attn2"]
    if y is not None:
        found |= {"proj_in_2.weight": (12, y), "proj_in_2.bias": (12,)}
        norms += ["norm_attn3_l", "norm_attn3_y"]
        attentions += ["attn3"]
    for layer in ("layers.0", "layers.1"):
        for norm in norms:
            found |= {f"{layer}.{norm}.weight": (12,), f"{layer}.{norm}.bias": (12,)}
        for attention in attentions:
            found |= {f"{layer}.{attention}.{part}.weight": (8, 12) for part in ("to_q", "to_k", "to_v")}
            found[f"{layer}.{attention}.to_out.0.weight"] = (12, 8)
        found |= {f"{layer}.ff.net.0.proj.weight": (20, 12), f"{layer}.ff.net.0.proj.bias": (20,)}
        found |= {f"{layer}.ff.net.2.weight": (12, 20), f"{layer}.ff.net.2.bias": (12,)}
    return found


@pytest.mark.parametrize("streams", [("face", "clip"), ("clip",), ("face",)])
@pytest.mark.parametrize("base_rank", [None, 2])
def test_a_round_trip_keeps_everything(streams: tuple[Any, ...], base_rank: int | None, tmp_path: Path) -> None:
    # Given networks of every kind
    network = make_network(streams=streams, base_rank=base_rank, face_encoder="opencv-yunet-sface", trigger_words="a b")
    network.save_pretrained(tmp_path)
    # When loaded from their folder
    loaded = HyperLoRA.from_pretrained(tmp_path)
    # Then LoRA, fingerprint and every size that the checkpoint has are the same
    assert loaded.fingerprint == network.fingerprint
    assert len(loaded.fingerprint) == 64
    assert loaded.generate(*conditions(2)).equals(network.generate(*conditions(2)))
    assert loaded.config.streams == streams
    assert loaded.config.base_rank == base_rank
    assert (loaded.config.alpha_over_rank, loaded.config.trigger_words) == (0.75, "a b")
    assert loaded.config.face_encoder == "opencv-yunet-sface"
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    # And saving again writes the same bytes
    again = tmp_path / "again"
    loaded.save_pretrained(again)
    for file in again.iterdir():
        assert file.read_bytes() == (tmp_path / file.name).read_bytes()


def test_loading_in_half_precision_casts(folder: Path) -> None:
    loaded = HyperLoRA.from_pretrained(folder, dtype=torch.float16)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float16}


def test_saving_over_a_larger_checkpoint_leaves_no_old_files(folder: Path) -> None:
    make_network(streams=("clip",)).save_pretrained(folder)
    assert HyperLoRA.from_pretrained(folder).config.branches == ("id",)


def test_fingerprint_follows_tensors_and_config(folder: Path) -> None:
    # Given one checkpoint, when a single number, a setting or nothing changes
    network = HyperLoRA.from_pretrained(folder)
    before = network.fingerprint
    assert HyperLoRA.from_pretrained(folder).fingerprint == before
    with torch.no_grad():
        next(iter(network.id_bases.up.values()))[0, 0, 0, 0] += 1e-3
    # Then the fingerprint follows
    assert network.fingerprint != before
    assert make_network(base_rank=2, trigger_words="other").fingerprint != before


def test_without_config_json_the_released_conventions_hold(folder: Path) -> None:
    # Given a released folder: no hyperlora_config.json; inner 8 is no multiple of the released head width 64
    (folder / "hyperlora_config.json").unlink()
    with pytest.raises(CheckpointMismatch, match="inner width 8 is not a multiple of dim_head 64"):
        HyperLoRA.from_pretrained(folder)
    # And with heads of 64
    make_network(inner=128, dim_head=64).save_pretrained(folder)
    (folder / "hyperlora_config.json").unlink()
    config = HyperLoRA.from_pretrained(folder).config
    assert (config.dim_head, config.alpha_over_rank, config.heads) == (64, 0.5, 2)
    assert config.trigger_words == "fcsks fxhks fhyks"
    assert config.face_encoder == "insightface-antelopev2"
    assert config.streams == ("face", "clip")


RESAMPLER, BASES = "resampler.safetensors", "hyper_lora_modules.safetensors"


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (BASES, lambda t: t.pop("1.to_k.id_down_basis"), r"'1.to_k.id_down_basis' of shape \(5, 12, 3\) is missing"),
        (BASES, lambda t: t.pop("0.to_q.id_down_basis"), r"'0.to_q.id_down_basis' of shape \(5, 8, 3\) is missing"),
        (RESAMPLER, lambda t: t.pop("layers.1.norm_ff.bias"), r"'layers.1.norm_ff.bias' of shape \(12,\) is missing"),
        (BASES, lambda t: t.update({"9.to_q.id_up_basis": torch.zeros(1)}), "'9.to_q.id_up_basis' .* no place"),
        (RESAMPLER, lambda t: t.update({"norm_out.weight": torch.zeros(12)}), "'norm_out.weight' .* no place"),
        (
            BASES,
            lambda t: t.update({"2.to_v.id_up_basis": torch.zeros(5, 3, 9)}),
            r"'2.to_v.id_up_basis' has shape \(5, 3, 9\), expected \(5, 3, 6\)",
        ),
        (
            RESAMPLER,
            lambda t: t.update({"latents": torch.zeros(1, 25, 12)}),
            "'latents' has 25 tokens, 3 modules need 24",
        ),
        (
            RESAMPLER,
            lambda t: t.update({"latents": torch.zeros(24, 12)}),
            r"'latents' needs 3 dimensions, found .*24, 12",
        ),
        (
            "id_projector.safetensors",
            lambda t: t.update({"2.weight": torch.zeros(5)}),
            r"'2.weight' has shape \(5,\), expected \(9,\)",
        ),
        (
            "id_projector.safetensors",
            lambda t: t.update({"0.weight": torch.zeros(19, 7), "0.bias": torch.zeros(19)}),
            r"'0.weight' needs a multiple of 9 rows \(2.weight\), found 19",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_names_the_tensor(
    folder: Path, file: str, change: Callable[[Tensors], Any], message: str
) -> None:
    rewrite(folder / file, change)
    with pytest.raises(CheckpointMismatch, match=message):
        HyperLoRA.from_pretrained(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 4}, "unknown key alpha; known are alpha_over_rank"),
        ({"dim_head": "4"}, "dim_head needs a value of type int, found '4'"),
        ({"streams": ["clip"]}, r"streams are \['clip'\], the tensors"),
        (
            {"face_encoder": {"id": "x", "width": 512}},
            "face_encoder width is 512, id_projector.safetensors 0.weight reads 7",
        ),
        ({"face_encoder": {"width": 7}}, "face_encoder needs a value of type str, found None"),
    ],
)
def test_a_wrong_config_json_is_refused(folder: Path, settings: dict[str, Any], message: str) -> None:
    (folder / "hyperlora_config.json").write_text(json.dumps({"dim_head": 4, **settings}))
    with pytest.raises(CheckpointMismatch, match=message):
        HyperLoRA.from_pretrained(folder)


def test_a_face_encoder_may_be_a_plain_name(folder: Path) -> None:
    (folder / "hyperlora_config.json").write_text(json.dumps({"dim_head": 4, "face_encoder": "opencv-yunet-sface"}))
    assert HyperLoRA.from_pretrained(folder).config.face_encoder == "opencv-yunet-sface"


@pytest.mark.parametrize("file", ["hyper_lora_modules.json", BASES, RESAMPLER, "base_resampler.safetensors"])
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(WeightsMissing, match=file):
        HyperLoRA.from_pretrained(folder)


def test_a_file_without_use_is_named(folder: Path) -> None:
    make_network(streams=("clip",)).save_pretrained(folder / "single")
    (folder / "single" / "base_resampler.safetensors").write_bytes((folder / "base_resampler.safetensors").read_bytes())
    with pytest.raises(CheckpointMismatch, match="base_down_basis' is missing"):
        HyperLoRA.from_pretrained(folder / "single")


def test_garbage_is_named(folder: Path) -> None:
    (folder / RESAMPLER).write_bytes(b"not safetensors at all")
    with pytest.raises(CheckpointMismatch, match=r"resampler.safetensors: not a safetensors file"):
        HyperLoRA.from_pretrained(folder)
    (folder / "hyper_lora_modules.json").write_text("[]")
    with pytest.raises(CheckpointMismatch, match="a JSON object was wanted, found list"):
        HyperLoRA.from_pretrained(folder)


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "nothing", "../a/b"])
def test_a_path_that_is_no_hub_id_is_never_asked_of_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(WeightsMissing, match="not a hub id"):
        HyperLoRA.from_pretrained(name)


def test_a_hub_id_fetches_only_safe_files_of_its_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a hub that gives this folder
    asked: list[Any] = []

    def snapshot(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repository, revision, allow_patterns))
        return str(folder.parent)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    # When one folder of a repository is loaded
    HyperLoRA.from_pretrained(f"owner/name/{folder.name}", revision="abc")
    # Then pickle was not asked for
    patterns = [f"{folder.name}/*.{kind}" for kind in ("safetensors", "json", "txt")]
    assert asked == [("owner/name", "abc", patterns)]


def test_an_unreachable_hub_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot(*_: Any, **__: Any) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    with pytest.raises(WeightsMissing, match="hub repository 'owner/name' cannot be fetched: ConnectionError"):
        HyperLoRA.from_pretrained("owner/name")

"""The released checkpoint layout: read to the letter, written to the letter.

    hyper_lora_modules.json         ordered: module -> {hidden_size, cross_attention_dim}
    hyper_lora_modules.safetensors  {i}.to_q|to_k|to_v|to_out.{id|base}_{down|up}_basis, (K, in, r) and (K, r, out)
    resampler.safetensors           ID resampler
    id_projector.safetensors        0.weight, 0.bias, 2.weight, 2.bias; only with a face stream
    base_resampler.safetensors      only with a Base branch
    hyperlora_config.json           optional; what has no shape

Sizes are derived from shapes. Every tensor must be there, fit, and have a place; errors name it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from hyperlora.config import AttentionModule, HyperLoRAConfig, Stream
from hyperlora.errors import CheckpointMismatch, WeightsMissing

MODULES_JSON = "hyper_lora_modules.json"
CONFIG_JSON = "hyperlora_config.json"
BASES = "hyper_lora_modules.safetensors"
RESAMPLER = "resampler.safetensors"
PROJECTOR = "id_projector.safetensors"
BASE_RESAMPLER = "base_resampler.safetensors"

Shapes = dict[str, tuple[int, ...]]

_CONFIG_KEYS = frozenset(
    {
        "dim_head",
        "alpha_over_rank",
        "trigger_words",
        "face_encoder",
        "clip_vision",
        "prompt_hidden_layer",
        "streams",
    }
)


class CheckpointFiles:
    """The tensors of a checkpoint folder, opened but not yet read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.modules = _read_modules(folder)
        self.shapes: dict[str, Shapes] = {BASES: _shapes(folder / BASES), RESAMPLER: _shapes(folder / RESAMPLER)}
        for optional in (PROJECTOR, BASE_RESAMPLER):
            if (folder / optional).is_file():
                self.shapes[optional] = _shapes(folder / optional)

    def config(self) -> HyperLoRAConfig:
        """Derive every size from the shapes and take the rest from `hyperlora_config.json` or the released values."""
        return HyperLoRAConfig(self.modules, **self._sizes(), **self._conventions())

    def check(self, expected: Mapping[str, Shapes]) -> None:
        """Raise `CheckpointMismatch` at the first missing, superfluous or misshapen tensor."""
        for file in self.shapes.keys() - expected.keys():
            raise CheckpointMismatch(f"{self.folder / file}: this checkpoint has no use for the file; remove it")
        for file, shapes in expected.items():
            if file not in self.shapes:
                raise WeightsMissing(f"the checkpoint folder {self.folder} has no {file}")
            _check_file(self.folder / file, self.shapes[file], shapes)

    def tensors(self, file: str) -> Iterator[tuple[str, torch.Tensor]]:
        """Read a file's tensors one at a time."""
        with safe_open(self.folder / file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a mapping
                yield name, opened.get_tensor(name)

    def _sizes(self) -> dict[str, Any]:
        bases, resampler = self._file(BASES), self._file(RESAMPLER)
        count, _, rank = bases.get("0.to_q.id_down_basis", dims=3)
        _, tokens, width = resampler.get("latents", dims=3)
        if tokens != 8 * len(self.modules):
            raise CheckpointMismatch(
                f"{RESAMPLER}: latents has {tokens} tokens, {len(self.modules)} modules need {8 * len(self.modules)}"
            )
        streams = self._streams()
        sizes: dict[str, Any] = {
            "bases": count,
            "rank": rank,
            "width": width,
            "depth": resampler.count("layers"),
            "inner": resampler.get("layers.0.attn1.to_q.weight", dims=2)[0],
            "feed_forward": resampler.get("layers.0.ff.net.0.proj.weight", dims=2)[0],
            "streams": streams,
        }
        if "0.to_q.base_down_basis" in self.shapes[BASES] or BASE_RESAMPLER in self.shapes:
            sizes["base_rank"] = bases.get("0.to_q.base_down_basis", dims=3)[2]
            sizes["clip_width"] = self._file(BASE_RESAMPLER).get("proj_in.weight", dims=2)[1]
        if "face" in streams:
            projector = self._file(PROJECTOR)
            rows, sizes["face_width"] = projector.get("0.weight", dims=2)
            (sizes["id_token_width"],) = projector.get("2.weight", dims=1)
            sizes["id_tokens"], rest = divmod(rows, sizes["id_token_width"])
            if rest:
                raise CheckpointMismatch(
                    f"{PROJECTOR}: 0.weight needs a multiple of {sizes['id_token_width']} rows (2.weight), found {rows}"
                )
        if "clip" in streams:
            place = "proj_in_2.weight" if "face" in streams else "proj_in.weight"
            sizes["clip_width"] = resampler.get(place, dims=2)[1]
        return sizes

    def _streams(self) -> tuple[Stream, ...]:
        if "proj_in_2.weight" in self.shapes[RESAMPLER]:
            return ("face", "clip")
        return ("face",) if PROJECTOR in self.shapes else ("clip",)

    def _conventions(self) -> dict[str, Any]:
        path = self.folder / CONFIG_JSON
        if not path.is_file():
            return {}
        found = _read_json(path)
        unknown = sorted(found.keys() - _CONFIG_KEYS)
        if unknown:
            raise CheckpointMismatch(
                f"{path}: unknown key {', '.join(unknown)}; known are {', '.join(sorted(_CONFIG_KEYS))}"
            )
        streams = found.pop("streams", None)
        if streams is not None and tuple(streams) != self._streams():
            raise CheckpointMismatch(
                f"{path}: streams are {streams}, the tensors in {RESAMPLER} are made for {list(self._streams())}"
            )
        encoder = found.get("face_encoder")
        if isinstance(encoder, Mapping):
            found["face_encoder"] = encoder.get("id")
            self._check_face_width(path, encoder.get("width"))
        _check_types(path, found)
        return found

    def _check_face_width(self, path: Path, width: Any) -> None:
        if "face" in self._streams() and width is not None:
            found = self._file(PROJECTOR).get("0.weight", dims=2)[1]
            if found != width:
                raise CheckpointMismatch(f"{path}: face_encoder width is {width}, {PROJECTOR} 0.weight reads {found}")

    def _file(self, file: str) -> _File:
        if file not in self.shapes:
            raise WeightsMissing(f"the checkpoint folder {self.folder} has no {file}")
        return _File(self.folder / file, self.shapes[file])


class _File:
    """Shapes of one file, asked for by name."""

    def __init__(self, path: Path, shapes: Shapes) -> None:
        self.path, self.shapes = path, shapes

    def get(self, name: str, dims: int) -> tuple[int, ...]:
        """The shape of a tensor that must exist with that many dimensions."""
        if name not in self.shapes:
            raise CheckpointMismatch(f"{self.path}: tensor {name!r} is missing, wanted one of {dims} dimensions")
        shape = self.shapes[name]
        if len(shape) != dims:
            raise CheckpointMismatch(f"{self.path}: tensor {name!r} needs {dims} dimensions, found shape {shape}")
        return shape

    def count(self, prefix: str) -> int:
        """How many of `prefix.0`, `prefix.1`, ... there are; `CheckpointMismatch` for none."""
        numbers = {name.split(".")[1] for name in self.shapes if name.startswith(f"{prefix}.")}
        if not numbers:
            raise CheckpointMismatch(f"{self.path}: tensor '{prefix}.0.attn1.to_q.weight' is missing")
        return len(numbers)


def _check_file(path: Path, found: Shapes, expected: Shapes) -> None:
    missing = [name for name in expected if name not in found]
    if missing:
        raise CheckpointMismatch(
            f"{path}: tensor {missing[0]!r} of shape {expected[missing[0]]} is missing{_others(missing)}"
        )
    extra = [name for name in found if name not in expected]
    if extra:
        raise CheckpointMismatch(
            f"{path}: tensor {extra[0]!r} of shape {found[extra[0]]} has no place in this checkpoint{_others(extra)}"
        )
    for name, shape in expected.items():
        if found[name] != shape:
            raise CheckpointMismatch(f"{path}: tensor {name!r} has shape {found[name]}, expected {shape}")


def _others(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _shapes(path: Path) -> Shapes:
    if not path.is_file():
        raise WeightsMissing(f"the checkpoint folder {path.parent} has no {path.name}")
    try:
        with safe_open(path, framework="pt") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointMismatch(f"{path}: not a safetensors file: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise WeightsMissing(f"the checkpoint folder {path.parent} has no {path.name}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointMismatch(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointMismatch(f"{path}: a JSON object was wanted, found {type(content).__name__}")
    return content


def _read_modules(folder: Path) -> tuple[AttentionModule, ...]:
    path = folder / MODULES_JSON
    modules = []
    for name, sizes in _read_json(path).items():
        hidden = sizes.get("hidden_size") if isinstance(sizes, dict) else None
        context = sizes.get("cross_attention_dim") if isinstance(sizes, dict) else None
        if not isinstance(hidden, int) or not isinstance(context, int | None):
            raise CheckpointMismatch(
                f"{path}: module {name!r} needs hidden_size (a number) and cross_attention_dim (a number or null), "
                f"found {sizes!r}"
            )
        modules.append(AttentionModule(name, hidden, context))
    if not modules:
        raise CheckpointMismatch(f"{path}: at least one module was wanted, found none")
    return tuple(modules)


def _check_types(path: Path, found: Mapping[str, Any]) -> None:
    kinds = {field.name: field.type for field in fields(HyperLoRAConfig)}
    wanted: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,)}
    for key, value in found.items():
        if not isinstance(value, wanted[str(kinds[key])]) or isinstance(value, bool):
            raise CheckpointMismatch(f"{path}: {key} needs a value of type {kinds[key]}, found {value!r}")


def config_json(config: HyperLoRAConfig) -> dict[str, Any]:
    """The content of `hyperlora_config.json`: all that no shape says."""
    encoder: dict[str, Any] = {"id": config.face_encoder}
    if "face" in config.streams:
        encoder["width"] = config.face_width
    return {
        "dim_head": config.dim_head,
        "alpha_over_rank": config.alpha_over_rank,
        "trigger_words": config.trigger_words,
        "face_encoder": encoder,
        "clip_vision": config.clip_vision,
        "prompt_hidden_layer": config.prompt_hidden_layer,
        "streams": list(config.streams),
    }


def modules_json(config: HyperLoRAConfig) -> dict[str, dict[str, int | None]]:
    """The content of `hyper_lora_modules.json`."""
    return {
        module.name: {"hidden_size": module.hidden_size, "cross_attention_dim": module.cross_attention_dim}
        for module in config.modules
    }

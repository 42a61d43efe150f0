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
from typing import Any, TypeGuard

import torch
from safetensors import safe_open

from hyperlora.checkpoint_shapes import FileShapes, Shapes
from hyperlora.config import TOKENS_PER_MODULE, AttentionModule, HyperLoRAConfig, Stream
from hyperlora.errors import CheckpointMismatch, WeightsMissing

MODULES_JSON = "hyper_lora_modules.json"
CONFIG_JSON = "hyperlora_config.json"
BASES = "hyper_lora_modules.safetensors"
RESAMPLER = "resampler.safetensors"
PROJECTOR = "id_projector.safetensors"
BASE_RESAMPLER = "base_resampler.safetensors"

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

# Beyond any network; larger numbers in a file are a mistake or an attack.
_MOST_CHANNELS = 1 << 20


class CheckpointFiles:
    """The tensors of a checkpoint folder, opened but not yet read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.modules = _read_modules(folder)
        self.files = {file: FileShapes.read(folder / file) for file in (BASES, RESAMPLER)}
        for optional in (PROJECTOR, BASE_RESAMPLER):
            if (folder / optional).is_file():
                self.files[optional] = FileShapes.read(folder / optional)

    def config(self) -> HyperLoRAConfig:
        """Derive every size from the shapes and take the rest from `hyperlora_config.json` or the released values."""
        conventions = self._conventions()
        return HyperLoRAConfig(self.modules, **self._sizes(), **conventions)

    def check(self, expected: Mapping[str, Shapes]) -> None:
        """Raise `CheckpointMismatch` at the first missing, superfluous or misshapen tensor."""
        for file in self.files.keys() - expected.keys():
            raise CheckpointMismatch(f"{self.folder / file}: this checkpoint has no use for the file; remove it")
        for file, shapes in expected.items():
            self._file(file).require(shapes)

    def tensors(self, file: str) -> Iterator[tuple[str, torch.Tensor]]:
        """Read a file's tensors one at a time."""
        with safe_open(self.folder / file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a mapping
                yield name, opened.get_tensor(name)

    def _sizes(self) -> dict[str, Any]:
        bases, resampler = self._file(BASES), self._file(RESAMPLER)
        _, tokens, _ = resampler.get("latents", dims=3)
        needed = TOKENS_PER_MODULE * len(self.modules)
        if tokens != needed:
            raise CheckpointMismatch(
                f"{resampler.path}: tensor 'latents' has {tokens} tokens, {len(self.modules)} modules need {needed}"
            )
        streams = self._streams()
        sizes: dict[str, Any] = {
            "bases": bases.size("0.to_q.id_down_basis", (r"\d+\.\w+\.id_(down|up)_basis", 3, 0)),
            "rank": _rank(bases, "id"),
            "width": resampler.size(
                "latents",
                ("latents", 3, 2),
                (r"proj_in(_2)?\.weight", 2, 0),
                (r"proj_out\.weight", 2, 1),
                (r"layers\.\d+\.norm_\w+\.weight", 1, 0),
            ),
            "depth": resampler.layers("layers"),
            "inner": resampler.size("layers.0.attn1.to_q.weight", (r"layers\.\d+\.attn\d\.to_[qkv]\.weight", 2, 0)),
            "feed_forward": resampler.size(
                "layers.0.ff.net.0.proj.weight",
                (r"layers\.\d+\.ff\.net\.0\.proj\.weight", 2, 0),
                (r"layers\.\d+\.ff\.net\.0\.proj\.bias", 1, 0),
                (r"layers\.\d+\.ff\.net\.2\.weight", 2, 1),
            ),
            "streams": streams,
        }
        if self._has_base():
            sizes["base_rank"] = _rank(bases, "base")
            sizes["clip_width"] = self._file(BASE_RESAMPLER).get("proj_in.weight", dims=2)[1]
        if "face" in streams:
            sizes |= self._projector_sizes()
        if "clip" in streams:
            place = "proj_in_2.weight" if "face" in streams else "proj_in.weight"
            width = resampler.get(place, dims=2)[1]
            if sizes.setdefault("clip_width", width) != width:
                raise CheckpointMismatch(
                    f"{resampler.path}: tensor {place!r} of shape {resampler.shapes[place]} reads CLIP tokens {width} "
                    f"wide, tensor 'proj_in.weight' of {BASE_RESAMPLER} reads them {sizes['clip_width']} wide; one "
                    "CLIP tower feeds both"
                )
        return sizes

    def _projector_sizes(self) -> dict[str, int]:
        projector = self._file(PROJECTOR)
        face_width = projector.get("0.weight", dims=2)[1]
        rows = projector.size("0.weight", (r"0\.weight", 2, 0), (r"0\.bias", 1, 0))
        norm = projector.size("2.weight", (r"2\.(weight|bias)", 1, 0))
        # Where the norm's two tensors disagree, the resampler that reads the tokens decides.
        read = self._file(RESAMPLER).get("proj_in.weight", dims=2)[1]
        width = read if (read,) in (projector.shapes.get("2.weight"), projector.shapes.get("2.bias")) else norm
        if width < 1 or rows % width:
            raise CheckpointMismatch(
                f"{projector.path}: tensor '0.weight' needs a multiple of {width} rows (2.weight), found {rows}"
            )
        return {"face_width": face_width, "id_token_width": width, "id_tokens": rows // width}

    def _streams(self) -> tuple[Stream, ...]:
        # One missing tensor of the second stream must be missed, not taken for a checkpoint of one stream.
        if any(name.startswith("proj_in_2.") or ".attn3." in name for name in self.files[RESAMPLER].shapes):
            return ("face", "clip")
        return ("face",) if PROJECTOR in self.files else ("clip",)

    def _has_base(self) -> bool:
        return BASE_RESAMPLER in self.files or any(".base_" in name for name in self.files[BASES].shapes)

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
        self._check_streams(path, found.pop("streams", None))
        encoder = found.get("face_encoder")
        if isinstance(encoder, Mapping):
            found["face_encoder"] = encoder.get("id")
            self._check_face_width(path, encoder.get("width"))
        _check_types(path, found)
        return found

    def _check_streams(self, path: Path, streams: Any) -> None:
        if streams is None or streams == list(self._streams()):
            return
        if isinstance(streams, list) and "face" in streams and PROJECTOR not in self.files:
            raise WeightsMissing(f"the checkpoint folder {self.folder} has no {PROJECTOR}, {path.name} says {streams}")
        raise CheckpointMismatch(
            f"{path}: streams are {streams}, the tensors in {RESAMPLER} are made for {list(self._streams())}"
        )

    def _check_face_width(self, path: Path, width: Any) -> None:
        if "face" in self._streams() and width is not None:
            found = self._file(PROJECTOR).get("0.weight", dims=2)[1]
            if found != width:
                raise CheckpointMismatch(f"{path}: face_encoder width is {width}, {PROJECTOR} 0.weight reads {found}")

    def _file(self, file: str) -> FileShapes:
        if file not in self.files:
            raise WeightsMissing(f"the checkpoint folder {self.folder} has no {file}")
        return self.files[file]


def _rank(bases: FileShapes, branch: str) -> int:
    return bases.size(
        f"0.to_q.{branch}_down_basis",
        (rf"\d+\.\w+\.{branch}_down_basis", 3, 2),
        (rf"\d+\.\w+\.{branch}_up_basis", 3, 1),
    )


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
        if not _is_size(hidden) or (context is not None and not _is_size(context)):
            raise CheckpointMismatch(
                f"{path}: module {name!r} needs hidden_size (1 to {_MOST_CHANNELS}) and cross_attention_dim (the same, "
                f"or null for self-attention), found {sizes!r}"
            )
        modules.append(AttentionModule(name, hidden, context))
    if not modules:
        raise CheckpointMismatch(f"{path}: at least one module was wanted, found none")
    return tuple(modules)


def _is_size(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST_CHANNELS


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

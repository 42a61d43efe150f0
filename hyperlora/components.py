"""The parts of an SDXL model, loaded by diffusers from a folder, the hub or a single file. Never from pickle.

A few-step preset's weights are fused into the UNet here, before anything keeps a pristine copy of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hyperlora.errors import InvalidRequest, WeightsMissing
from hyperlora.hub import PARTS, file_sha256, files_fingerprint, resolve_file, split_hub_id
from hyperlora.one_at_a_time import LOADING
from hyperlora.presets import Preset, find_preset, fuse_preset, preset_fingerprint
from hyperlora.tensorfile import tensor_bytes
from hyperlora.vae_range import fit_half

_WEIGHTED = PARTS[:4]


@dataclass(frozen=True)
class SDXLComponents:
    """One base model: networks in evaluation mode, tokenizers, scheduler settings, and how to fingerprint them.

    `preset` is the few-step preset whose weights are inside, None for an ordinary model. With `pristine_on_host` the
    merger keeps its copy of the attention weights in host memory.
    """

    unet: Any
    vae: Any
    text_encoders: tuple[Any, Any]
    tokenizers: tuple[Any, Any]
    scheduler_config: Mapping[str, Any]
    force_zeros_for_empty_prompt: bool
    fingerprint: Callable[[], str]
    preset: Preset | None = None
    pristine_on_host: bool = False

    @classmethod
    def from_diffusers(
        cls, pipe: Any, fingerprint: Callable[[], str] | None = None, preset: Preset | None = None
    ) -> SDXLComponents:
        """Take over the parts of a StableDiffusionXLPipeline; a VAE that float16 would overflow gets smaller numbers.

        With `preset` the pipeline's UNet is that few-step model already.
        """
        missing = [part for part in PARTS if getattr(pipe, part, None) is None]
        if missing:
            raise WeightsMissing(f"an SDXL model needs {', '.join(PARTS)}; missing: {', '.join(missing)}")
        if fingerprint is None:
            fingerprint = partial(memory_fingerprint, pipe)
            if preset is not None:
                fingerprint = preset_fingerprint(fingerprint, preset, None)
        for part in _WEIGHTED:
            getattr(pipe, part).eval().requires_grad_(False)
        if pipe.vae.dtype == torch.float16 and pipe.vae.config.force_upcast:
            fit_half(pipe.vae)
        return cls(
            unet=pipe.unet,
            vae=pipe.vae,
            text_encoders=(pipe.text_encoder, pipe.text_encoder_2),
            tokenizers=(pipe.tokenizer, pipe.tokenizer_2),
            scheduler_config=pipe.scheduler.config,
            force_zeros_for_empty_prompt=bool(pipe.config.force_zeros_for_empty_prompt),
            fingerprint=fingerprint,
            preset=preset,
        )

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        device: torch.device | str,
        dtype: torch.dtype,
        revision: str | None = None,
        variant: str | None = None,
        preset: str | None = None,
        preset_weights: str | Path | None = None,
    ) -> SDXLComponents:
        """Load a diffusers folder, a hub id (`owner/name`) or a single .safetensors file.

        `variant` chooses among the weight files of a repository ("fp16"). A single file takes its configs and
        vocabulary from the hub, through diffusers. `preset` names a few-step model, and `preset_weights` its LoRA or
        UNet: a .safetensors file, a folder with one, or `owner/name/file.safetensors` on the hub; without weights the
        base model must be that few-step model already.

        Raises `WeightsMissing` where something is not there, `UnknownPreset`, `InvalidRequest` for weights without a
        preset, and what `fuse_preset` raises.
        """
        few_steps = None if preset is None else find_preset(preset)
        if few_steps is None and preset_weights is not None:
            raise InvalidRequest("preset_weights are fused for a preset; name it too")
        # Found before the base model is loaded, which takes minutes.
        weights = None if preset_weights is None else resolve_file(preset_weights)
        pipe, fingerprint = _load(name, device, dtype, revision, variant)
        if few_steps is None:
            return cls.from_diffusers(pipe, fingerprint)
        if weights is not None:
            fuse_preset(pipe.unet, few_steps, weights)
        return cls.from_diffusers(pipe, preset_fingerprint(fingerprint, few_steps, weights), few_steps)


def _load(
    name: str | Path, device: torch.device | str, dtype: torch.dtype, revision: str | None, variant: str | None
) -> tuple[Any, Callable[[], str]]:
    """diffusers' pipeline on its device, and how to fingerprint what it was loaded from."""
    import diffusers

    pipeline_class: Any = diffusers.StableDiffusionXLPipeline
    path = Path(name).expanduser()
    try:
        if path.is_file():
            return _placed(_load_file(pipeline_class, path, dtype), device, dtype), lambda: file_sha256(path)
        folder = path if path.is_dir() else _download(pipeline_class, name, revision, variant)
        if not (folder / "model_index.json").is_file():
            raise WeightsMissing(f"a diffusers SDXL folder needs model_index.json, {folder} has none")
        with LOADING:
            pipe = pipeline_class.from_pretrained(
                folder,
                dtype=dtype,
                variant=variant,
                use_safetensors=True,
                local_files_only=True,
                add_watermarker=False,
            )
    except (OSError, ValueError) as error:
        raise WeightsMissing(f"{name} cannot be loaded as an SDXL model in safetensors: {error}") from error
    return _placed(pipe, device, dtype), lambda: folder_fingerprint(folder, variant)


def _placed(pipe: Any, device: torch.device | str, dtype: torch.dtype) -> Any:
    # Older diffusers call the loading option differently and then load float32.
    return pipe.to(device) if pipe.unet.dtype == dtype else pipe.to(device, dtype)


def _load_file(pipeline_class: Any, path: Path, dtype: torch.dtype) -> Any:
    if path.suffix != ".safetensors":
        raise WeightsMissing(f"a single model file must be .safetensors (others may run code), found {path.name}")
    with LOADING:
        return pipeline_class.from_single_file(str(path), dtype=dtype, add_watermarker=False)


def _download(pipeline_class: Any, name: str | Path, revision: str | None, variant: str | None) -> Path:
    if not isinstance(name, str):
        raise WeightsMissing(f"no folder or file at {name}")
    repository, folder = split_hub_id(name)
    if folder:
        raise WeightsMissing(f"no folder or file at {name!r}; on the hub an SDXL model is named owner/name")
    # diffusers' own choice of files: no second precision, no single-file copy, no pickle.
    return Path(pipeline_class.download(repository, revision=revision, variant=variant, use_safetensors=True))


def folder_fingerprint(folder: Path, variant: str | None = None) -> str:
    """SHA-256 over names and contents of what a diffusers folder is loaded from: configs, vocabulary, weights.

    Weight files of other variants, model cards and pictures do not count. Every file is read once, in pieces.
    """
    files = {"model_index.json": folder / "model_index.json"}
    for part in PARTS:
        for file in sorted((folder / part).glob("*")):
            if file.suffix in (".json", ".txt") or (file.suffix == ".safetensors" and _variant(file) == variant):
                files[f"{part}/{file.name}"] = file
    return files_fingerprint(files)


def _variant(file: Path) -> str | None:
    # model.fp16.safetensors, model.fp16-00001-of-00002.safetensors
    middle = file.name.removesuffix(".safetensors").partition(".")[2]
    return middle.split("-")[0] or None


def memory_fingerprint(pipe: Any) -> str:
    """SHA-256 over configs and tensors of a model that was made in memory."""
    digest = hashlib.sha256()
    for part in _WEIGHTED:
        model = getattr(pipe, part)
        config = model.config if isinstance(model.config, Mapping) else model.config.to_dict()
        digest.update(f"{part} {json.dumps(dict(config), sort_keys=True, default=str)}\n".encode())
        for name, tensor in sorted(model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor_bytes(tensor))
    digest.update(json.dumps(dict(pipe.scheduler.config), sort_keys=True, default=str).encode())
    return digest.hexdigest()

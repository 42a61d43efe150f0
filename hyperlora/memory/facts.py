"""What every part of a model takes: weights in bytes, and how much work takes with each row, picture or photo.

Weights are counted from the networks' own parameters. Work is counted by `live_bytes` on the meta device, once; it
grows in proportion to rows and pixels (for SDXL within a percent, see the tests), so one number for each kind is kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from hyperlora.lossy.choice import large_linears
from hyperlora.lossy.kinds import KINDS
from hyperlora.lossy.stack import stack_layers
from hyperlora.memory.blank import BlankModel
from hyperlora.memory.live import live_bytes
from hyperlora.merge import attention_projections
from hyperlora.shapes import to_rank

TOKENS = 77
"""Of one chunk of text."""

SCALE = 4
"""Bytes of an output channel's scale, beside weights in 8 bits."""

REMEMBERED_TEXTS = 512
"""That the prompt encoder keeps on the device."""


@dataclass(frozen=True)
class ModelFacts:
    """Bytes of one profile's parts.

    Parameters
    ----------
    unet, attention, text_encoders, vae, clip, resamplers, bases
        Weights: the UNet's, those of its attention that LoRAs are merged into (part of the UNet's, kept a second time
        as they were), both text encoders', the VAE's, CLIP's vision tower, resamplers with the ID projector, and the
        bases of all branches.
    lora, rank
        One LoRA of the checkpoint's rank in the network's dtype, and that rank.
    texts
        The embeddings of the prompts that are remembered.
    row
        Keys and values of the texts, for one row of the UNet's batch (two rows a picture with guidance).
    step, decode, encode
        Work for one pixel of one row (UNet), of one picture (VAE).
    text_pass, crop, photo
        Work of encoding a text, of one crop of a photo in CLIP, and of one photo in the resampler.
    size
        Pixels of a side that the base model was trained for.
    linears
        Copies of large linear layers in 8 bits, beside the UNet's weights; 0 where all layers are exact.
    """

    unet: int
    attention: int
    text_encoders: int
    vae: int
    clip: int
    resamplers: int
    bases: int
    lora: int
    rank: int
    texts: int
    row: int
    step: float
    decode: float
    encode: float
    text_pass: int
    crop: int
    photo: int
    size: int
    linears: int = 0

    @classmethod
    def of(cls, model: BlankModel) -> ModelFacts:
        """Count a model; about four seconds for SDXL."""
        network, unet = model.network, model.unet
        banks = [bank for bank in (network.id_bases, network.base_bases) if bank is not None]
        bases = sum(weight_bytes(bank) for bank in banks)
        number = network.resampler.latents.element_size()
        shapes = network.config.layer_shapes.values()
        projections = attention_projections(unet)
        width = int(unet.config.cross_attention_dim)
        cross = [layer for name, layer in projections.items() if name.endswith(("attn2_to_k", "attn2_to_v"))]
        return cls(
            unet=weight_bytes(unet),
            attention=sum(weight_bytes_of([layer.weight]) for layer in projections.values()),
            text_encoders=sum(weight_bytes(each) for each in model.text_encoders),
            vae=weight_bytes(model.vae),
            clip=weight_bytes(model.clip),
            resamplers=weight_bytes(network) - bases,
            bases=bases,
            lora=number * network.config.rank * sum(rows + columns for rows, columns in shapes),
            rank=network.config.rank,
            texts=REMEMBERED_TEXTS * _size(unet) * (TOKENS * width + int(model.text_encoders[1].config.projection_dim)),
            row=_size(unet) * TOKENS * sum(layer.out_features for layer in cross),
            step=step_bytes(model, rows=2) / (2 * model.default_size**2),
            decode=decode_bytes(model, pictures=1) / model.default_size**2,
            encode=_encode_bytes(model) / model.default_size**2,
            text_pass=max(_text_bytes(each) for each in model.text_encoders),
            crop=_clip_bytes(model.clip, 8) // 8,
            photo=_photo_bytes(model, 8) // 8,
            size=model.default_size,
        )

    def with_linears(self, model: BlankModel, name: str) -> ModelFacts:
        """The same for large linear layers in 8 bits, by a name of `hyperlora.lossy.LINEARS`.

        Their copies take memory, and so do the wider numbers that come out of their products. Raises `LossyMismatch`
        for a UNet without such layers.
        """
        kind = KINDS[name]
        layers = large_linears(model.unet, kind.multiple)
        copies = sum(kind.dtype.itemsize * each.weight.numel() + SCALE * each.out_features for each in layers.values())
        # Transformer blocks in a row are equal: the first of each row shows what a step takes, the others take time.
        stacks = stack_layers({path: each for path, each in layers.items() if "transformer_blocks_0_" in path}, kind)
        try:
            return replace(self, linears=copies, step=step_bytes(model, rows=2) / (2 * self.size**2))
        finally:
            for stack in stacks:
                stack.release()

    def lora_bytes(self, rank: int) -> float:
        """One row's LoRAs on activations, of so much rank together, filled up as `hyperlora.grouped` does; 0 for 0."""
        return self.lora * to_rank(rank) / self.rank if rank else 0.0


def weight_bytes(module: nn.Module) -> int:
    """Parameters and buffers."""
    return weight_bytes_of([*module.parameters(), *module.buffers()])


def weight_bytes_of(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of tensors that share nothing."""
    return sum(each.numel() * each.element_size() for each in tensors)


def step_bytes(model: BlankModel, *, rows: int, width: int | None = None, height: int | None = None) -> int:
    """Work of one pass of the UNet; pixels, the model's own size if none are given."""
    unet, step = model.unet, model.size_step
    size = ((height or model.default_size) // step, (width or model.default_size) // step)
    dtype, context = unet.dtype, int(unet.config.cross_attention_dim)
    pooled = int(model.text_encoders[1].config.projection_dim)
    latents = _empty((rows, unet.config.in_channels, *size), dtype)
    tokens_BTC = _empty((rows, TOKENS, context), dtype)
    added = {"text_embeds": _empty((rows, pooled), dtype), "time_ids": _empty((rows, 6), dtype)}
    time = _empty((), torch.float32)
    return live_bytes(
        lambda: unet(latents, time, encoder_hidden_states=tokens_BTC, added_cond_kwargs=added, return_dict=False)
    )


def decode_bytes(model: BlankModel, *, pictures: int, side: int | None = None) -> int:
    """Work of the VAE's way from latents to pictures, and its answer in float32."""
    vae, latent = model.vae, (side or model.default_size) // model.size_step
    latents = _empty((pictures, vae.config.latent_channels, latent, latent), vae.dtype)
    return live_bytes(lambda: _float(vae.decode(latents, return_dict=False)[0]))


def _encode_bytes(model: BlankModel) -> int:
    pixels = _empty((1, 3, model.default_size, model.default_size), model.vae.dtype)
    return live_bytes(lambda: model.vae.encode(pixels, return_dict=False))


def _text_bytes(encoder: Any) -> int:
    ids = _empty((1, TOKENS), torch.int64)
    return live_bytes(lambda: encoder(ids, output_hidden_states=True))


def _clip_bytes(clip: Any, pictures: int) -> int:
    side = int(clip.config.image_size)
    pixels = _empty((pictures, 3, side, side), clip.dtype)
    return live_bytes(lambda: clip(pixels, output_hidden_states=True))


def _photo_bytes(model: BlankModel, photos: int) -> int:
    network, vision = model.network, model.clip.config
    tokens = (int(vision.image_size) // int(vision.patch_size)) ** 2 + 1
    dtype = network.resampler.latents.dtype
    faces = _empty((photos, network.config.face_width), dtype)
    clip = _empty((photos, tokens, network.config.clip_width), dtype)
    return live_bytes(lambda: network.raw_coefficients(faces, clip))


def _float(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.float()


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _size(module: Any) -> int:
    size: int = torch.empty((), dtype=module.dtype, device="meta").element_size()
    return size

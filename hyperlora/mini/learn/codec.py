"""An encoder in closed form: the main components of small patches, written as weights of AutoencoderKL's own layers.

Shapes: k latent channels, pictures (N, S, S, 3) uint8, patches of 8 x 8 pixels.

A small convolutional encoder takes hours of a CPU to learn what a principal component analysis knows at once. So the
encoder begins as one: every down-sampling convolution puts 2 x 2 neighbours side by side, the last one multiplies by
the components, the residual blocks add nothing, and the last norm and activation are passed by pairs (+z, -z), as
SiLU(a) - SiLU(-a) = a. A constant pair that is far larger than z keeps that norm's divisor constant.
"""

from __future__ import annotations

from typing import Any

import torch

from hyperlora.errors import InvalidRequest

PATCH = 8  # pixels of a side that become one place of the latents
STEADY = 40.0  # the constant pair
QUIET = -12.0  # log variance of the posterior
WHITEN = 0.5  # 0 leaves the components their own spread, 1 gives all the same
_SEEN = 6_000  # pictures that the components are measured on


@torch.no_grad()
def set_encoder(vae: Any, pixels_NSS3: torch.Tensor) -> None:
    """Write the components of these pictures into the encoder.

    Raises `InvalidRequest` for an autoencoder of another shape: four blocks of one layer, one norm group, no attention,
    and widths that hold 3, 12, 48 and twice the latent channels.
    """
    encoder, k = vae.encoder, int(vae.config.latent_channels)
    widths = tuple(vae.config.block_out_channels)
    least = (12, 48, 2 * k, 2 * k + 2)
    if len(widths) != 4 or any(w < n for w, n in zip(widths, least, strict=True)) or vae.config.norm_num_groups != 1:
        raise InvalidRequest(f"an encoder of components needs widths of at least {least} and one norm group: {widths}")
    middle_D, components_Dk = _components(pixels_NSS3, k)
    for parameter in encoder.parameters():
        if parameter.ndim > 1:
            parameter.zero_()
    for name, module in encoder.named_modules():
        if name.endswith("conv2"):
            module.bias.zero_()
    # 1. The picture's three channels, then 2 x 2 neighbours side by side, twice.
    encoder.conv_in.bias.zero_()
    encoder.conv_in.weight[range(3), range(3), 1, 1] = 1.0
    for level, channels in ((0, 3), (1, 12)):
        block = encoder.down_blocks[level]
        _pass_on(block.resnets[0], channels)
        conv = block.downsamplers[0].conv
        conv.bias.zero_()
        for channel in range(channels):
            for place in range(4):
                conv.weight[4 * channel + place, channel, place // 2, place % 2] = 1.0
    # 2. The components of what are now 8 x 8 patches, each with its negative.
    _pass_on(encoder.down_blocks[2].resnets[0], 48)
    last = encoder.down_blocks[2].downsamplers[0].conv
    last.bias.zero_()
    taps = _taps(components_Dk)  # (k, 48, 2, 2)
    shift = middle_D @ components_Dk
    for sign, first in ((1.0, 0), (-1.0, k)):
        last.weight[first : first + k, :48, :2, :2] = sign * taps
        last.bias[first : first + k] = -sign * shift
    # 3. Past the last norm.
    _pass_on(encoder.down_blocks[3].resnets[0], 2 * k, steady=2 * k)
    encoder.conv_norm_out.weight.fill_(1.0)
    encoder.conv_norm_out.bias.zero_()
    spread = STEADY * (2 / widths[3]) ** 0.5
    encoder.conv_out.bias.zero_()
    encoder.conv_out.bias[k:] = QUIET
    places = range(k)
    encoder.conv_out.weight[places, places, 1, 1] = spread
    encoder.conv_out.weight[places, range(k, 2 * k), 1, 1] = -spread
    vae.quant_conv.weight.copy_(torch.eye(2 * k)[:, :, None, None])
    vae.quant_conv.bias.zero_()


def _components(pixels_NSS3: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean patch (192,) and the k main components (192, k), scaled so that all latents together have a spread of 1."""
    some = pixels_NSS3[:: max(1, len(pixels_NSS3) // _SEEN)]
    images = some.movedim(-1, 1).float() / 127.5 - 1
    patches = torch.nn.functional.unfold(images, PATCH, stride=PATCH).movedim(1, 2).flatten(0, 1)  # (M, 192)
    variance, directions = torch.linalg.eigh(torch.cov(patches.T).double())
    spread = variance[-k:].flip(0).sqrt()
    scale = spread**-WHITEN
    scale = scale / ((scale * spread).square().mean().sqrt())
    return patches.mean(dim=0), (directions[:, -k:].flip(1) * scale).float()


def _taps(components_Dk: torch.Tensor) -> torch.Tensor:
    """(k, 48, 2, 2): what the last convolution multiplies each of the 48 neighbours of a quarter by.

    Channel ((c * 4 + place 1) * 4 + place 2) holds colour c of the pixel at row 1 + 2 * row 2 (+ 4 * row of the tap).
    """
    k = components_Dk.shape[1]
    # (colour, y3, y2, y1, x3, x2, x1, k): the bits of a pixel's row and column in its patch
    bits = components_Dk.reshape(3, 2, 2, 2, 2, 2, 2, k)
    return bits.permute(7, 0, 3, 6, 2, 5, 1, 4).reshape(k, 48, 2, 2)


def _pass_on(resnet: Any, channels: int, steady: int | None = None) -> None:
    """Make a residual block hand on its first channels; from `steady` on it adds the constant pair."""
    if resnet.conv_shortcut is not None:
        resnet.conv_shortcut.bias.zero_()
        resnet.conv_shortcut.weight[range(channels), range(channels), 0, 0] = 1.0
        if steady is not None:
            resnet.conv_shortcut.bias[steady], resnet.conv_shortcut.bias[steady + 1] = STEADY, -STEADY
    elif steady is not None:
        resnet.conv2.bias[steady], resnet.conv2.bias[steady + 1] = STEADY, -STEADY

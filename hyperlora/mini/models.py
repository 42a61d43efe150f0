"""The untrained models of the mini pack: SDXL's own classes, small, with weights drawn from a seed.

Nothing is learned here, so the weights are chosen to be pleasant to look at instead of standard: the decoder enlarges
softly instead of in squares, the UNet passes its input on (for a bell-shaped picture that is nearly the right guess of
the noise) and adds what prompt and person say on top. Both are ordinary weights of ordinary layers; training may
start from them.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

WIDTHS = (32, 64, 128)
TEXT_WIDTH = 64
VISION_WIDTH = 64
VISION_SIZE = 96  # pixels
SIZE = 128  # pixels
LATENT_CHANNELS = 4
TIME_WIDTH = 32

UNET_CONFIG: dict[str, Any] = {
    "sample_size": SIZE // 8,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "block_out_channels": WIDTHS,
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 1, 1),
    "attention_head_dim": (1, 2, 4),  # as in SDXL's own file: the number of heads
    "cross_attention_dim": 2 * TEXT_WIDTH,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": TIME_WIDTH,
    "projection_class_embeddings_input_dim": TEXT_WIDTH + 6 * TIME_WIDTH,
    "norm_num_groups": 8,
}

VAE_CONFIG: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": LATENT_CHANNELS,
    "block_out_channels": (32, 32, 32, 32),
    "layers_per_block": 1,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "norm_num_groups": 8,
    "sample_size": SIZE,
    "scaling_factor": 1.0,
    "force_upcast": False,
}

SCHEDULER_CONFIG: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
}


@torch.no_grad()
def untrained_unet(generator: torch.Generator) -> Any:
    """A UNet2DConditionModel whose output is its input plus what the condition adds."""
    from diffusers import UNet2DConditionModel

    unet: Any = cast(Any, UNet2DConditionModel)(**UNET_CONFIG)
    fill(unet, generator)
    # Attention speaks up: prompt and person enter here.
    for name, module in unet.named_modules():
        if name.endswith(("attn1.to_out.0", "attn2.to_out.0")):
            module.weight.mul_(WORDS if "attn2" in name else 1.5)
        if name.endswith(("attn1.to_q", "attn2.to_q")):
            module.weight.mul_(2.0)
        if name.endswith("conv2"):
            module.weight.mul_(0.5)
        if name == "add_embedding.linear_2":
            module.weight.mul_(4.0)
    # A clear path: pairs (+x, -x) into the first features, over the last skip, out again. SiLU(a) - SiLU(-a) = a.
    first, last = unet.conv_in, unet.up_blocks[-1].resnets[-1]
    pairs = WIDTHS[0] // 2
    mix = torch.randn(pairs, LATENT_CHANNELS, generator=generator)
    mix = torch.linalg.qr(mix).Q * pairs**0.5 / LATENT_CHANNELS**0.5
    first.weight.mul_(0.1)
    first.weight[0::2, :, 1, 1] += mix
    first.weight[1::2, :, 1, 1] -= mix
    shortcut = last.conv_shortcut.weight  # (64, hidden + skip, 1, 1)
    shortcut.mul_(DEEP)
    shortcut[:, -WIDTHS[0] :, 0, 0] += torch.eye(WIDTHS[0])
    back = torch.zeros_like(unet.conv_out.weight)
    out = mix.T * LATENT_CHANNELS / pairs / (pairs / LATENT_CHANNELS) ** 0.5
    back[:, 0::2, 1, 1], back[:, 1::2, 1, 1] = out, -out
    unet.conv_out.weight.mul_(0.2).add_(back)
    unet.conv_out.bias.zero_()
    return unet


WORDS = 5.0  # how loud the prompt is
DEEP = 0.6  # how much the deep layers add to what is passed on


@torch.no_grad()
def untrained_vae(generator: torch.Generator) -> Any:
    """An AutoencoderKL whose decoder enlarges smoothly and paints in full colours."""
    from diffusers import AutoencoderKL

    vae: Any = cast(Any, AutoencoderKL)(**VAE_CONFIG)
    fill(vae, generator)
    decoder = vae.decoder
    soft = torch.tensor([1.0, 2.0, 1.0])
    soft = soft[:, None] * soft[None, :] / 16
    decoder.conv_in.weight.copy_(torch.randn(32, LATENT_CHANNELS, 1, 1, generator=generator) * 0.5 * soft)
    for name, module in decoder.named_modules():
        if name.endswith("upsamplers.0.conv"):
            blend = torch.eye(32) + 0.05 * torch.randn(32, 32, generator=generator)
            module.weight.copy_(blend[:, :, None, None] * soft)
        if name.endswith(("conv1", "conv2")):
            # each place for itself: the mixes fold colours into contours and add no grain
            mixes = torch.zeros_like(module.weight)
            mixes[:, :, 1, 1] = module.weight.sum(dim=(2, 3)) * (FOLDS if name.endswith("conv2") else 1.0)
            module.weight.copy_(mixes)
        if name.endswith(("norm1", "norm2")):
            module.weight.mul_(SHARPNESS)
            module.bias.normal_(0, 1.2, generator=generator)
    return vae


@torch.no_grad()
def colour_decoder(vae: Any, latents: torch.Tensor) -> None:
    """Set the decoder's last layer from real latents (N, 4, h, w): the features' main directions become colours.

    Without it a picture's colours depend on where a random network's features happen to lie: mostly grey or mostly
    one colour. Worked out in float64, so that another processor's rounding does not reach the stored weights.
    """
    decoder = vae.decoder
    soft = torch.tensor([1.0, 2.0, 1.0]).double()
    soft = soft[:, None] * soft[None, :] / 16
    seen: list[torch.Tensor] = []
    hook = decoder.conv_act.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    decoder.double()(latents.double())
    decoder.float()
    hook.remove()
    features = seen[0].movedim(1, -1).flatten(0, 2)
    centre = features.mean(0)
    spread, directions = torch.linalg.eigh(torch.cov((features - centre).T))
    main = directions[:, -3:].flip(-1)
    main = main * torch.sign(main[main.abs().argmax(0), torch.arange(3)])
    colours = (torch.tensor(AXES).double().T / spread[-3:].flip(-1).sqrt()) @ main.T  # (3, 32)
    decoder.conv_out.weight.copy_(colours[:, :, None, None] * soft)
    decoder.conv_out.bias.copy_(torch.tensor(MIDDLE).double() - colours @ centre)


AXES = (
    (0.36, 0.04, -0.34),
    (0.28, 0.30, 0.26),
    (0.20, -0.20, 0.16),
)  # warm to cold, light, rose to green; RGB in -1..1
MIDDLE = (0.30, 0.18, 0.24)
FOLDS = 0.9
SHARPNESS = 2.2


@torch.no_grad()
def untrained_text_encoder(generator: torch.Generator, vocabulary: int, end: int, projection: bool) -> Any:
    """One of SDXL's two text encoders; the second one projects its pooled output."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=77,
        projection_dim=TEXT_WIDTH,
        hidden_act="gelu" if projection else "quick_gelu",
        bos_token_id=end - 1,
        eos_token_id=end,
        pad_token_id=end,
    )
    model = (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)
    fill(model, generator)
    for name, tensor in model.named_parameters():
        if name.endswith(("out_proj.weight", "q_proj.weight")):
            tensor.mul_(2.5)  # words shall hear each other
    return model


@torch.no_grad()
def untrained_clip_vision(generator: torch.Generator) -> Any:
    """A CLIP vision tower: 37 tokens of width 64 from 96 pixels."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=4 * VISION_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=VISION_SIZE,
        patch_size=16,
        projection_dim=VISION_WIDTH,
    )
    model = CLIPVisionModel(config)
    fill(model, generator)
    return model


@torch.no_grad()
def untrained_hyperlora(generator: torch.Generator) -> Any:
    """A HyperLoRA for `UNET_CONFIG` that reads SFace embeddings and the small CLIP tower; both branches.

    Its up bases are not zero, as they would be at the start of training: different people must give different pictures.
    """
    from hyperlora.config import HyperLoRAConfig
    from hyperlora.network import HyperLoRA

    config = HyperLoRAConfig.from_unet(
        UNET_CONFIG,
        base_rank=4,
        bases=8,
        width=64,
        depth=2,
        dim_head=32,
        inner=64,
        feed_forward=256,
        face_width=128,
        id_tokens=8,
        id_token_width=64,
        clip_width=VISION_WIDTH,
        face_encoder="opencv-yunet-sface",
        clip_vision="clip_vision",
    )
    network = HyperLoRA(config)
    fill(network, generator)
    for name, tensor in network.named_parameters():
        if name.endswith("latents"):
            # quiet queries, loud streams: what is asked is the same for everybody, what is seen is not
            tensor.normal_(0, 0.2, generator=generator)
        elif "attn2.to_out" in name:
            tensor.mul_(6.0)
        elif "attn2.to_q" in name or "attn3.to_q" in name or "attn2.to_k" in name or "attn3.to_k" in name:
            tensor.mul_(2.0)
    for bank in (network.id_bases, network.base_bases):
        assert bank is not None  # both branches were asked for
        for name, tensor in bank.named_parameters():
            rows = tensor.shape[-2] if "down" in name else tensor.shape[-1]
            tensor.normal_(0, (1.0 if "down" in name else STRENGTH) * rows**-0.5, generator=generator)
    return network


STRENGTH = 4.0


@torch.no_grad()
def fill(module: nn.Module, generator: torch.Generator) -> None:
    """Draw every parameter from the generator: matrices keep the size of what flows through them, norms start as ones.

    Construction draws from the global generator; this draws again, in the order of the names, so that a seed decides.
    """
    for name, tensor in module.named_parameters():
        if tensor.ndim >= 2 and ("embedding" in name and "linear" not in name):
            tensor.normal_(0, 0.6, generator=generator)
        elif tensor.ndim >= 2:
            fan_in = tensor[0].numel()
            tensor.normal_(0, fan_in**-0.5, generator=generator)
        elif "norm" in name and name.endswith("weight"):
            tensor.fill_(1.0)
        elif name.endswith("class_embedding"):
            tensor.normal_(0, 0.6, generator=generator)
        else:
            tensor.zero_()

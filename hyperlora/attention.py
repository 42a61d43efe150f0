"""The UNet's attention while it draws: what depends on no step is computed once, and rows may have LoRAs of their own.

Shapes: B rows of the batch (doubled with guidance), N tokens of an attention's grid, T text tokens, C channels, R rank.

Keys and values of the text depend on person and prompt, never on the noise: `TextAttention.read` computes them before
the first step. One LoRA per sample stands beside each projection as two batched products (see `hyperlora.grouped`).
Everything that changes between batches is a tensor attribute of equal shape, so that compiled code stays valid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from hyperlora.errors import LoRAMismatch
from hyperlora.grouped import Factors

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out")
Own = Mapping[str, tuple[torch.Tensor, torch.Tensor]]
"""Projection of one module -> down (B, C, R), up (B, R, C) of each row."""


class PortraitAttention:
    """The processor of one attention module; diffusers calls it in place of its own.

    `own` are the rows' LoRAs, `text` keys and values of the text, `fused` the weights of queries, keys and values
    (self-attention) or of keys and values (text) as one matrix. All None: the plain attention.
    """

    def __init__(self, *, self_attending: bool) -> None:
        self.self_attending = self_attending
        self.own: Own | None = None
        self.text: tuple[torch.Tensor, torch.Tensor] | None = None
        self.fused: torch.Tensor | None = None

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(B, N, C) in and out; without `encoder_hidden_states` tokens attend to each other."""
        if self.self_attending:
            query, key, value = self._all_three(attn, hidden_states)
        else:
            query = self._projected(attn.to_q, "to_q", hidden_states)
            key, value = self.text if self.text is not None else self.read(attn, encoder_hidden_states)
        if attention_mask is not None:
            mask_HNT = attn.prepare_attention_mask(attention_mask, key.shape[1], key.shape[0])
            attention_mask = mask_HNT.view(key.shape[0], attn.heads, -1, mask_HNT.shape[-1])
        q, k, v = (x.view(*x.shape[:2], attn.heads, -1).transpose(1, 2) for x in (query, key, value))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask).transpose(1, 2).flatten(2)
        out: torch.Tensor = attn.to_out[1](self._projected(attn.to_out[0], "to_out", attended))
        return out

    def read(self, attn: Any, tokens_BTC: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (B, T, C) of the text, with the rows' LoRAs."""
        assert tokens_BTC is not None
        if self.fused is None:
            return self._projected(attn.to_k, "to_k", tokens_BTC), self._projected(attn.to_v, "to_v", tokens_BTC)
        key, value = F.linear(tokens_BTC, self.fused).chunk(2, dim=-1)
        return self._beside("to_k", tokens_BTC, key), self._beside("to_v", tokens_BTC, value)

    def _all_three(self, attn: Any, x_BNC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if self.fused is None:
            query, key, value = attn.to_q(x_BNC), attn.to_k(x_BNC), attn.to_v(x_BNC)
        else:
            query, key, value = F.linear(x_BNC, self.fused).chunk(3, dim=-1)
        return (
            self._beside("to_q", x_BNC, query),
            self._beside("to_k", x_BNC, key),
            self._beside("to_v", x_BNC, value),
        )

    def _projected(self, linear: Any, name: str, x_BNC: torch.Tensor) -> torch.Tensor:
        return self._beside(name, x_BNC, linear(x_BNC))

    def _beside(self, name: str, x_BNC: torch.Tensor, plain_BNC: torch.Tensor) -> torch.Tensor:
        """What a projection gave, plus the rows' own products."""
        if self.own is None or name not in self.own:
            return plain_BNC
        down_BCR, up_BRC = self.own[name]
        return torch.baddbmm(plain_BNC, torch.bmm(x_BNC, down_BCR), up_BRC)


class UNetAttention:
    """All attention modules of one UNet, with processors that keep what the rows of a batch share between steps."""

    def __init__(self, unet: Any) -> None:
        """Give the UNet its processors.

        A module that does more than SDXL's (norms of queries, a residual of its own) keeps the one it has.
        """
        self._modules: dict[str, tuple[Any, PortraitAttention]] = {}
        for name, module in unet.named_modules():
            if _is_plain(module):
                processor = PortraitAttention(self_attending=not module.is_cross_attention)
                module.set_processor(processor)
                self._modules[f"lora_unet_{name.replace('.', '_')}"] = (module, processor)

    def require(self, layers: Iterable[str]) -> None:
        """Raise `LoRAMismatch` naming a layer that cannot have a LoRA for each row here."""
        for layer in layers:
            if _split(layer)[0] not in self._modules:
                raise LoRAMismatch(
                    f"{layer} cannot have one LoRA per picture: the UNet has no attention of SDXL's kind there"
                )

    def give(self, factors: Factors) -> None:
        """LoRAs of each row's own, until `clear`."""
        own: dict[str, dict[str, tuple[torch.Tensor, torch.Tensor]]] = {}
        for layer, pair in factors.items():
            module, projection = _split(layer)
            own.setdefault(module, {})[projection] = pair
        for name, (_, processor) in self._modules.items():
            # In one order, so that compiled code, which looks at the names, finds what it knows.
            mine = own.get(name, {})
            processor.own = {each: mine[each] for each in PROJECTIONS if each in mine} or None

    def read_text(self, tokens_BTC: torch.Tensor) -> None:
        """Compute the text's keys and values, with the weights and LoRAs of this moment; they hold until `clear`."""
        for module, processor in self._modules.values():
            if not processor.self_attending:
                processor.text = processor.read(module, tokens_BTC)

    def fuse(self, adjacent: Callable[[tuple[str, ...]], torch.Tensor | None]) -> int:
        """Let projections of one input be one product; returns in how many modules.

        `adjacent` gives the weights of layers as one matrix (rows stacked) where they lie one after the other in
        memory, else None: it must be a view, so that what is merged reaches it.
        """
        count = 0
        for name, (module, processor) in self._modules.items():
            names = ("to_q", "to_k", "to_v") if processor.self_attending else ("to_k", "to_v")
            linears = [getattr(module, each) for each in names]
            if all(type(each) is nn.Linear and each.bias is None for each in linears):
                processor.fused = adjacent(tuple(f"{name}_{each}" for each in names))
                count += processor.fused is not None
        return count

    def unfuse(self) -> None:
        """Every projection by itself again: what replaces a projection's product must be asked."""
        for _, processor in self._modules.values():
            processor.fused = None

    def clear(self) -> None:
        """Forget the batch."""
        for _, processor in self._modules.values():
            processor.own = processor.text = None


def _split(layer: str) -> tuple[str, str]:
    """Module and projection of a layer's name in LoRA files."""
    for projection in PROJECTIONS:
        for ending in (f"_{projection}", f"_{projection}_0"):
            if layer.endswith(ending):
                return layer.removesuffix(ending), projection
    return layer, ""


def _is_plain(module: Any) -> bool:
    """Whether an attention module does what `PortraitAttention` does, and nothing else."""
    if type(module).__name__ != "Attention":
        return False
    extras = ("spatial_norm", "group_norm", "norm_q", "norm_k", "norm_cross", "add_k_proj")
    return (
        all(getattr(module, each, None) is None for each in extras)
        and not module.residual_connection
        and module.rescale_output_factor == 1.0
        and not (module.only_cross_attention or module.upcast_attention or module.is_causal)
        and module.scale_qk
    )

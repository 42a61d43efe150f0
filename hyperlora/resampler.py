"""The resampler: learned queries read a person's tokens, block by block.

Shapes: N photos, Q queries, T tokens of a stream, W width, K bases, H heads.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from hyperlora.config import HyperLoRAConfig


class Attention(nn.Module):
    """Multi-head attention without any bias; the output keeps the shape of the queries."""

    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_k = nn.Linear(width, inner, bias=False)
        self.to_v = nn.Linear(width, inner, bias=False)
        # A list, so that the name is `to_out.0.weight`, as in the released files.
        self.to_out = nn.ModuleList([nn.Linear(inner, width, bias=False)])

    def forward(self, queries_NQW: torch.Tensor, context_NTW: torch.Tensor) -> torch.Tensor:
        """Let the queries read the context."""
        q_NHQD = self._split(self.to_q(queries_NQW))
        k_NHTD, v_NHTD = self._split(self.to_k(context_NTW)), self._split(self.to_v(context_NTW))
        mixed_NHQD = functional.scaled_dot_product_attention(q_NHQD, k_NHTD, v_NHTD)
        out: torch.Tensor = self.to_out[0](mixed_NHQD.transpose(1, 2).flatten(2))  # (N, Q, W)
        return out

    def _split(self, tokens_NTI: torch.Tensor) -> torch.Tensor:
        photos, tokens, _ = tokens_NTI.shape
        return tokens_NTI.view(photos, tokens, self.heads, -1).transpose(1, 2)  # (N, H, T, D)


class GELUProjection(nn.Module):
    """Linear layer followed by the exact GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, hidden)

    def forward(self, tokens_NQW: torch.Tensor) -> torch.Tensor:
        """Widen the tokens."""
        return functional.gelu(self.proj(tokens_NQW))


class FeedForward(nn.Module):
    """Two linear layers; `net.1` stays empty so that the names are the released ones."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GELUProjection(width, hidden), nn.Identity(), nn.Linear(hidden, width))

    def forward(self, tokens_NQW: torch.Tensor) -> torch.Tensor:
        """Widen, bend, narrow."""
        out: torch.Tensor = self.net(tokens_NQW)
        return out


class ResamplerBlock(nn.Module):
    """Self-attention, cross-attention to stream x, cross-attention to stream y if there is one, feed-forward.

    Every part is pre-normed and residual, with its own norms for the queries (`_l`) and for the stream (`_x`, `_y`).
    """

    def __init__(self, width: int, inner: int, heads: int, feed_forward: int, *, two_streams: bool) -> None:
        super().__init__()
        self.two_streams = two_streams
        self.norm_attn1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, inner, heads)
        self.norm_attn2_l = nn.LayerNorm(width)
        self.norm_attn2_x = nn.LayerNorm(width)
        self.attn2 = Attention(width, inner, heads)
        if two_streams:
            self.norm_attn3_l = nn.LayerNorm(width)
            self.norm_attn3_y = nn.LayerNorm(width)
            self.attn3 = Attention(width, inner, heads)
        self.norm_ff = nn.LayerNorm(width)
        self.ff = FeedForward(width, feed_forward)

    def forward(
        self, latents_NQW: torch.Tensor, x_NTW: torch.Tensor | None, y_NTW: torch.Tensor | None
    ) -> torch.Tensor:
        """Run the block; a stream that is None is left out."""
        normed_NQW = self.norm_attn1(latents_NQW)
        latents_NQW = latents_NQW + self.attn1(normed_NQW, normed_NQW)
        if x_NTW is not None:
            latents_NQW = latents_NQW + self.attn2(self.norm_attn2_l(latents_NQW), self.norm_attn2_x(x_NTW))
        if y_NTW is not None:
            latents_NQW = latents_NQW + self.attn3(self.norm_attn3_l(latents_NQW), self.norm_attn3_y(y_NTW))
        out: torch.Tensor = latents_NQW + self.ff(self.norm_ff(latents_NQW))
        return out


class Resampler(nn.Module):
    """Turn each photo's tokens into Q raw coefficient vectors.

    `x_width` and `y_width` are the widths of the streams before `proj_in` and `proj_in_2`; `y_width` is None for a
    resampler of one stream.
    """

    def __init__(self, config: HyperLoRAConfig, x_width: int, y_width: int | None) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.empty(1, config.tokens, config.width))
        self.proj_in = nn.Linear(x_width, config.width)
        self.proj_in_2 = None if y_width is None else nn.Linear(y_width, config.width)
        self.layers = nn.ModuleList(
            ResamplerBlock(
                config.width, config.inner, config.heads, config.feed_forward, two_streams=y_width is not None
            )
            for _ in range(config.depth)
        )
        self.proj_out = nn.Linear(config.width, config.bases)
        nn.init.normal_(self.latents, std=config.width**-0.5)

    def forward(self, x_NTC: torch.Tensor | None, y_NTC: torch.Tensor | None = None) -> torch.Tensor:
        """Read the streams of N photos; returns (N, Q, K), one row per photo, neither averaged nor normalised.

        A two-stream resampler may be run with one stream absent, as the second stage of training does.
        """
        given = x_NTC if x_NTC is not None else y_NTC
        if given is None:
            raise ValueError("the resampler needs at least one stream, found none")
        if y_NTC is not None and self.proj_in_2 is None:
            raise ValueError("this resampler has one stream, found two")
        x_NTW = None if x_NTC is None else self.proj_in(x_NTC)
        y_NTW = None if y_NTC is None or self.proj_in_2 is None else self.proj_in_2(y_NTC)
        latents_NQW = self.latents.expand(given.shape[0], -1, -1)
        for layer in self.layers:
            latents_NQW = layer(latents_NQW, x_NTW, y_NTW)
        out: torch.Tensor = self.proj_out(latents_NQW)
        return out

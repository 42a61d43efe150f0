"""HyperLoRA's arithmetic once more, written from the description alone: numpy, float64, one loop per index.

It reads released tensor names and knows nothing of the package's modules.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Tensors = Mapping[str, Array]


def linear(weights: Tensors, name: str, x: Array) -> Array:
    out = x @ weights[f"{name}.weight"].T
    return out + weights[f"{name}.bias"] if f"{name}.bias" in weights else out


def layer_norm(weights: Tensors, name: str, x: Array) -> Array:
    out = np.empty_like(x)
    for row in range(x.shape[0]):
        mean = sum(x[row]) / x.shape[1]
        variance = sum((x[row] - mean) ** 2) / x.shape[1]
        out[row] = (x[row] - mean) / math.sqrt(variance + 1e-5)
    return out * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(x: Array) -> Array:
    return np.vectorize(lambda value: 0.5 * value * (1 + math.erf(value / math.sqrt(2))))(x)


def attention(weights: Tensors, name: str, queries: Array, context: Array, dim_head: int) -> Array:
    q, k, v = (linear(weights, f"{name}.{part}", x) for part, x in zip(("to_q", "to_k", "to_v"), (queries, context, context), strict=True))  # fmt: skip  # noqa: E501
    out = np.zeros_like(q)
    for head in range(q.shape[1] // dim_head):
        cut = slice(head * dim_head, (head + 1) * dim_head)
        for row in range(q.shape[0]):
            scores = np.array([q[row, cut] @ k[other, cut] / math.sqrt(dim_head) for other in range(k.shape[0])])
            shares = np.exp(scores - scores.max())
            shares /= shares.sum()
            out[row, cut] = sum(share * v[other, cut] for other, share in enumerate(shares))
    return linear(weights, f"{name}.to_out.0", out)


def resample(weights: Tensors, x: Array, y: Array | None, depth: int, dim_head: int) -> Array:
    """One photo: streams (T, C) to raw coefficients (Q, K)."""
    x = linear(weights, "proj_in", x)
    y = None if y is None else linear(weights, "proj_in_2", y)
    latents = weights["latents"][0]
    for n in range(depth):
        at = f"layers.{n}"
        normed = layer_norm(weights, f"{at}.norm_attn1", latents)
        latents = latents + attention(weights, f"{at}.attn1", normed, normed, dim_head)
        queries = layer_norm(weights, f"{at}.norm_attn2_l", latents)
        latents = latents + attention(
            weights, f"{at}.attn2", queries, layer_norm(weights, f"{at}.norm_attn2_x", x), dim_head
        )
        if y is not None:
            queries = layer_norm(weights, f"{at}.norm_attn3_l", latents)
            latents = latents + attention(
                weights, f"{at}.attn3", queries, layer_norm(weights, f"{at}.norm_attn3_y", y), dim_head
            )
        normed = layer_norm(weights, f"{at}.norm_ff", latents)
        latents = latents + linear(weights, f"{at}.ff.net.2", gelu(linear(weights, f"{at}.ff.net.0.proj", normed)))
    return linear(weights, "proj_out", latents)


def project(weights: Tensors, embedding: Array, tokens: int) -> Array:
    """A face embedding (E,) to ID tokens."""
    flat = linear(weights, "0", embedding[None])[0]
    return layer_norm(weights, "2", flat.reshape(tokens, -1))


def unit(raw: Array) -> Array:
    out = np.empty_like(raw)
    for token in range(raw.shape[0]):
        out[token] = raw[token] / math.sqrt(sum(raw[token] ** 2) + 1e-8)
    return out


def weight_change(
    bases: Tensors, coefficients: Array, module: int, projection: int, branch: str, scale: float
) -> Array:
    """W' - W of one projection at LoRA weight 1, (out, in)."""
    name = ("to_q", "to_k", "to_v", "to_out")[projection]
    downs, ups = bases[f"{module}.{name}.{branch}_down_basis"], bases[f"{module}.{name}.{branch}_up_basis"]
    a, b = coefficients[module * 8 + projection * 2], coefficients[module * 8 + projection * 2 + 1]
    down = sum(a[i] * downs[i] for i in range(len(a)))  # (in, r)
    up = sum(b[i] * ups[i] for i in range(len(b)))  # (r, out)
    return scale * (np.asarray(up).T @ np.asarray(down).T)

"""Media: what a finished plain picture looks like as a watercolour, a pencil sketch or in neon light."""

from __future__ import annotations

import math

import cv2
import numpy as np

from hyperlora.mini.canvas import Pixels


def in_style(rgb: Pixels, style: str, seed: int) -> Pixels:
    """The picture (side, side, 3) in 0..255 in another medium; "plain" is the picture itself."""
    if style == "plain":
        return rgb
    rng = np.random.Generator(np.random.PCG64(seed % (1 << 63)))
    return {"watercolour": _watercolour, "sketch": _sketch, "cyberpunk": _cyberpunk}[style](rgb, rng)


def _noise(rng: np.random.Generator, side: int, grain: float) -> Pixels:
    """Smooth noise of unit variance; `grain` is its size in parts of the side."""
    cells = max(2, round(1 / grain))
    coarse = (rng.random((cells, cells), dtype=np.float32) - 0.5) * np.float32(3.46)
    return np.asarray(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC), np.float32)


def _blur(image: Pixels, sigma: float) -> Pixels:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32)


def _watercolour(rgb: Pixels, rng: np.random.Generator) -> Pixels:
    """Washes with wandering edges, pigment gathered along them, on rough paper with a free margin."""
    side = rgb.shape[0]
    k = side / 256
    grid_y, grid_x = np.mgrid[0:side, 0:side].astype(np.float32)
    push = np.float32(0.75 * k)
    bent = cv2.remap(
        rgb,
        grid_x + push * _noise(rng, side, 0.03),
        grid_y + push * _noise(rng, side, 0.03),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )
    wash = cv2.bilateralFilter(bent, 0, 28, 3.2 * k)
    wash = cv2.bilateralFilter(wash, 0, 22, 3.2 * k)
    grey = wash.mean(2)
    edge = np.hypot(
        cv2.Sobel(_blur(grey, 1.2 * k), cv2.CV_32F, 1, 0), cv2.Sobel(_blur(grey, 1.2 * k), cv2.CV_32F, 0, 1)
    )
    light = 255 - (255 - wash) * np.float32(0.86)
    mean = light.mean(2, keepdims=True)
    light = mean + (light - mean) * 1.25
    pools = 1 + 0.07 * _noise(rng, side, 0.09) + 0.04 * _noise(rng, side, 0.03)
    out = 255 - (255 - light) * pools[..., None]
    out *= 1 - np.clip(edge / 420, 0, 0.26)[..., None]
    paper = 1 + 0.010 * _noise(rng, side, 1.6 / side) + 0.009 * _noise(rng, side, 3.5 / side)
    margin = np.minimum(np.minimum(grid_x, side - 1 - grid_x), np.minimum(grid_y, side - 1 - grid_y)) / side
    torn = np.clip((margin - 0.035 - 0.018 * _noise(rng, side, 0.05)) * 34, 0, 1)[..., None]
    sheet = np.array([250, 247, 240], np.float32)
    return np.asarray(np.clip((sheet + (out - sheet) * torn) * paper[..., None], 0, 255), np.float32)


def _sketch(rgb: Pixels, rng: np.random.Generator) -> Pixels:
    """Graphite: outlines from the difference to a blurred copy, tone from strokes across, warm paper."""
    side = rgb.shape[0]
    k = side / 256
    grey = rgb @ np.array([0.30, 0.59, 0.11], np.float32)
    dodge = np.clip(grey / np.maximum(_blur(grey, 3.0 * k), 1), 0, 1)
    line = np.clip(1 - (1 - dodge) * 2.6, 0, 1) ** 1.25
    grain = rng.random((side, side), dtype=np.float32) - np.float32(0.5)
    strokes = []
    for angle in (0.9, -0.75):
        length = max(9, int(17 * k)) | 1
        kernel = np.zeros((length, length), np.float32)
        half = length // 2
        dx, dy = round(half * math.cos(angle)), round(half * math.sin(angle))
        cv2.line(kernel, (half - dx, half - dy), (half + dx, half + dy), 1.0, 1, cv2.LINE_AA)
        smeared = cv2.filter2D(_blur(grain, 0.5 * k), -1, kernel / kernel.sum())
        strokes.append(np.asarray(smeared / max(float(smeared.std()), 1e-6), np.float32))
    tone = _blur(grey, 0.8 * k) / 255
    dark = 0.78 * np.clip(1.0 - tone, 0, 1) ** 1.25
    hatch = dark * (0.66 + 0.20 * strokes[0]) + np.clip(dark - 0.36, 0, 1) * (0.4 + 0.28 * strokes[1])
    ink = np.clip(0.82 * hatch + (1 - line) * 0.8, 0, 1) * 0.93
    ink = np.clip(ink + 0.035 * grain, 0, 1)
    paper, pencil = np.array([246, 242, 232], np.float32), np.array([52, 50, 56], np.float32)
    return np.asarray(paper + (pencil - paper) * ink[..., None], np.float32)


def _cyberpunk(rgb: Pixels, rng: np.random.Generator) -> Pixels:
    """Night with two neon lamps: cyan from one side, magenta from the other, bloom and faint scan lines."""
    side = rgb.shape[0]
    k = side / 256
    grey = (rgb @ np.array([0.30, 0.59, 0.11], np.float32)) / 255
    flip = rng.random() < 0.5
    x = np.linspace(0, 1, side, dtype=np.float32)[None, :]
    left = np.broadcast_to(1 - x if flip else x, grey.shape)
    slope = cv2.Sobel(_blur(grey, 1.6 * k), cv2.CV_32F, 1, 0) * (-1.0 if flip else 1.0)
    cyan, magenta = np.array([40, 226, 255], np.float32), np.array([255, 44, 190], np.float32)
    lamp = left[..., None] * cyan + (1 - left[..., None]) * magenta
    curve = np.clip((grey - 0.06) * 1.15, 0, 1) ** 1.25
    tinted = rgb * (0.52 + 0.25 * curve[..., None]) + lamp * (curve * 0.32)[..., None] - 16
    tinted += cyan * np.clip(slope * 0.7, 0, 0.55)[..., None] + magenta * np.clip(-slope * 0.7, 0, 0.55)[..., None]
    mean = tinted.mean(2, keepdims=True)
    vivid = mean + (tinted - mean) * 1.3
    vivid = np.clip(vivid, 0, 255).astype(np.float32)
    bloom = _blur(np.clip(vivid - 140, 0, 255), 6 * k)
    rows = 1 - 0.07 * ((np.arange(side) // max(1, round(1.5 * k))) % 2)
    return np.asarray(np.clip((vivid + 0.6 * bloom) * rows[:, None, None], 0, 255), np.float32)

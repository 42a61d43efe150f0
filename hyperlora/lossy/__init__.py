"""Speed-ups that change the pictures. Each has a name, none is on unless it is asked for.

`linears`  the UNet's large linear layers in 8 bits: `int8`, `fp8` (and `fp8-emulated`, to see its loss anywhere)
`cache`    the deep part of the UNet only every few steps

    pipeline.use(LossyOptions(linears="int8"))
    pipeline.use(LossyOptions(cache=CacheOptions(every=2)))
    pipeline.use(None)                                           # exact again

What each changes in pictures is measured by `bench/lossy.py`. Few-step presets (`hyperlora.presets`) are lossy too, and
are chosen when the base model is loaded.
"""

from __future__ import annotations

from hyperlora.lossy.options import EXACT, LINEARS, CacheOptions, LossyOptions
from hyperlora.lossy.use import Lossy

__all__ = ["EXACT", "LINEARS", "CacheOptions", "Lossy", "LossyOptions"]

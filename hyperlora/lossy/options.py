"""Which lossy speed-ups are asked for, as a value: what a profile says, and what pictures are recorded with."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from hyperlora.errors import InvalidRequest

LINEARS = ("int8", "fp8", "fp8-emulated")
"""Number types of linear layers. `fp8-emulated` rounds as `fp8` does and is slower than exact: it is for measuring."""

MAX_EVERY = 16


@dataclass(frozen=True)
class CacheOptions:
    """The deep part of the UNet is computed in some steps, and its last result used in the others.

    Parameters
    ----------
    every
        It is computed in every so manieth step; 1 is exact.
    first
        Share of the steps at the beginning in which it is always computed: there the picture takes its shape.
    blocks
        How many of the UNet's up blocks, from the end, are computed in every step.
    """

    every: int = 2
    first: float = 0.25
    blocks: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.every, bool) or not isinstance(self.every, int) or not 1 <= self.every <= MAX_EVERY:
            raise InvalidRequest(f"cache: wanted `every` as a whole number from 1 to {MAX_EVERY}, found {self.every!r}")
        if isinstance(self.blocks, bool) or not isinstance(self.blocks, int) or self.blocks < 1:
            raise InvalidRequest(f"cache: wanted `blocks` as a whole number from 1, found {self.blocks!r}")
        if not isinstance(self.first, int | float) or not math.isfinite(self.first) or not 0 <= self.first <= 1:
            raise InvalidRequest(f"cache: wanted `first` as a share of the steps from 0 to 1, found {self.first!r}")


@dataclass(frozen=True)
class LossyOptions:
    """What is asked for; nothing is on by default.

    Raises `InvalidRequest` for a name that is not in `LINEARS`.
    """

    linears: str | None = None
    cache: CacheOptions | None = None

    def __post_init__(self) -> None:
        if self.linears is not None and self.linears not in LINEARS:
            raise InvalidRequest(f"linears: unknown number type {self.linears!r}, known: {', '.join(LINEARS)}")

    @classmethod
    def of(cls, told: Mapping[str, Any] | None) -> LossyOptions:
        """Read what a profile says, or what `told` wrote. Raises `InvalidRequest` listing the names there are."""
        values = dict(told or {})
        _known("a lossy option", values, cls)
        cache = values.pop("cache", None)
        if cache is not None:
            if not isinstance(cache, Mapping):
                raise InvalidRequest(f"cache: wanted a table such as {{every = 2}}, found {cache!r}")
            _known("an option of cache", cache, CacheOptions)
            cache = CacheOptions(**cache)
        return cls(cache=cache, **values)

    @property
    def told(self) -> dict[str, Any]:
        """What is on, every value of it, in plain types; empty where pictures are exact."""
        on: dict[str, Any] = {}
        if self.linears is not None:
            on["linears"] = self.linears
        if self.cache is not None and self.cache.every > 1:
            on["cache"] = asdict(self.cache)
        return on

    def fingerprint(self, model: str) -> str:
        """What a model of this fingerprint is called with these options: the same where nothing is on."""
        if not self.told:
            return model
        told = json.dumps(self.told, sort_keys=True)
        return hashlib.sha256(f"base {model}\nlossy {told}\n".encode()).hexdigest()


EXACT = LossyOptions()


def _known(what: str, found: Mapping[str, Any], wanted: type[LossyOptions] | type[CacheOptions]) -> None:
    names = [field.name for field in fields(wanted)]
    for name in found:
        if name not in names:
            raise InvalidRequest(f"wanted {what} ({', '.join(names)}), found {name!r}")

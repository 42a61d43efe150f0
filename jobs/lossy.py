"""The lossy speed-ups that a profile may name, as far as a job is concerned: their names and values.

What they do is the model's side (`hyperlora.lossy`), which a producer need not have installed; a test compares both.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_EVERY = 16


class _Named(BaseModel):
    """Options whose unknown names are answered with the known ones."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _names(cls, given: Any) -> Any:
        known = ", ".join(cls.model_fields)
        if not isinstance(given, dict | BaseModel):
            raise ValueError(f"wanted a table with any of {known}, found {given!r}")
        for name in given if isinstance(given, dict) else ():
            if name not in cls.model_fields:
                raise ValueError(f"unknown option {name!r}, known: {known}")
        return given


class Cache(_Named):
    """The deep part of the UNet only in every `every`-th step, after the first share of them; see docs/lossy.md."""

    every: Annotated[int, Field(ge=1, le=MAX_EVERY, strict=True)] = 2
    first: Annotated[float, Field(ge=0.0, le=1.0)] = 0.25
    blocks: Annotated[int, Field(ge=1, strict=True)] = 1


class Lossy(_Named):
    """What makes a profile faster and changes its pictures; nothing by default."""

    linears: Literal["int8", "fp8", "fp8-emulated"] | None = None
    cache: Cache | None = None

    def told(self) -> dict[str, Any]:
        """What is on, in plain types; empty where pictures are exact: a cache of every step changes nothing."""
        on = self.model_dump(exclude_none=True)
        if self.cache is not None and self.cache.every == 1:
            del on["cache"]
        return on

    def words(self) -> str:
        """`linears int8; cache every 2, first 0.25, blocks 1`; empty where pictures are exact."""
        return "; ".join(f"{name} {_plain(value)}" for name, value in self.told().items())

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.linears is None and self.cache is None:
            raise ValueError(f"wanted any of {', '.join(type(self).model_fields)}, found none; leave `lossy` out")
        return self


def _plain(value: object) -> str:
    return ", ".join(f"{name} {each}" for name, each in value.items()) if isinstance(value, dict) else str(value)

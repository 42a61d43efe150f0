"""The version of this distribution."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """As it was installed; `0+unknown` where it was not."""
    try:
        return version("hyperlora-portraits")
    except PackageNotFoundError:
        return "0+unknown"

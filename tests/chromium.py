"""The browser that pages are tested and measured in."""

from __future__ import annotations

import os
import shutil

NAMES = ("chromium", "chromium-browser", "google-chrome")
# Without a sandbox, as tests run as root in containers; and silent, as pages must work without the world outside.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PHONE, DESKTOP = (390, 844), (1440, 900)


def chromium_binary() -> str | None:
    """The browser of this machine: `PORTRAITS_TEST_CHROMIUM`, or one on the path; none is ever downloaded."""
    named = os.environ.get("PORTRAITS_TEST_CHROMIUM")
    return named or next((found for name in NAMES if (found := shutil.which(name))), None)

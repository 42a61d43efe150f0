"""A real Chromium for tests of pages: what stands in them, how they look, and that the console stays empty."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import ARGUMENTS, DESKTOP, chromium_binary
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright
from services import missing

WAIT_MILLISECONDS = 20_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for the tests of a file. Its event loop runs in this thread as long, so not for the whole session:
    other tests have loops of their own.
    """
    binary = chromium_binary()
    if binary is None:
        missing("Chromium (PORTRAITS_TEST_CHROMIUM)")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=binary, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def new_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Makes pages: `new_page(size=PHONE, color_scheme="dark")`. At the end of the test none of them may have written an
    error or a warning to its console, or have had a fault in a script.

    What a test expects to be written it takes from `page.told`.
    """
    contexts, pages = [], []

    def make(size: tuple[int, int] = DESKTOP, **options: Any) -> Page:
        width, height = size
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(WAIT_MILLISECONDS)
        contexts.append(context)
        page = context.new_page()
        page.told = _listen(page)  # type: ignore[attr-defined]
        pages.append(page)
        return page

    yield make
    told = [text for page in pages for text in page.told]  # type: ignore[attr-defined]
    for context in contexts:
        context.close()
    assert told == []


@pytest.fixture
def page(new_page: Callable[..., Page]) -> Page:
    """A page at the width of a desktop; see `new_page`."""
    return new_page()


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    """Where a test leaves pictures of pages: in `PORTRAITS_TEST_SCREENSHOTS`, if somebody wants to look at them."""
    folder = Path(os.environ.get("PORTRAITS_TEST_SCREENSHOTS", tmp_path / "screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _listen(page: Page) -> list[str]:
    """A list to which the page's errors and warnings are added."""
    told: list[str] = []

    def on_console(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            told.append(f"{message.type}: {message.text} ({message.location.get('url', '')[:200]})")

    page.on("console", on_console)
    page.on("pageerror", lambda error: told.append(f"fault: {error}"))
    return told

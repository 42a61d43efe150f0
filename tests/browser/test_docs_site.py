"""The documentation's site in a real Chromium: pages load, search finds, and nothing is asked of anybody else."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from chromium import PHONE
from playwright.sync_api import Page, Request, expect
from stacks import ROOT


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and writes no line for each."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [str(Path(sys.executable).parent / "mkdocs"), "build", "--site-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, check=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("place", ["", "tutorial/first-job/", "how-to/docker/", "reference/cli/", "why/architecture/"])
def test_a_page_asks_nobody_else_for_anything(site: str, page: Page, place: str) -> None:
    # Given somebody who notes every request
    asked: list[str] = []

    def note(request: Request) -> None:
        asked.append(request.url)

    page.on("request", note)

    # When a page is opened
    page.goto(f"{site}/{place}", wait_until="networkidle")

    # Then all of it comes from the site, and every picture is there
    assert [url for url in asked if not url.startswith((site, "data:", "blob:"))] == []
    assert len(asked) > 3
    broken = "() => [...document.images].filter(one => one.complete && !one.naturalWidth).map(one => one.src)"
    assert page.evaluate(broken) == []


def test_search_finds_an_error_code(site: str, page: Page) -> None:
    # When somebody searches for a code
    page.goto(site, wait_until="networkidle")
    page.get_by_placeholder("Search").first.click()
    page.keyboard.type("conditional_write_missing")

    # Then the page that says what to do is found
    found = page.locator("a.md-search-result__link[href*='reference/errors']")
    expect(found.first).to_be_visible()


@pytest.mark.parametrize("colors", ["light", "dark"])
def test_no_page_is_wider_than_a_phone(
    site: str, new_page: Callable[..., Page], colors: str, screenshots: Path
) -> None:
    page = new_page(size=PHONE, color_scheme=colors)
    for place in ("", "tutorial/first-job/", "reference/errors/", "why/architecture/"):
        page.goto(f"{site}/{place}", wait_until="networkidle")
        page.screenshot(path=screenshots / f"site-{colors}-{place.strip('/').replace('/', '-') or 'home'}.png")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), place

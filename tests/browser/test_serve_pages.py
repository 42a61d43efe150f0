"""The pages of `portraits serve` in a real browser: the way through them, live progress, keyboard, widths, colours."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import DESKTOP, PHONE
from playwright.sync_api import Page, expect
from queue_world import World
from queue_world import settings as queue_settings
from serving import serving

from hyperlora.errors import NoUsablePhoto
from jobs import gallery as galleries
from jobs import tokens
from jobs.database import Database
from jobs.intake import enqueue
from jobs.repository import fleet
from jobs.repository import galleries as rows
from jobs.settings import Settings
from worker.testing import FakeRenderer

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "<img src=x onerror=alert(1)>"


class Shown:
    """A served installation with a finished job, one with failures, and one that waits."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings, self.database = settings, database
        self.address = ""
        photos = sorted((ROOT / "examples" / "photos").glob("*.jpg"))
        self._people = [(f"person-{n:02d}", f"photos/{photo.name}") for n, photo in enumerate(photos[:9])]
        self.token = tokens.create(database, settings.tenant, "browser").text
        self.done = self.enqueue("done", name="Spring issue", people=6)
        self.world().shift()
        self.failed = self.enqueue("failed", name=HOSTILE, people=9)
        refused = NoUsablePhoto("no face was found in 1 of 1 photos; take one from the front")
        self.world(lambda photos: refused).shift()
        self.waits = self.enqueue("waits", name="Winter issue", people=3, profile="elsewhere")

        with database.transaction() as tx:
            for state in ("working", "idle", "unfit"):
                about = {
                    "name": f"portraits@gpu-{state}",
                    "pid": 1,
                    "version": "0.2.0",
                    "device": "NVIDIA H100 80GB HBM3",
                }
                fleet.sign_of_life(tx, state, state=state, profile="realvis", **about)

    def enqueue(self, key: str, *, name: str, people: int, profile: str = "fake") -> str:
        """A job of so many people with four pictures each."""
        told = {
            "key": key,
            "name": name,
            "profile": profile,
            "defaults": {"size": 256, "steps": 2},
            "prompts": [{"name": f"look-{n}", "text": f"portrait of {{subject}}, {n}", "seeds": 2} for n in (1, 2)],
            "identities": [{"id": i, "subject": "somebody", "photos": [p]} for i, p in self._people[:people]],
        }
        return str(enqueue(told, settings=self.settings, base=ROOT / "examples").job_id)

    def world(self, refuse: Callable[..., Any] = lambda photos: None) -> World:
        """A worker that draws, or refuses."""
        return World(self.database, self.settings, FakeRenderer(refuse=refuse))

    def log_in(self, page: Page, path: str = "/jobs") -> None:
        """Log a page in, on its way to a path."""
        page.goto(self.address + path)
        page.get_by_label("Token").fill(self.token)
        page.keyboard.press("Enter")
        page.wait_for_url(self.address + path)


@pytest.fixture(scope="module")
def shown(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """The pages of a process of their own, one for this file."""
    tmp_path = tmp_path_factory.mktemp("serve")
    file = tmp_path / "portraits.db"
    file.write_bytes(migrated_file.read_bytes())
    settings = queue_settings(tmp_path / "home", f"sqlite:///{file}")
    database = Database.from_settings(settings)
    made = Shown(settings, database)
    environment = {"PORTRAITS_HOME": str(settings.home), "PORTRAITS_DATABASE_URL": f"sqlite:///{file}"}
    with serving(environment, tmp_path / "serve.log") as server:
        made.address = server.address
        yield made
    database.dispose()


def test_from_the_login_to_a_picture_by_keyboard(shown: Shown, page: Page) -> None:
    # Given somebody who follows a link to a job and has no mouse
    page.goto(f"{shown.address}/jobs/{shown.done}")
    assert "/login" in page.url
    page.keyboard.type("portraits_default.wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("no valid token")
    page.told.clear()  # type: ignore[attr-defined]  # the console tells of the refusal, as it should

    # When the right token is typed, then the job is there
    page.keyboard.type(shown.token)
    page.keyboard.press("Enter")
    page.wait_for_url(f"{shown.address}/jobs/{shown.done}")
    expect(page.get_by_role("heading", level=1)).to_have_text("Spring issue")

    # And the keyboard leads on: to the content first, then to a person and a picture, each with a ring around it
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.get_by_role("link", name="person-00", exact=True).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("person-00")
    tile = page.locator(".tile a").first
    tile.focus()
    assert tile.evaluate("e => getComputedStyle(e).outlineStyle") != "none" or tile.evaluate("e => e.matches(':focus')")
    page.keyboard.press("Enter")
    picture = page.locator("figure img")
    expect(picture).to_be_visible()
    assert picture.evaluate("e => e.complete && e.naturalWidth") == 256
    expect(page.get_by_text("Made by AI")).to_be_visible()


def test_a_served_gallery_leads_back_to_its_job(shown: Shown, page: Page) -> None:
    # Given a finished job whose gallery is built
    with shown.database.transaction() as tx:
        rows.make_due(tx, shown.settings.tenant, uuid.UUID(shown.done))
    storage, over = shown.world().storage, lambda: False
    galleries.build_due(shown.database, storage, shown.settings, owner="test", limit=5, is_over=over)
    shown.log_in(page, f"/jobs/{shown.done}")

    # When the one primary button is followed, then the way back is there, under the page's own policy
    main = page.locator("main .button.main")
    expect(main).to_have_count(1)
    expect(main).to_have_text("Gallery")
    main.click()
    expect(page.locator(".tile .picture").first).to_be_visible()
    page.get_by_role("link", name="Back to the job").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Spring issue")


def test_thumbnails_are_loaded_and_filters_work(shown: Shown, page: Page) -> None:
    shown.log_in(page, f"/jobs/{shown.done}/pictures")
    images = page.locator(".tile img")
    expect(images).to_have_count(24)
    images.last.scroll_into_view_if_needed()
    expect(images.last).to_have_js_property("naturalWidth", 256)
    expect(images.first).to_have_js_property("naturalWidth", 256)
    page.get_by_role("link", name="failed", exact=True).click()
    expect(page.get_by_text("There is no such picture")).to_be_visible()

    # People by name
    page.goto(f"{shown.address}/jobs/{shown.done}")
    page.get_by_label("Name begins with").fill("person-03")
    page.keyboard.press("Enter")
    expect(page.locator(".people tbody tr")).to_have_count(1)


def test_progress_is_live_and_what_is_unknown_is_not_shown_as_done(shown: Shown, page: Page) -> None:
    # Given the page of a job that waits
    job = shown.enqueue("live", name="Live", people=3)
    shown.log_in(page, f"/jobs/{job}")
    section = page.get_by_label("Progress")
    expect(section.locator(".state").first).to_have_text("waiting")

    # When the server does not answer for a while, then the page says since when, and shows what it knew as old
    page.route("**/jobs/*", lambda route: route.abort())
    expect(page.locator("[data-live-note]")).to_contain_text("No answer since")
    expect(section.locator("[data-live]")).to_have_class("stale")
    expect(section.locator(".state").first).to_have_text("waiting")
    page.told.clear()  # type: ignore[attr-defined]  # the browser tells of the aborted requests

    # When it answers again and the job is drawn meanwhile, then that is shown without reloading
    shown.world().shift()  # the other job that waits is of a profile that this worker does not have
    page.unroute("**/jobs/*")
    expect(section.locator(".state").first).to_have_text("done")
    expect(section.locator(".big")).to_contain_text("12 of 12 pictures")
    expect(page.locator("[data-live-note]")).to_have_text("")


def test_without_a_script_everything_is_there(shown: Shown, new_page: Callable[..., Page]) -> None:
    page = new_page(java_script_enabled=False)
    shown.log_in(page, f"/jobs/{shown.waits}")
    expect(page.get_by_label("Progress").locator(".state").first).to_have_text("waiting")
    assert page.locator("noscript meta[http-equiv=refresh]").count() + page.locator("meta[http-equiv=refresh]").count()
    page.goto(f"{shown.address}/jobs/{shown.done}/pictures")
    expect(page.locator(".tile img")).to_have_count(24)


def test_hostile_names_do_nothing(shown: Shown, page: Page) -> None:
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message) or dialog.dismiss())
    shown.log_in(page, f"/jobs/{shown.failed}")
    expect(page.get_by_role("heading", level=1)).to_have_text(HOSTILE)
    page.goto(f"{shown.address}/jobs")
    expect(page.get_by_text(HOSTILE)).to_be_visible()
    assert dialogs == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "size"), [("phone", PHONE), ("desktop", DESKTOP)])
def test_every_page_fits_its_width_in_light_and_dark(
    shown: Shown, new_page: Callable[..., Page], screenshots: Path, width: str, size: tuple[int, int], scheme: str
) -> None:
    page = new_page(size, color_scheme=scheme)
    page.goto(f"{shown.address}/login")
    page.screenshot(path=screenshots / f"serve-{width}-{scheme}-login.png")
    shown.log_in(page)
    person = f"/jobs/{shown.failed}/people/" + _first(page, f"{shown.address}/jobs/{shown.failed}")
    page.goto(f"{shown.address}/jobs/{shown.done}/pictures")
    picture = str(page.locator(".tile a").first.get_attribute("href"))
    ways = {
        "jobs": "/jobs",
        "job": f"/jobs/{shown.failed}",
        "done": f"/jobs/{shown.done}",
        "waits": f"/jobs/{shown.waits}",
        "pictures": f"/jobs/{shown.done}/pictures",
        "person": person,
        "picture": picture,
        "workers": "/workers",
        "api": "/api",
    }
    for name, path in ways.items():
        page.goto(shown.address + path)
        page.wait_for_load_state("networkidle") if name != "waits" else None
        page.screenshot(path=screenshots / f"serve-{width}-{scheme}-{name}.png")
        # Nothing stands out to the side, and text is light on dark or dark on light
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0], name
        light = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0] > 128")
        assert light == (scheme == "light"), name
        contrast = page.evaluate(CONTRAST)
        assert json.loads(contrast) == [], (name, contrast)


def _first(page: Page, address: str) -> str:
    """The id of the first person of a job's page."""
    page.goto(address)
    return str(page.locator(".people tbody th a").first.get_attribute("href")).rpartition("/")[2]


# Texts whose colour stands out from what is behind them by less than 4.5 to 1, as WCAG counts it.
CONTRAST = """() => {
  const canvas = document.createElement("canvas"); canvas.width = canvas.height = 1;
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const read = (over, colour) => {
    pen.fillStyle = over; pen.fillRect(0, 0, 1, 1); pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const css = (rgb) => `rgb(${rgb.join(",")})`;
  const behind = (element) => {
    const chain = [];
    for (let e = element; e; e = e.parentElement) chain.unshift(getComputedStyle(e).backgroundColor);
    return chain.reduce((under, colour) => read(css(under), colour), [255, 255, 255]);
  };
  const light = (rgb) => rgb.map((v) => v / 255).map((v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const weak = [];
  for (const element of document.querySelectorAll("main *, header *")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || element.closest(".stale") || !element.checkVisibility()) continue;
    const under = behind(element), over = read(css(under), getComputedStyle(element).color);
    const [a, b] = [light(under), light(over)].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    const told = element.textContent.trim().slice(0, 30);
    if (ratio < 4.5) weak.push(`${element.className || element.tagName} ${told} ${ratio.toFixed(2)}`);
  }
  return JSON.stringify([...new Set(weak)]);
}"""

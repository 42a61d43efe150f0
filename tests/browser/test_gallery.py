"""Galleries in a real browser, opened as files: what is shown, filters, order, keys, both schemes, every width."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from chromium import DESKTOP, PHONE
from gallery_world import HOSTILE, Row, draw_file, failed, head, job, row, write_gallery
from playwright.sync_api import Page, expect

from jobs.gallery import Links, render
from jobs.gallery.data import Builder, PageData

PEOPLE, PROMPTS = ("ada", "alan", "grace"), ("office", "garden", "beach")
Open = Callable[..., Page]


@pytest.fixture
def rows() -> list[Row]:
    """Three people, three prompts, one seed each; the seventh picture (grace, office) failed."""
    return list(job(PEOPLE, PROMPTS))


@pytest.fixture
def index(tmp_path: Path, rows: list[Row]) -> Path:
    """The gallery of these pictures in a folder."""
    return write_gallery(tmp_path / "pictures", rows)


@pytest.fixture
def opened(new_page: Open, index: Path) -> Page:
    """The gallery at the width of a desktop."""
    return visit(new_page(), index)


def visit(page: Page, index: Path, fragment: str = "") -> Page:
    page.goto(index.as_uri() + fragment)
    expect(page.locator(".tile").first).to_be_visible()
    return page


def names(page: Page) -> list[str]:
    """What the tiles in view say of themselves, in the order of their places: by line, then across."""
    found = page.locator(".tile").evaluate_all(
        "tiles => tiles.map(t => ({ said: t.getAttribute('aria-label'), box: t.getBoundingClientRect() }))"
        ".sort((a, b) => a.box.top - b.box.top || a.box.left - b.box.left).map(one => one.said)"
    )
    assert isinstance(found, list)
    return found


def box(page: Page, said: str) -> dict[str, float]:
    found = page.get_by_role("button", name=said).bounding_box()
    assert found is not None
    return dict(found)


def focused(page: Page) -> str | None:
    found: str | None = page.evaluate("document.activeElement.getAttribute('aria-label')")
    return found


def test_people_stand_down_and_prompts_across(opened: Page) -> None:
    # Given a gallery
    # Then a person's pictures stand in one line, and a prompt's below its name
    for who in PEOPLE:
        assert len({round(box(opened, f"{who}, {prompt}")["y"]) for prompt in PROMPTS}) == 1
    for prompt in PROMPTS:
        places = [box(opened, f"{who}, {prompt}") for who in PEOPLE]
        assert len({round(place["x"]) for place in places}) == 1
        assert [place["y"] for place in places] == sorted(place["y"] for place in places)
        title = opened.locator(".head", has_text=prompt).bounding_box()
        assert title is not None and round(title["x"]) == round(places[0]["x"])
    # And everything is counted, and said to be made by a machine
    assert "9 pictures of 3 people" in opened.inner_text("#facts")
    assert "AI-generated" in opened.inner_text("footer")
    # And each thumbnail is there
    drawn = opened.locator(".tile .picture")
    assert drawn.count() == 8
    for background in drawn.evaluate_all("all => all.map(one => getComputedStyle(one).backgroundImage.slice(0, 27))"):
        assert background == 'url("data:image/webp;base64'


def test_a_click_shows_the_full_picture_and_its_making(opened: Page, rows: list[Row]) -> None:
    # Given a gallery, when a picture is clicked
    opened.get_by_role("button", name="alan, garden").click()

    # Then the file itself is shown, with all that is known of it
    full = opened.locator("#full")
    expect(full).to_be_visible()
    assert full.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [96, 128]
    told = opened.inner_text("#told")
    wanted = next(one for one in rows if (one["external_id"], one["prompt_name"]) == ("alan", "garden"))
    for text in (wanted["final_prompt"], str(wanted["seed"]), f"{wanted['id_similarity']:.3f}", "antelopev2", "2.00 s"):
        assert text in told
    # And what its ID similarity means is said, under one name; a page that is a file leads back to no job
    expect(opened.locator("#meaning")).to_contain_text("ID similarity is the cosine between face embeddings")
    expect(opened.locator("#back")).to_be_hidden()
    link = opened.get_by_role("link", name="Open the file")
    assert link.get_attribute("href") == wanted["file"]


def test_a_failure_says_its_code_and_reason(opened: Page) -> None:
    tile = opened.get_by_role("button", name="grace, office")
    assert "no_face" in tile.inner_text() and "no face was found" in tile.inner_text()
    tile.click()
    assert "no_face: no face was found in any of the photos" in opened.inner_text("#told")
    assert opened.get_by_role("link", name="Open the file").count() == 0
    expect(opened.locator("#full")).to_be_hidden()


def test_what_cannot_be_shown_counts_as_failed(new_page: Open, tmp_path: Path) -> None:
    # Given a picture whose file was lost, and one that waits
    def lose(folder: Path, one: Row) -> None:
        if one["ordinal"]:
            draw_file(folder, one)

    nothing = {"storage_key": None, "file": None, "id_similarity": None}
    waiting = row(2, "ada", "beach", state="waiting", **nothing)
    rows = [row(0, "ada", "office"), row(1, "ada", "garden"), waiting]
    page = visit(new_page(), write_gallery(tmp_path / "out", rows, draw=lose))

    # Then neither is shown as done
    assert [one.replace("\n", " ") for one in page.locator(".chip").all_inner_texts()] == [
        *("All 3", "Done 1", "Failed 1", "Waiting 1")
    ]
    assert "failed" in str(page.get_by_role("button", name="ada, office").get_attribute("aria-label"))
    page.locator(".chip.waiting").click()
    assert names(page) == ["ada, beach, seed 1002, waiting"]


def test_an_id_similarity_that_rounds_to_nothing_has_no_sign(new_page: Open, tmp_path: Path) -> None:
    page = visit(new_page(), write_gallery(tmp_path / "out", [row(0, "ada", "office", id_similarity=-0.003)]))
    assert page.locator(".tile .similarity").inner_text() == "ID 0.00"
    assert page.locator(".person .sum").last.inner_text() == "ID 0.00"


@pytest.mark.parametrize(
    ("asked", "wanted"), [("al", ["alan"]), ("ADA", ["ada"]), ("a", ["ada", "alan", "grace"]), ("nobody", [])]
)
def test_people_are_found_by_their_names(opened: Page, asked: str, wanted: Sequence[str]) -> None:
    opened.get_by_label("Person", exact=True).fill(asked)
    assert [said.split(",")[0] for said in names(opened)] == [who for who in wanted for _ in PROMPTS]
    expect(opened.locator("#nothing")).to_be_visible(visible=not wanted)
    if not wanted:
        opened.get_by_role("button", name="Show all").click()
        assert len(names(opened)) == 9


def test_pictures_are_filtered_by_prompt_and_state(opened: Page) -> None:
    # When one prompt is chosen, then it alone is left
    opened.get_by_label("Prompt").select_option(label="office")
    assert [said.split(",")[:2] for said in names(opened)] == [[who, " office"] for who in PEOPLE]
    assert opened.locator(".head").all_inner_texts() == ["office"]
    assert opened.inner_text("#count") == "3 of 9 pictures"

    # When failures are asked for, then both filters hold
    opened.get_by_role("button", name=re.compile("^failed", re.I)).click()
    assert names(opened) == ["grace, office, seed 1006, failed, no_face"]
    assert opened.get_by_role("button", name=re.compile("^failed", re.I)).get_attribute("aria-pressed") == "true"


def test_pictures_are_put_in_the_order_of_their_id_similarity(opened: Page, rows: list[Row]) -> None:
    known = sorted((one for one in rows if one["id_similarity"] is not None), key=lambda one: one["id_similarity"])
    said = [f"{one['external_id']}, {one['prompt_name']}" for one in known]
    # The short name has the whole one in its title, and what is read aloud says it in full
    first = opened.locator(".tile .similarity").first
    assert first.inner_text() == f"ID {rows[0]['id_similarity']:.2f}"
    assert first.locator("abbr").get_attribute("title") == "ID similarity"
    opened.locator(".tile .seed").first.evaluate("e => { e.textContent = 'seed 18446744073709551615'; }")
    assert first.evaluate("e => e.offsetHeight") < 20  # on one line, however long the seed beside it is
    assert f"ID similarity {rows[0]['id_similarity']:.2f}" in names(opened)[0]
    assert opened.locator(".person .sum abbr").first.get_attribute("title") == "Mean ID similarity"
    assert "likeness" not in opened.content().lower()
    for choice, wanted in (("Highest ID similarity", said[::-1]), ("Lowest ID similarity", said)):
        opened.get_by_label("Order").select_option(label=choice)
        found = [", ".join(name.split(", ")[:2]) for name in names(opened)]
        assert found[:8] == wanted
        assert found[8] == "grace, office"  # whose ID similarity nobody knows comes last
        expect(opened.locator("#heads")).to_be_hidden()


def test_keys_lead_through_the_pictures(opened: Page) -> None:
    # Given the keyboard's focus on the first picture, with a ring around it
    opened.get_by_label("Order").focus()
    opened.keyboard.press("Tab")
    assert str(focused(opened)).startswith("ada, office")
    ring = (
        "getComputedStyle(document.activeElement).outlineStyle + getComputedStyle(document.activeElement).outlineWidth"
    )
    assert opened.evaluate(ring) == "solid3px"

    # Then arrows lead along lines and down columns, and one picture alone is in the order of Tab
    for key, wanted in (
        *(("ArrowRight", "ada, garden"), ("ArrowDown", "alan, garden"), ("ArrowRight", "alan, beach")),
        *(("ArrowRight", "grace, office"), ("ArrowUp", "alan, office"), ("End", "alan, beach")),
        *(("Home", "alan, office"), ("Control+End", "grace, beach"), ("Control+Home", "ada, office")),
    ):
        opened.keyboard.press(key)
        assert str(focused(opened)).startswith(wanted), key
    assert opened.locator('.tile[tabindex="0"]').count() == 1

    # When a picture is opened by Enter, arrows lead on in it, and Escape back to the one that was shown last
    opened.keyboard.press("Enter")
    expect(opened.locator("#detail")).to_be_visible()
    opened.keyboard.press("ArrowRight")
    opened.keyboard.press("ArrowRight")
    assert opened.inner_text("#where") == "beach"
    opened.keyboard.press("Escape")
    expect(opened.get_by_role("button", name="ada, beach")).to_be_focused()
    expect(opened.locator("#detail")).to_be_hidden()

    # And a slash leads to the search
    opened.keyboard.press("/")
    assert opened.evaluate("document.activeElement.id") == "person"
    assert opened.input_value("#person") == ""


def test_the_address_keeps_filters_and_the_open_picture(opened: Page, new_page: Open, index: Path) -> None:
    # Given a filtered gallery with an open picture
    opened.get_by_label("Order").select_option(label="Highest ID similarity")
    opened.get_by_label("Person", exact=True).fill("alan")
    opened.get_by_role("button", name="alan, beach").click()
    fragment = opened.evaluate("location.hash")

    # When somebody else opens its address
    other = visit(new_page(), index, fragment)

    # Then they see the same
    expect(other.locator("#detail")).to_be_visible()
    assert other.inner_text("#detail-title") == "alan" and other.inner_text("#where") == "beach"
    assert other.input_value("#person") == "alan" and other.input_value("#sort") == "best"


def test_hostile_names_are_texts(new_page: Open, tmp_path: Path) -> None:
    # Given people, prompts and reasons that are markup and code
    rows = [
        row(0, HOSTILE, HOSTILE, final_prompt=HOSTILE, file="0/a.png"),
        failed(1, HOSTILE, "javascript:alert(1)", error_code="<b>", error=HOSTILE),
    ]
    page = new_page()
    page.on("dialog", lambda dialog: page.told.append(f"dialog: {dialog.message}"))  # type: ignore[attr-defined]

    # When their gallery is opened, filtered and a picture shown
    visit(page, write_gallery(tmp_path / "out", rows, name=HOSTILE, key=HOSTILE))
    page.locator(".tile").first.click()
    expect(page.locator("#full")).to_be_visible()

    # Then they are shown as they were written, and nothing of them was done
    assert page.title() == HOSTILE.replace("\u2028", " ") or page.title() == HOSTILE
    assert page.evaluate("document.getElementById('detail-title').textContent") == HOSTILE
    assert page.evaluate("document.querySelectorAll('img, script').length") == 4


@pytest.mark.parametrize(("size", "name"), [(DESKTOP, "desktop"), (PHONE, "phone")])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_its_window(
    new_page: Open, tmp_path: Path, screenshots: Path, size: tuple[int, int], name: str, scheme: str
) -> None:
    # Given a gallery with long names and several seeds
    people = ["ada", "alan", "a person whose name is as long as names can be, and a little longer than that"]
    rows = list(job(people, [*PROMPTS, "a prompt with a long name"], seeds=2))
    index = write_gallery(tmp_path / "out", rows)

    # When it is opened in this window
    page = visit(new_page(size, color_scheme=scheme), index)

    # Then the page itself does not scroll, nothing stands beyond its edges, and its paper is light or dark
    fits = "document.documentElement.scrollWidth <= innerWidth && document.documentElement.scrollHeight <= innerHeight"
    assert page.evaluate(fits)
    brightness = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
    assert brightness > 200 if scheme == "light" else brightness < 60
    for part in ("header h1", "#person", "#prompt", "#sort", "footer"):
        place = page.locator(part).bounding_box()
        assert place is not None and place["x"] >= 0 and place["x"] + place["width"] <= size[0]
    page.screenshot(path=screenshots / f"gallery-{name}-{scheme}.png")
    page.get_by_role("button", name="alan, garden").first.click()
    expect(page.locator("#full")).to_be_visible()
    for part in ("#close", "#before", "#after"):
        place = page.locator(part).bounding_box()
        assert place is not None and place["x"] >= 0 and place["x"] + place["width"] <= size[0]
        assert place["height"] >= 38
    page.screenshot(path=screenshots / f"gallery-{name}-{scheme}-detail.png")


def test_five_thousand_pictures_are_all_there_and_few_are_in_the_document(
    new_page: Open, tmp_path: Path, screenshots: Path
) -> None:
    # Given 5,000 pictures of 625 people, of which the files of a few are drawn once
    rows = [row(n, f"person-{n // 8:03d}", f"prompt-{n % 8}", file=f"{n % 16}.png") for n in range(5_000)]

    def draw(folder: Path, one: Row) -> None:
        if one["ordinal"] < 16:
            draw_file(folder, one)
        one["sha256"] = None

    page = visit(new_page(), write_gallery(tmp_path / "out", rows, draw=draw))

    # Then all are counted, and only what is in view is made
    assert page.inner_text("#count") == "5,000 pictures"
    assert page.locator(".tile").count() < 120
    assert page.locator('link[rel="stylesheet"]').count() <= 2

    # When the last one is gone to, then it is there with its picture
    page.locator(".tile").first.focus()
    page.keyboard.press("Control+End")
    assert str(focused(page)).startswith("person-624, prompt-7")
    shown = (
        "getComputedStyle(document.activeElement.querySelector('.picture')).backgroundImage.startsWith('url(\"data:')"
    )
    page.wait_for_function(shown)
    page.screenshot(path=screenshots / "gallery-5000-end.png")

    # When it is put in order and one person is asked for, then neither leaves anybody out
    page.get_by_label("Order").select_option(label="Lowest ID similarity")
    assert page.locator(".tile").count() < 200
    page.keyboard.press("Escape")
    page.get_by_label("Person", exact=True).fill("person-311")
    assert page.inner_text("#count") == "8 of 5,000 pictures"
    assert len(names(page)) == 8


def test_a_job_of_several_pages_leads_from_one_to_the_next(
    new_page: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given pages of at most four pictures
    monkeypatch.setattr("jobs.gallery.folder.PICTURES_A_PAGE", 4)
    page = visit(new_page(), write_gallery(tmp_path / "out", list(job(PEOPLE, PROMPTS))))
    assert "Pictures 1–3 of 9" in page.inner_text("#pages")

    # When the next ones are gone to
    for wanted in ("alan", "grace"):
        page.get_by_role("link", name="Next").click()
        expect(page.locator(".name")).to_have_text(wanted)

    # Then the last one leads back
    assert page.get_by_role("link", name="Next").count() == 0
    page.get_by_role("link", name="Previous").click()
    expect(page.locator(".name")).to_have_text("alan")


def a_page(links: Links) -> bytes:
    """A page of one picture with these links."""
    rows = [row(0, "ada", "office")]
    made = PageData(head(rows), 1, 1, 0.75, has_next=False, sheets=["thumbnails-0001.css"], sheet_size=48)
    Builder(made).add(rows[0], file=None, further=[], thumbnail=0)
    return render(made.as_data(), links)


def test_an_expired_page_says_so_and_how_to_get_another(new_page: Open, tmp_path: Path) -> None:
    # Given a page whose addresses have expired
    links = Links(
        ["https://s3.example.test/thumbnails-0001.css?X-Amz-Signature=0"],
        None,
        expires_at="2026-01-02T03:04:05Z",
        renew="portraits gallery team-page-2026",
    )
    (tmp_path / "page.html").write_bytes(a_page(links))
    page = new_page()
    page.route("https://s3.example.test/**", lambda route: route.fulfill(status=403, content_type="application/xml"))

    # When it is opened
    visit(page, tmp_path / "page.html")

    # Then it says when they did, and with which command new ones are made
    expect(page.get_by_role("alert")).to_have_text(
        "The links of this page expired on 2026-01-02 03:04 UTC. For new ones: portraits gallery team-page-2026"
    )
    assert "403" in page.told.pop()  # type: ignore[attr-defined]


def test_full_pictures_are_asked_of_portraits_serve(new_page: Open, tmp_path: Path) -> None:
    # Given pages whose full pictures are no files that they could link to
    (tmp_path / "served.html").write_bytes(a_page(Links([], None, serve="https://portraits.example.com")))
    (tmp_path / "alone.html").write_bytes(a_page(Links([], None)))

    # When a picture is opened, then it leads to where it is shown
    page = visit(new_page(), tmp_path / "served.html")
    page.locator(".tile").click()
    address = str(page.get_by_role("link", name="Full picture").get_attribute("href"))
    assert re.fullmatch(r"https://portraits\.example\.com/pictures/[0-9a-f-]{36}", address)

    # Or the page says in words what is needed
    page = visit(new_page(), tmp_path / "alone.html")
    page.locator(".tile").click()
    assert "portraits serve" in page.inner_text("#actions")


def test_a_sheet_that_is_missing_is_told(opened: Page, new_page: Open, index: Path) -> None:
    (index.parent / "gallery" / "thumbnails-0001.css").unlink()
    page = visit(new_page(), index)
    expect(page.get_by_role("alert")).to_contain_text("Some thumbnails could not be loaded")
    told: list[Any] = page.told  # type: ignore[attr-defined]
    assert len(told) == 1 and "ERR_FILE_NOT_FOUND" in told.pop()

"""Pages of a gallery: cut between people, few addresses, and hostile text that stays text."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from gallery_world import HOSTILE, draw_file, failed, head, job, row, write_gallery
from PIL import Image

from jobs.errors import GalleryOutdated, GalleryRefused
from jobs.gallery import Links, StoredGallery, page_data, render, sign_stored
from jobs.gallery.make import Maker, Place
from jobs.gallery.page import json_block
from jobs.orm import new_id
from jobs.settings import Settings
from jobs.storage import open_storage

SMALL = io.BytesIO()
Image.new("RGB", (8, 8), "teal").save(SMALL, format="PNG")


class Written:
    """A place that keeps what is written; every picture is the same small one."""

    def __init__(self, **changes: Any) -> None:
        self.files: dict[str, bytes] = {}
        self.place = Place(
            read=lambda row: SMALL.getvalue(),
            files=lambda rows: {row["render_id"]: (row["file"], []) for row in rows},
            write=lambda name, data, _: self.files.__setitem__(name, data),
            pictures="../../",
            with_data=True,
            **changes,
        )

    def page(self, number: int) -> dict[str, Any]:
        found = json.loads(self.files[f"page-{number:04d}.json"])
        assert isinstance(found, dict)
        return found


class Parsed(html.parser.HTMLParser):
    """What a browser would make of a page: its elements, its texts and the content of its scripts."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._inside = ""
        self.feed(page.decode("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self._inside, []).append(data)

    def attribute(self, tag: str, name: str, **having: str) -> str:
        found = [a[name] for t, a in self.elements if t == tag and all(a.get(k) == v for k, v in having.items())]
        assert len(found) == 1 and found[0] is not None
        return found[0]


def made(rows: list[dict[str, Any]], **options: Any) -> Written:
    written = Written()
    maker = Maker(head(rows), written.place, **options)
    for one in rows:
        maker.add(one)
    maker.close()
    return written


def test_a_page_ends_between_two_people() -> None:
    # Given people of 4, 4 and 4 pictures, and pages of at most 10
    rows = list(job(["ada", "alan", "grace"], ["office", "beach"], seeds=2))

    # When pages are made
    written = made(rows, pictures_a_page=10)

    # Then the third person begins the second page, and each page leads to the other
    first, second = written.page(1), written.page(2)
    assert (first["people"], second["people"]) == (["ada", "alan"], ["grace"])
    assert (first["first"], second["first"]) == (1, 9)
    links = json.loads("".join(Parsed(written.files["index.html"]).texts["script"][1:2]))
    assert (links["previous"], links["next"]) == (None, "page-0002.html")
    assert b'"previous":"index.html"' in written.files["page-0002.html"]
    # And sheets are counted over both
    assert (first["sheets"], second["sheets"]) == (["thumbnails-0001.css"], ["thumbnails-0002.css"])


def test_one_person_alone_may_fill_pages() -> None:
    written = made(list(job(["ada"], ["office"], seeds=25)), pictures_a_page=10)
    assert [len(written.page(number)["pictures"]) for number in (1, 2, 3)] == [10, 10, 5]
    assert not written.page(3)["has_next"]


def test_a_job_without_pictures_has_a_page() -> None:
    assert made([]).page(1)["pictures"] == []


def test_five_thousand_pictures_need_at_most_twenty_addresses() -> None:
    # Given a page as large as it may be, with one before and one after it
    rows = [row(n, f"person-{n // 8:04d}", f"prompt-{n % 8}") for n in range(5_008)]

    # When it is made
    written = made(rows)

    # Then its sheets and its neighbours are twenty addresses together, and every thumbnail is on the sheet it names
    told = written.page(1)
    assert len(told["pictures"]) == 5_000
    assert len(told["sheets"]) + 2 <= 20
    for number in (0, told["sheet_size"] - 1, told["sheet_size"], 4_999):
        sheet = written.files[told["sheets"][number // told["sheet_size"]]].decode()
        assert sheet.count(f".t{number}{{") == 1
    assert len(written.page(2)["pictures"]) == 8


def test_what_people_wrote_is_neither_markup_nor_code() -> None:
    # Given hostile names, prompts, reasons and a hostile job
    rows = [
        row(0, HOSTILE, HOSTILE, final_prompt=HOSTILE, device=HOSTILE, id_similarity_reason=HOSTILE),
        failed(1, "{{ 7*7 }}", "\ud800 half a pair", error_code=HOSTILE, error=f"{HOSTILE}{{% raw %}}"),
    ]
    written = Written()
    maker = Maker(head(rows, name=HOSTILE, key=HOSTILE, profile=HOSTILE), written.place)
    for one in rows:
        maker.add(one)
    maker.close()

    # When the page is read as browsers do
    parsed = Parsed(written.files["index.html"])

    # Then there is the page's own script alone, whose hash is the one that its policy lets run, and no other markup
    blocks = [attributes for tag, attributes in parsed.elements if tag == "script"]
    assert [block.get("type") for block in blocks] == ["application/json", "application/json", None]
    policy = parsed.attribute("meta", "content", **{"http-equiv": "Content-Security-Policy"})
    script = parsed.texts["script"][-1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy and "default-src 'none'" in policy
    assert not [a for tag, a in parsed.elements if tag == "img" and "src" in a]
    assert not [name for _, attributes in parsed.elements for name in attributes if name.startswith("on")]
    # And the data say what was written
    data = json.loads(parsed.texts["script"][0])
    assert data["people"] == [HOSTILE, "{{ 7*7 }}"] and data["prompts"][1] == "? half a pair"
    assert data["pictures"][1]["error"] == f"{HOSTILE}{{% raw %}}"
    assert parsed.texts["title"] == [HOSTILE]


@pytest.mark.parametrize("text", ["</script>", "<!--<script>", "\u2028\u2029", "&lt;", "\udfff"])
def test_a_block_of_json_cannot_be_ended_by_its_text(text: str) -> None:
    block = json_block({text: text})
    assert not re.search("[<>&\u2028\u2029]", block)
    assert json.loads(block) == {text.replace("\udfff", "?"): text.replace("\udfff", "?")}


def test_a_page_may_load_from_where_its_links_lead_and_nowhere_else() -> None:
    rows = [row(0, "ada", "office")]
    data = made(rows).page(1)
    links = Links(["https://s3.example.com:9000/b/thumbnails-0001.css?X-Amz-Signature=0"], None, expires_at="2026")
    policy = Parsed(render(data, links)).attribute("meta", "content", **{"http-equiv": "Content-Security-Policy"})
    assert " https://s3.example.com:9000;" in policy
    assert "img-src data:;" in policy
    assert "file:" not in policy and "'self'" not in policy


def test_names_of_files_are_addresses(tmp_path: Path) -> None:
    # Given a person whose files have a name with signs that addresses give a meaning to
    one = row(0, "50% #1?", "office", file="50% #1?/office.png")

    # When the gallery is made
    index = write_gallery(tmp_path, [one])

    # Then the address leads to the file
    data = json.loads(Parsed(index.read_bytes()).texts["script"][0])
    assert data["pictures"][0]["file"] == "50%25%20%231%3F/office.png"


def test_pictures_that_would_fill_the_memory_are_not_decoded(tmp_path: Path) -> None:
    # Given a small file of very many pixels, and one that is none
    def bomb(folder: Path, one: dict[str, Any]) -> None:
        if one["ordinal"] == 0:
            (folder / "0").mkdir()
            Image.new("1", (9_000, 9_000)).save(folder / one["file"])
        else:
            (folder / "1").mkdir()
            (folder / one["file"]).write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))

    # When a gallery of them is made
    index = write_gallery(tmp_path, [row(0, "ada", "office"), row(1, "ada", "beach")], draw=bomb)

    # Then each says why it is not shown
    first, second = json.loads(Parsed(index.read_bytes()).texts["script"][0])["pictures"]
    assert "9000 x 9000 pixels" in first["problem"]
    assert "cannot be decoded" in second["problem"]
    assert "thumbnail" not in first and "thumbnail" not in second


def test_a_smaller_gallery_leaves_nothing_of_a_larger_one(tmp_path: Path) -> None:
    # Given files that a larger gallery had left, and somebody's own
    write_gallery(tmp_path, list(job(["ada"], ["office"], seeds=3)))
    for name in ("index-0002.html", "gallery/thumbnails-0002.css", "index-of-mine.html", "gallery/notes.css"):
        (tmp_path / name).write_text("older")

    # When the gallery is made again
    write_gallery(tmp_path, list(job(["ada"], ["office"], seeds=3)))

    # Then its own are gone, and theirs are there
    left = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.suffix in {".html", ".css"}}
    assert left == {"index.html", "gallery/thumbnails-0001.css", "index-of-mine.html", "gallery/notes.css"}


def test_a_page_of_somebody_elses_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<h1>My page</h1>")
    with pytest.raises(GalleryRefused, match="--no-gallery"):
        write_gallery(tmp_path, [row(0, "ada", "office")], draw=draw_file)
    assert (tmp_path / "index.html").read_text() == "<h1>My page</h1>"


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"format": 99}', b'"format"'])
def test_a_stored_gallery_of_another_version_is_not_signed(tmp_path: Path, data: bytes) -> None:
    # Given data that this version did not write
    settings = Settings(home=tmp_path)
    storage = open_storage(settings.storage_url, settings)
    stored = StoredGallery("acme", new_id(), 1, "job")
    storage.put(f"{stored.prefix}page-0001.json", data, content_type="application/json")

    # When it is to be signed, then it is refused with what helps
    with pytest.raises(GalleryOutdated, match="--build"):
        sign_stored(storage, settings, stored, expires_seconds=60)
    with pytest.raises(GalleryOutdated, match="--build"):
        page_data(storage, stored, 2)

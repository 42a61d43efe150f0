"""The contact sheet: what is on it, and what is left out."""

from __future__ import annotations

import pytest
from cli_world import CliWorld
from PIL import Image, ImageColor

from jobs.database import Database
from jobs.reports import find_job
from worker.contact_sheet import (
    CELL,
    FAILED_PAPER,
    MAX_PEOPLE,
    MAX_PROMPTS,
    NOTICE_PAPER,
    PAPER,
    Person,
    Picture,
    Sheet,
    caption,
    draw_sheet,
    fit,
    wrap,
)
from worker.job_sheet import write_job_sheet
from worker.testing import FakeRenderer
from worker.typefaces import plain, typeset


def _colours(image: Image.Image) -> dict[tuple[int, int, int], int]:
    return {colour: count for count, colour in image.getcolors(1 << 24) or []}  # type: ignore[misc]


def _sheet(people: int = 1, prompts: int = 1, **more: object) -> Sheet:
    names = [f"prompt{n}" for n in range(prompts)]
    drawn = {name: [Picture(Image.new("RGB", (128, 128), (10, 200, 30)), 1)] for name in names}
    rows = [Person(f"p{n}", [Image.new("RGB", (90, 120), (200, 10, 30))], drawn) for n in range(people)]
    return Sheet("Title", "subtitle", names, rows, **more)  # type: ignore[arg-type]


def test_a_cell_is_filled_by_its_picture_and_by_the_photo() -> None:
    colours = _colours(draw_sheet(_sheet()))
    # all but the rounded corners of a cell
    assert 0.98 * CELL**2 < colours[(10, 200, 30)] <= CELL**2
    assert 0.98 * CELL**2 < colours[(200, 10, 30)] <= CELL**2
    assert max(colours, key=lambda colour: colours[colour]) == ImageColor.getrgb(PAPER)


def test_the_notice_is_a_band_across_the_sheet() -> None:
    band = ImageColor.getrgb(NOTICE_PAPER)
    with_notice, without = draw_sheet(_sheet(notice="untrained")), draw_sheet(_sheet())
    assert _colours(with_notice)[band] > 20 * with_notice.width  # type: ignore[index]
    assert band not in _colours(without)


def test_a_failed_cell_is_told_apart() -> None:
    sheet = Sheet("t", "s", ["a"], [Person("ada", [], {"a": [Picture(None, 1, "", "failed", "no face in the photo")]})])
    colours = _colours(draw_sheet(sheet))
    assert 0.6 * CELL**2 < colours[ImageColor.getrgb(FAILED_PAPER)] < CELL**2  # type: ignore[index]


def test_several_seeds_share_a_cell() -> None:
    four = [Picture(Image.new("RGB", (64, 64), (0, 0, 200)), n) for n in range(5)]
    colours = _colours(draw_sheet(Sheet("t", "s", ["a"], [Person("ada", [], {"a": four})])))
    quarter = ((CELL - 8) // 2) ** 2
    assert 0.95 * 4 * quarter < colours[(0, 0, 200)] <= 4 * quarter


@pytest.mark.parametrize(
    ("seeds", "wanted"),
    [
        ([7], "likeness 0.50  ·  seed 7"),
        ([11, 12, 13], "seeds 11, 12, 13"),
        ([1, 2, 3, 4, 5, 6], "seeds 1, 2, 3, 4  +2 more"),
        ([4_000_000_001, 4_000_000_002, 4_000_000_003], "seeds 4000000001, …"),
        ([2**63 - 1, 2**63 - 2], "2 seeds"),
        ([2**63 - n for n in range(1, 8)], "7 seeds"),
    ],
)
def test_a_caption_names_every_seed_that_is_shown(seeds: list[int], wanted: str) -> None:
    pictures = [Picture(None, seed, "likeness 0.50") for seed in seeds]
    told = caption(pictures, plain(14), CELL)
    assert plain(14).getlength(told) <= CELL
    assert told == wanted


def test_big_jobs_are_capped() -> None:
    full = draw_sheet(_sheet(MAX_PEOPLE, MAX_PROMPTS, note="x"))
    assert draw_sheet(_sheet(MAX_PEOPLE + 5, MAX_PROMPTS + 5)).size == full.size


@pytest.mark.parametrize("width", [40, 80, 200, 1000])
def test_texts_are_cut_to_their_width(width: int) -> None:
    text = "a reason that is long enough to be cut somewhere"
    cut = fit(text, plain(14), width)
    assert plain(14).getlength(cut) <= width
    assert cut == text or (cut.endswith("…") and text.startswith(cut[:-1]))


def test_texts_are_wrapped_between_words() -> None:
    lines = wrap("one two three four five six seven eight", plain(14), 80, 3)
    assert len(lines) == 3
    assert all(plain(14).getlength(line) <= 80 for line in lines)
    assert " ".join(lines).startswith("one two three")
    assert wrap("short", plain(14), 80, 3) == ["short"]
    assert wrap("", plain(14), 80, 3) == [""]


def test_names_with_accents_can_be_read_whatever_fonts_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.typefaces._SYSTEM_FONTS", ())
    assert typeset("Jos\u00e9  N\u00fa\u00f1ez", 14)[0] == "Jose Nunez"


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_a_jobs_sheet_shows_pictures_of_any_format(cli: CliWorld, form: str) -> None:
    # Given a finished job whose pictures are of this format
    outputs = [{"name": "print", "format": form}, {"name": "small", "format": "png", "size": 16}]
    job = cli.enqueue(people=["ada"], defaults={"size": 64, "steps": 2, "outputs": outputs})
    cli.draw()
    database = Database.from_settings(cli.settings)
    row = find_job(database, cli.settings.tenant, job["job_id"])
    database.dispose()

    # When its sheet is drawn
    sheet = write_job_sheet(row, cli.settings, cli.folder / "sheet.png")

    # Then what the renderer wanted said was found in the pictures, and no cell is empty
    assert sheet.notice == FakeRenderer.notice
    with Image.open(sheet.file) as image:
        assert ImageColor.getrgb(FAILED_PAPER) not in _colours(image)

"""`portraits results`: folders, zip files, tables, and names that other people chose."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import threading
import zipfile
from pathlib import Path

import pytest
from cli_world import CliWorld
from PIL import Image

from hyperlora.errors import NoUsablePhoto
from jobs.digital_source import source_of
from jobs.reports import outputs, results
from jobs.storage import open_storage
from worker.names import NameTemplate, NameTemplateInvalid, UniqueNames, safe_part, safe_value
from worker.picture_file import record_of
from worker.results import WINDOW_BYTES, Outcome, PictureRow, _in_order, named

GALLERY = {"index.html", "gallery/thumbnails-0001.css"}


def _files(folder: Path) -> list[str]:
    """What lies in the folder beside its gallery."""
    return sorted({str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - GALLERY)


PICTURES = [
    *("ada/beach-3.png", "ada/office-1.png", "ada/office-2.png"),
    *("alan/beach-3.png", "alan/office-1.png", "alan/office-2.png"),
]


def test_pictures_and_table_come_into_a_folder(cli: CliWorld) -> None:
    # Given a finished job
    job = cli.enqueue()
    cli.draw()

    # When its results are fetched
    answer = cli.json("results", job["job_id"], "--out", "out")

    # Then the folder holds them as they were recorded, and a table with their metrics
    assert _files(Path("out")) == [*PICTURES, "results.csv"]
    with open("out/results.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows][:2] == ["ada/office-1.png", "ada/office-2.png"]
    for row in rows:
        assert hashlib.sha256(Path("out", row["file"]).read_bytes()).hexdigest() == row["sha256"]
        assert row["id_similarity_reason"] == "no_face" and float(row["seconds_denoise"]) >= 0
    assert set(answer) == {
        *("job_id", "key", "out", "table", "gallery", "sheet", "fetched", "present", "failed", "rows", "failures")
    }
    assert (answer["fetched"], answer["present"], answer["failed"], answer["rows"]) == (6, 0, 0, 6)


def test_fetching_again_fetches_only_what_is_missing_or_damaged(cli: CliWorld) -> None:
    # Given results that were fetched, of which one was lost and one was damaged without changing its size
    cli.enqueue()
    cli.draw()
    cli.run("results", "--out", "out")
    Path("out/ada/office-1.png").unlink()
    damaged = Path("out/alan/beach-3.png")
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    kept = Path("out/alan/office-1.png").stat().st_ino

    # When they are fetched again
    answer = cli.json("results", "--out", "out")

    # Then two were fetched, and the others were left alone
    assert (answer["fetched"], answer["present"]) == (2, 4)
    assert damaged.read_bytes() == whole
    assert Path("out/alan/office-1.png").stat().st_ino == kept
    assert _files(Path("out")) == [*PICTURES, "results.csv"]


def test_names_do_not_change_while_a_job_is_drawn(cli: CliWorld) -> None:
    # Given a job of which the first person's pictures failed, and names that all collide
    cli.enqueue()
    first: list[bool] = []
    cli.draw(refuse=lambda photos: None if first or first.append(True) else NoUsablePhoto("no face"))
    cli.run("results", "--out", "out", "--name", "x")
    before = {name: Path("out", name).read_bytes() for name in _files(Path("out")) if name.endswith(".png")}
    assert len(before) == 3

    # When the failed ones are drawn after all and everything is fetched
    cli.run("retry", cli.json("status")["jobs"][0]["job_id"])
    cli.draw()
    cli.run("results", "--out", "out", "--name", "x")

    # Then the earlier pictures kept their names
    assert len([name for name in _files(Path("out")) if name.endswith(".png")]) == 6
    assert {name: Path("out", name).read_bytes() for name in before} == before


def test_a_zip_file_holds_pictures_and_table(cli: CliWorld) -> None:
    # Given a finished job
    job = cli.enqueue()
    cli.draw()

    # When it is fetched as a zip file, into a folder and by name
    cli.run("results", "--out", "out", "--zip", "--format", "jsonl")
    cli.run("results", "--out", "mine.zip", "--zip")

    # Then each is one file with everything in it
    assert _files(Path("out")) == [f"{job['job_id']}.zip"]
    with zipfile.ZipFile(f"out/{job['job_id']}.zip") as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == [*PICTURES, "results.jsonl"]
        rows = [json.loads(line) for line in archive.read("results.jsonl").splitlines()]
        for row in rows:
            assert hashlib.sha256(archive.read(row["file"])).hexdigest() == row["sha256"]
    with zipfile.ZipFile("mine.zip") as archive:
        assert "results.csv" in archive.namelist()
    assert not [name for name in _files(cli.folder) if name.endswith((".part", ".table"))]


def test_without_a_folder_the_table_is_printed(cli: CliWorld) -> None:
    cli.enqueue()
    cli.draw()
    rows = list(csv.DictReader(io.StringIO(cli.run("results").stdout)))
    lines = [json.loads(line) for line in cli.run("results", "--format", "jsonl", "--urls").stdout.splitlines()]
    assert [row["seed"] for row in rows] == ["1", "2", "3", "1", "2", "3"]
    assert [line["seed"] for line in lines] == [1, 2, 3, 1, 2, 3]
    assert lines[0]["url"].startswith("file://")

    # And a folder has no URLs in its table: asking for both is refused before anything is fetched
    assert "--urls is for the table" in cli.json("results", "--out", "out", "--urls", exit_code=2)["error"]["message"]
    assert not Path("out").exists()


def test_every_form_has_the_names_of_the_python_rows(cli: CliWorld) -> None:
    # Given a finished job, and its rows in Python
    job = cli.enqueue()
    cli.draw()
    python = next(iter(results(job["job_id"], settings=cli.settings)))

    # When it is asked for in each form
    (in_json, *_) = cli.json("results")["renders"]
    in_lines = json.loads(cli.run("results", "--format", "jsonl").stdout.splitlines()[0])
    (in_csv, *_) = csv.DictReader(io.StringIO(cli.run("results").stdout))

    # Then the same things are called the same
    for found in (in_json, in_lines, in_csv):
        assert set(found) - {"file", "further_files"} <= set(python)
        for name in ("external_id", "render_id", "job_id", "tenant_id", "prompt_name"):
            assert found[name] == str(python[name])


def test_only_pictures_of_one_state(cli: CliWorld) -> None:
    cli.enqueue()
    first: list[bool] = []
    cli.draw(refuse=lambda photos: None if first or first.append(True) else NoUsablePhoto("no face"))
    assert {row["state"] for row in cli.json("results", "--state", "failed")["renders"]} == {"failed"}
    assert cli.json("results", "--out", "out", "--state", "done")["rows"] == 3


def test_a_picture_that_is_gone_does_not_stop_the_others(cli: CliWorld) -> None:
    # Given a finished job, of which one object was lost and one was changed in the store
    cli.enqueue()
    cli.draw()
    rows = cli.json("results")["renders"]
    store = open_storage(cli.settings.storage_url, cli.settings)
    store.delete(rows[0]["storage_key"])
    store.put(rows[1]["storage_key"], b"something else", content_type="image/png")

    # When the results are fetched
    answer = cli.json("results", "--out", "out", exit_code=1)

    # Then four are there, and the two are named with their reasons
    assert (answer["fetched"], answer["failed"]) == (4, 2)
    assert [(one["render_id"], one["code"]) for one in answer["failures"]] == [
        (rows[0]["render_id"], "object_missing"),
        (rows[1]["render_id"], "picture_damaged"),
    ]


def test_a_folder_that_cannot_be_written_is_told(cli: CliWorld) -> None:
    cli.enqueue()
    cli.draw()
    Path("taken").write_text("a file", encoding="utf-8")
    assert cli.json("results", "--out", "taken", exit_code=3)["error"]["code"] == "output_refused"


def test_hostile_names_stay_inside(cli: CliWorld) -> None:
    # Given people whose ids are paths, devices and formulas
    people = ["../../etc/passwd", "/root", "..", "CON", "a/b", "a_b", "A_B", "=cmd|' /C calc'!A0"]
    cli.enqueue(people=people)
    cli.draw()

    # When the results are fetched
    out = cli.folder / "deep" / "out"
    answer = cli.json("results", "--out", out, "--name", "{identity}/{prompt}-{seed}")

    # Then every picture has a name of its own inside the folder, and nothing lies beside it
    names = [name for name in _files(out) if name.endswith(".png")]
    assert answer["fetched"] == len(names) == 3 * len(people)
    assert len({name.casefold() for name in names}) == len(names)
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    with open(out / "results.csv", encoding="utf-8", newline="") as file:
        assert any(row["external_id"] == "'=cmd|' /C calc'!A0" for row in csv.DictReader(file))


@pytest.mark.parametrize(
    "template", ["../{seed}", "/tmp/{seed}", "{identity}/../../x", "a//b", "{photo}", "{seed!r}", "{seed", "", "a\\b",
                 "{seed:999999999d}", "{identity:>99}", "./x"],
)  # fmt: skip
def test_templates_that_leave_the_folder_or_ask_for_more_are_refused(template: str) -> None:
    with pytest.raises(NameTemplateInvalid):
        NameTemplate(template)


def test_a_refused_template_is_bad_input(cli: CliWorld) -> None:
    cli.enqueue()
    assert cli.json("results", "--out", "out", "--name", "../{seed}", exit_code=2)["error"]["code"] == "usage"
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("../../etc/passwd", "_.__.._etc_passwd"),
        ("..", "_"),
        (".hidden", "_hidden"),
        ("NUL", "_NUL"),
        ("com1.txt", "_com1.txt"),
        ("trailing. . ", "trailing"),
        ("a\x00b\nc", "a_b_c"),
        ("gnp\u202eexe", "gnp_exe"),
        ("", "_"),
        ("Jos\u0065\u0301", "Jos\u00e9"),
        ("\u5c71\u7530", "\u5c71\u7530"),
    ],
)
def test_values_become_parts_that_every_file_system_takes(value: str, wanted: str) -> None:
    assert safe_part(safe_value(value)) == wanted.replace("_.__.._etc", "_._.._etc")


def test_long_names_are_cut_and_stay_different() -> None:
    first, second = safe_value("\u5c71" * 300 + "a"), safe_value("\u5c71" * 300 + "b")
    assert len(first.encode()) <= 100 and first != second


def _row(**more: object) -> dict[str, object]:
    row = {"external_id": "ada", "prompt_name": "p", "seed": 1, "ordinal": 7, "render_id": "r", "job_id": "j"}
    return {**row, "media_type": "image/png", **more}


def test_collisions_get_a_number_even_where_only_case_differs() -> None:
    names = UniqueNames(NameTemplate("{identity}"))
    given = [names.path(_row(external_id=who)) for who in ("ada", "ADA", "ada-2", "ada", "\u00e9", "e\u0301")]
    assert given == ["ada.png", "ADA-2.png", "ada-2-2.png", "ada-3.png", "\u00e9.png", "\u00e9-2.png"]


def test_numbers_can_be_padded() -> None:
    assert UniqueNames(NameTemplate("{ordinal:04d}-{seed}-{render}-{job}")).path(_row()) == "0007-1-r-j.png"


OUTPUTS = [
    {"name": "print", "format": "jpeg", "quality": 80},
    {"name": "avatar", "format": "webp", "crop": "face", "size": 32},
    {"name": "card", "format": "png", "size": "48x24"},
]


def test_further_files_of_a_picture_come_beside_it(cli: CliWorld) -> None:
    # Given a job whose pictures are JPEGs with an avatar and a card
    job = cli.enqueue(defaults={"size": 64, "steps": 2, "outputs": OUTPUTS})
    cli.draw()

    # When its results are fetched, twice
    answer = cli.json("results", job["job_id"], "--out", "out", "--format", "jsonl", "--sheet")
    again = cli.json("results", job["job_id"], "--out", "out", "--format", "jsonl")

    # Then each picture has its two files beside it, in their formats and sizes
    assert (answer["fetched"], answer["rows"], answer["failed"]) == (18, 6, 0)
    assert (again["fetched"], again["present"]) == (0, 18)
    endings = (".jpg", "-avatar.webp", "-card.png")
    wanted = [picture.removesuffix(".png") + ending for picture in PICTURES for ending in endings]
    assert sorted(_files(Path("out"))) == sorted([*wanted, "results.jsonl", "contact-sheet.png"])
    for ending, form, size in zip(endings, ("JPEG", "WEBP", "PNG"), ((64, 64), (32, 32), (48, 24)), strict=True):
        with Image.open(f"out/ada/office-1{ending}") as image:
            assert (image.format, image.size) == (form, size)
            assert record_of(image)["seed"] == 1

    # And the table names them
    rows = [json.loads(line) for line in Path("out/results.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows[0]["file"] == "ada/office-1.jpg"
    assert rows[0]["further_files"] == ["ada/office-1-avatar.webp", "ada/office-1-card.png"]
    assert (rows[0]["media_type"], rows[0]["output_width"], rows[0]["draws"]) == ("image/jpeg", 64, 1)
    assert rows[0]["options"]["outputs"][1]["name"] == "avatar"
    # as a spreadsheet has it
    cli.run("results", job["job_id"], "--out", "out")
    with open("out/results.csv", encoding="utf-8", newline="") as file:
        first = next(csv.DictReader(file))
    assert first["further_files"] == "ada/office-1-avatar.webp|ada/office-1-card.png"
    assert json.loads(first["options"]) == rows[0]["options"]


def test_further_files_come_into_the_zip_file_and_are_checked(cli: CliWorld) -> None:
    # Given a job with further files, of which one is damaged and one is gone
    cli.enqueue(defaults={"size": 64, "steps": 2, "outputs": OUTPUTS})
    cli.draw()
    rows = list(outputs(settings=cli.settings))
    store = open_storage(cli.settings.storage_url, cli.settings)
    store.put(rows[0]["storage_key"], b"something else", content_type="image/webp")
    store.delete(rows[3]["storage_key"])

    # When the results are fetched as a zip file
    answer = cli.json("results", "--out", "all.zip", "--zip", exit_code=1)

    # Then the others are in it, and the two are told by their renders
    assert (answer["fetched"], answer["failed"], answer["rows"]) == (16, 2, 6)
    assert [(one["render_id"], one["code"]) for one in answer["failures"]] == [
        (str(rows[0]["render_id"]), "picture_damaged"),
        (str(rows[3]["render_id"]), "object_missing"),
    ]
    with zipfile.ZipFile("all.zip") as archive:
        assert "ada/office-1-card.png" in archive.namelist() and "ada/office-1-avatar.webp" not in archive.namelist()
        assert len(archive.namelist()) == 17


def test_further_files_of_one_state_belong_to_their_pictures(cli: CliWorld) -> None:
    # Given a job of which the first person's pictures failed
    cli.enqueue(defaults={"size": 64, "steps": 2, "outputs": OUTPUTS})
    first: list[bool] = []
    cli.draw(refuse=lambda photos: None if first or first.append(True) else NoUsablePhoto("no face"))

    # When the finished ones are fetched
    cli.run("results", "--out", "out", "--state", "done", "--format", "jsonl")

    # Then each has its own files, and no one else's
    rows = [json.loads(line) for line in Path("out/results.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 3
    for row in rows:
        stem = row["file"].removesuffix(".jpg")
        assert row["further_files"] == [f"{stem}-avatar.webp", f"{stem}-card.png"]


def test_names_of_further_files_neither_collide_nor_change_while_a_job_is_drawn() -> None:
    # Given pictures of which one is called as another's avatar, and formats known only once they are drawn
    asked = {"outputs": [{"name": ""}, {"name": "avatar"}]}
    people = ["ada", "ada-avatar", "ada"]
    waiting = [_row(external_id=who, options=asked, media_type=None) for who in people]
    drawn = [{**row, "media_type": "image/webp"} for row in waiting]

    # When they are named before and after
    before, after = ([one.paths(row) for row in rows] for one, rows in
                     ((UniqueNames(NameTemplate("{identity}")), rows) for rows in (waiting, drawn)))  # fmt: skip

    # Then each has its own path, and keeps it
    assert before == after
    assert before == [
        {"": "ada", "avatar": "ada-avatar"},
        {"": "ada-avatar-2", "avatar": "ada-avatar-2-avatar"},
        {"": "ada-2", "avatar": "ada-2-avatar"},
    ]


def test_further_files_go_to_their_own_picture() -> None:
    # Given three pictures, of which the second vanished and the third waits to be drawn again
    options = {"outputs": [{"name": ""}, {"name": "avatar"}]}
    known = {"options": options, "state": "done"}
    rows = [
        _row(render_id=n, ordinal=n, seed=n, storage_key=key, **known) for n, key in ((0, "a"), (2, "b"), (3, None))
    ]
    further = [{"render_id": n, "ordinal": n, "name": "avatar", "media_type": "image/webp"} for n in range(4)]

    # When their files are named
    found = list(named(rows, UniqueNames(NameTemplate("{seed}")), None, further))

    # Then no picture has another's, and what is not drawn has none
    assert [(row["file"], row["further_files"]) for row in found] == [
        ("0.png", ["0-avatar.webp"]),
        ("2.png", ["2-avatar.webp"]),
        (None, []),
    ]
    assert [one["render_id"] for row in found for one in row["further"]] == [0, 2]


def test_a_name_is_taken_whatever_the_format() -> None:
    # Given two pictures of one name, of which the second is drawn first
    for first in ("image/jpeg", None):
        names = UniqueNames(NameTemplate("x"))
        names.path(_row(media_type=first))
        assert names.path(_row(media_type="image/png")) == "x-2.png"


def test_a_long_name_keeps_the_name_of_the_further_file() -> None:
    names = UniqueNames(NameTemplate("{identity}-{prompt}-{render}"))
    long = _row(external_id="a" * 300, prompt_name="b" * 300, options={"outputs": [{"name": ""}, {"name": "c" * 64}]})
    path = names.paths(long)["c" * 64]
    assert path.endswith("-" + "c" * 64) and len(path.encode()) <= 200


def test_large_files_are_not_held_in_memory_by_the_dozen() -> None:
    # Given rows whose files are large
    size = WINDOW_BYTES // 3
    held, most = 0, 0
    lock = threading.Lock()

    def fetch(file: PictureRow) -> Outcome:
        nonlocal held, most
        with lock:
            held += 1
            most = max(most, held)
        return "fetched"

    rows = ({"file": f"{n}.png", "storage_key": "k", "sha256": "s", "size_bytes": size, "further": [], "render_id": n}
            for n in range(40))  # fmt: skip

    # When they are fetched in order
    for _, file, _ in _in_order(rows, fetch):
        if file is not None:
            with lock:
                held -= 1

    # Then only a few are there at a time
    assert 1 <= most <= 4


def test_a_contact_sheet_can_be_asked_for(cli: CliWorld) -> None:
    cli.enqueue()
    cli.draw()
    answer = cli.json("results", "--out", "out", "--sheet")
    with Image.open(answer["sheet"]) as sheet:
        assert sheet.format == "PNG" and source_of(sheet) == "compositeSynthetic"
    assert cli.json("results", "--sheet", exit_code=2)["error"]["code"] == "usage"


@pytest.mark.usefixtures("database")
def test_the_whole_way_on_every_database(cli: CliWorld, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a migrated database of each kind
    monkeypatch.setenv("PORTRAITS_DATABASE_URL", database_url)

    # When people are enqueued, drawn and fetched with a sheet, and the next job is estimated
    job = cli.enqueue(people=[f"p{n}" for n in range(7)])
    cli.draw()
    answer = cli.json("results", job["job_id"], "--out", "out", "--sheet")
    plan = cli.json("enqueue", cli.manifest(people=["q"]), "--dry-run")

    # Then all is there, and the estimate rests on what was measured
    assert answer["fetched"] == 21
    assert plan["estimate"]["basis"] == "measured"
    assert cli.json("watch", job["job_id"])["job"]["done"] == 21

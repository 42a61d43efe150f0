"""The file formats: the same tree from each, with lines, and a fault instead of a surprise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.json_format import parse_json, read_json
from jobs.located import MAX_INTEGER, Listed, Mapped, Unreadable, from_python, line_of
from jobs.streams import MAX_RECORD_BYTES, CsvStream, JsonLinesStream
from jobs.yaml_format import read_yaml

YAML = b"""\
# a comment
key: spring
prompts:
  - name: a

    seeds: [1,
            2]
  - {name: b, text: 'x'}
"""
JSON = b"""\
{
  "key": "spring",
  "prompts": [
    {"name": "a",

     "seeds": [1,
       2]},
    {"name": "b", "text": "x"}]
}
"""


@pytest.mark.parametrize(
    ("tree", "lines"),
    [
        (read_yaml(YAML), {"key": 2, "prompts": 3, "0": 4, "seeds": 6, "seed": 7, "1": 8}),
        (read_json(JSON), {"key": 2, "prompts": 3, "0": 4, "seeds": 6, "seed": 7, "1": 8}),
    ],
    ids=["yaml", "json"],
)
def test_every_entry_knows_its_line(tree: Any, lines: dict[str, int]) -> None:
    assert tree == {"key": "spring", "prompts": [{"name": "a", "seeds": [1, 2]}, {"name": "b", "text": "x"}]}
    paths: dict[str, list[str | int]] = {
        "key": ["key"],
        "prompts": ["prompts"],
        "0": ["prompts", 0],
        "seeds": ["prompts", 0, "seeds"],
        "seed": ["prompts", 0, "seeds", 1],
        "1": ["prompts", 1],
    }
    assert {name: line_of(tree, path) for name, path in paths.items()} == lines
    # What is missing is looked for where it would stand.
    assert line_of(tree, ["prompts", 0, "text"]) == 4


@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("12:30", "12:30"),
        ("2026-01-01", "2026-01-01"),
        ("007", "007"),
        ("0x1F", "0x1F"),
        ("1_000", "1_000"),
        (".nan", ".nan"),
        (".inf", ".inf"),
        ("'7'", "7"),
        ("'null'", "null"),
        ("7", 7),
        ("-7", -7),
        ("0", 0),
        ("7.5", 7.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("null", None),
        (str(MAX_INTEGER), MAX_INTEGER),
    ],
)
def test_yaml_scalars_are_what_people_mean(scalar: str, value: Any) -> None:
    read = read_yaml(f"key: {scalar}\n".encode())["key"]
    assert read == value
    assert type(read) is type(value)


def bomb() -> bytes:
    """The billion laughs: nine levels of nine references each."""
    lines = ['a0: &a0 ["ha","ha"]']
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    ("data", "line", "message"),
    [
        (b"", 1, "empty"),
        (b"# nothing\n", 1, "empty"),
        (bomb(), 2, "alias"),
        (b"a: 1\nb: !!python/object/apply:os.system [id]\n", 2, "tag"),
        (b"a: !!int 3\n", 1, "tag"),
        (b"a: 1\nb: 2\na: 3\n", 3, "twice in one mapping, first on line 1"),
        (b"a: 1\n---\nb: 2\n", 2, "second document"),
        (b"? [a, b]\n: 1\n", 1, "key is no text"),
        (b"a: [1, 2\nb: 3\n", 2, "not YAML"),
        (b"a: 1\n\tb: 2\n", 2, "not YAML"),
        (b"a:\n  - 'open\n", 3, "not YAML"),
        (b"a: 1\nb: \x07\n", 2, "not YAML"),
        (b"a: 1\nb: caf\xe9\n", 2, "byte 7 of the line, 0xe9"),
        ("a: 1".encode("utf-16"), 1, "UTF-16"),
        (b"a: " + b"9" * 5000, 1, "64 bits"),
        (b"a: 9223372036854775808\n", 1, "64 bits"),
        (b"a: 1e999\n", 1, "too large"),
        (b"\n\na: " + b"[" * 5000, 3, "nested deeper"),
        (b"a: " + b"{b: " * 5000, 1, "nested deeper"),
    ],
)
def test_hostile_or_broken_yaml_is_a_fault_with_its_line(data: bytes, line: int, message: str) -> None:
    with pytest.raises(Unreadable, match=message) as caught:
        read_yaml(data)
    assert caught.value.line == line


@pytest.mark.parametrize(
    ("data", "line", "message"),
    [
        (b"", 1, "a value is missing"),
        (b'{"a": 1,\n "a": 2}', 2, "twice in one object, first on line 1"),
        (b'{"a": NaN}', 1, "wanted a value"),
        (b'{"a": Infinity}', 1, "wanted a value"),
        (b'{"a": -}', 1, "wanted a value"),
        (b'{"a": 1e999}', 1, "too large"),
        (b'\n{"a": ' + b"9" * 5000 + b"}", 2, "64 bits"),
        (b"{'a': 1}", 1, "double quotes"),
        (b'{"a": 1,}', 1, "double quotes"),
        (b'{"a": [1, 2,\n\n]}', 3, "wanted a value"),
        (b'{"a": 01}', 1, "wanted ',' or '}'"),
        (b'{"a" 1}', 1, "wanted ':'"),
        (b'{"a": 1', 1, "missing"),
        (b'{"a": "x\ny"}', 1, "control character"),
        (b'{"a": "open', 1, "Unterminated"),
        (b'{"a": 1}\n{"b": 2}', 2, "the end of the document"),
        (b'{"a": tru}', 1, "wanted a value"),
        (b"[" * 100_000, 1, "nested deeper"),
        (b'{"a": "caf\xe9"}', 1, "not UTF-8"),
    ],
)
def test_broken_json_is_a_fault_with_its_line(data: bytes, line: int, message: str) -> None:
    with pytest.raises(Unreadable, match=message) as caught:
        read_json(data)
    assert caught.value.line == line


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert read_yaml(b"\xef\xbb\xbfkey: 1\n") == {"key": 1}
    assert read_json(b'\xef\xbb\xbf{"key": 1}') == {"key": 1}


JSON_TREES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


@given(JSON_TREES, st.sampled_from([None, 1, "\t"]), st.booleans())
def test_json_reads_what_the_standard_library_writes(tree: Any, indent: Any, ascii_only: bool) -> None:
    assert parse_json(json.dumps(tree, indent=indent, ensure_ascii=ascii_only)) == tree


@given(st.text(alphabet='{}[]":,-+.0123456789eEtrufalsn \n\\\u00e9', max_size=40))
def test_json_takes_exactly_what_the_standard_library_takes(text: str) -> None:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("twice")
        return dict(pairs)

    try:
        wanted = json.loads(text, parse_constant=refuse, object_pairs_hook=once)
    except ValueError:
        with pytest.raises(Unreadable):
            parse_json(text)
        return
    try:
        assert parse_json(text) == wanted
    except Unreadable as error:
        assert any(limit in str(error) for limit in ("64 bits", "too large", "nested deeper"))


@given(st.binary(max_size=80) | st.text(alphabet="ab:-[]{},'\"|>&*!#%@\n\t ?~0.9é", max_size=80).map(str.encode))
def test_any_bytes_are_yaml_or_a_fault(data: bytes) -> None:
    try:
        tree = read_yaml(data)
    except Unreadable:
        return
    assert tree is None or isinstance(tree, Mapped | Listed | str | int | float | bool)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"a": object()}, "object"),
        ({1: 2}, "a key of type int"),
        ({"a": {1, 2}}, "set"),
        ({"a": b"x"}, "bytes"),
    ],
)
def test_python_data_that_no_file_could_hold_is_refused(data: Any, message: str) -> None:
    with pytest.raises(Unreadable, match=message):
        from_python(data)


def test_python_data_that_holds_itself_is_refused() -> None:
    loop: dict[str, Any] = {}
    loop["loop"] = loop
    with pytest.raises(Unreadable, match="nested deeper"):
        from_python(loop)


def test_python_data_is_copied_and_paths_are_texts() -> None:
    data = {"photos": (Path("a/b.jpg"), "c.jpg")}
    assert from_python(data) == {"photos": ["a/b.jpg", "c.jpg"]}


def csv_rows(tmp_path: Path, text: str | bytes, name: str = "people.csv") -> list[Any]:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    stream = CsvStream(path)
    try:
        return list(stream)
    finally:
        stream.close()


def person(line: int, **more: Any) -> tuple[int, dict[str, Any]]:
    return line, {"photos": [], "fields": {}, **more}


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("id,photos\nada,a.jpg\n", [person(2, id="ada", photos=["a.jpg"])]),
        ("photos,id\r\na.jpg|b.jpg;c.jpg,ada\r\n", [person(2, id="ada", photos=["a.jpg", "b.jpg", "c.jpg"])]),
        (
            "id;photos;role\nada;a.jpg|b.jpg;pilot\n",
            [person(2, id="ada", photos=["a.jpg", "b.jpg"], fields={"role": "pilot"})],
        ),
        ("id\tphotos\nada\ta.jpg", [person(2, id="ada", photos=["a.jpg"])]),
        ("\ufeffid,photos\nada,a.jpg\n", [person(2, id="ada", photos=["a.jpg"])]),
        (
            'id,photos,subject,age,Job Title\n"a,da",a.jpg,"a ""young"" one",31,\n',
            [person(2, id="a,da", photos=["a.jpg"], subject='a "young" one', age="31")],
        ),
        ("id,photos\n\n,,\n , \nada, a.jpg \n", [person(5, id="ada", photos=["a.jpg"])]),
        ('id,photos,note\nada,a.jpg,"two\nlines"\nbob,b.jpg,x\n', None),
        ("id,photos,,\nada,a.jpg,,\n", [person(2, id="ada", photos=["a.jpg"])]),
        ("id,photos\n", []),
    ],
)
def test_csv(text: str, rows: list[tuple[int, dict[str, Any]]] | None, tmp_path: Path) -> None:
    found = [(row.line, dict(row)) for row in csv_rows(tmp_path, text)]
    if rows is None:  # a cell of two lines: the next row begins on line 4
        rows = [
            person(2, id="ada", photos=["a.jpg"], fields={"note": "two\nlines"}),
            person(4, id="bob", photos=["b.jpg"], fields={"note": "x"}),
        ]
    assert found == rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first line is empty"),
        ("\nid,photos\n", "first line is empty"),
        ("name,photos\n", "no column 'id'"),
        ("id,subject\n", "no column 'photos'"),
        ("id,photos,id\n", "twice"),
        ("id,photos,prompts\n", "cannot be used"),
        ("id,photos,,x\n", "column 3"),
        ("id,photos,a.b\n", "'a.b'"),
        ("id,photos," + ",".join(f"c{n}" for n in range(300)) + "\n", "302 headings"),
        ('id,"photos\n', "not CSV|no column"),
        ("id,photos\n".encode("utf-16"), "UTF-16"),
    ],
)
def test_headings_that_cannot_be_used(text: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match=message):
        csv_rows(tmp_path, text)


def test_rows_with_faults_do_not_hide_the_rows_behind_them(tmp_path: Path) -> None:
    data = b'id,photos,x\na,p,1,2\nb,p\nc,p,caf\xe9\nd,p,"x"y\ne,p,1\n'
    found = csv_rows(tmp_path, data)
    assert [(row.line, str(row)[:40]) for row in found[:4]] == [
        (2, "the row has 4 cells, the headings are 3;"),
        (3, "the row has 2 cells, the headings are 3;"),
        (4, "byte 8 of the line, 0xe9, is not UTF-8; "),
        (5, "not CSV: ',' expected after '\"'"),
    ]
    assert found[4] == {"id": "e", "photos": ["p"], "fields": {"x": "1"}}
    assert len(found) == 5


@pytest.mark.parametrize(
    "body",
    [b'a,"' + b"x" * (MAX_RECORD_BYTES + 10), b'a,"' + b"line\n" * MAX_RECORD_BYTES, b"x" * 10_000_000],
    ids=["open quote", "open quote over lines", "no line end"],
)
def test_a_record_without_end_is_a_fault_and_the_end(body: bytes, tmp_path: Path) -> None:
    found = csv_rows(tmp_path, b"id,photos\n" + body)
    assert len(found) == 1
    assert isinstance(found[0], Unreadable)


@given(st.binary(max_size=120) | st.text(alphabet='ab,;|"\n\r\té', max_size=120).map(str.encode))
def test_any_bytes_are_csv_rows_or_faults(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    for row in csv_rows(tmp_path_factory.getbasetemp(), b"id,photos,x\n" + data, "fuzz.csv"):
        assert isinstance(row, Mapped | Unreadable)
        assert (row.line or 0) >= 2


def json_lines(tmp_path: Path, data: bytes) -> tuple[Any, list[Any]]:
    path = tmp_path / "people.jsonl"
    path.write_bytes(data)
    stream = JsonLinesStream(path)
    try:
        return stream.job, list(stream)
    finally:
        stream.close()


def test_json_lines(tmp_path: Path) -> None:
    job, people = json_lines(tmp_path, b'\xef\xbb\xbf{"job": {"key": "k"}}\n\n{"id": "a"}\n{"id": \n[1]\n{"id": "b"}')
    assert job == {"key": "k"}
    assert [row.line for row in people] == [3, 4, 5, 6]
    assert people[0] == {"id": "a"}
    assert "not JSON" in str(people[1])
    assert "one identity" in str(people[2])
    assert people[3] == {"id": "b"}


def test_json_lines_without_a_job_part(tmp_path: Path) -> None:
    assert json_lines(tmp_path, b'{"id": "a"}\n') == (None, [{"id": "a"}])
    assert json_lines(tmp_path, b"") == (None, [])


def test_a_json_line_without_end_is_a_fault_and_the_end(tmp_path: Path) -> None:
    _, people = json_lines(tmp_path, b'{"id": "a"}\n' + b"x" * (MAX_RECORD_BYTES * 3))
    assert len(people) == 2
    assert isinstance(people[1], Unreadable)

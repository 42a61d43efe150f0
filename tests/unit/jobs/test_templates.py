"""Templates: fields and nothing else."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.templates import TemplateFault, parse_template

VALUES = {"subject": "a woman", "age": "31", "Job Title": "pilot", "rôle": "chef"}


@pytest.mark.parametrize(
    ("template", "filled", "fields"),
    [
        ("plain", "plain", set()),
        ("", "", set()),
        ("{subject}", "a woman", {"subject"}),
        ("{subject}, {age}, {subject}", "a woman, 31, a woman", {"subject", "age"}),
        ("{Job Title} and {rôle}", "pilot and chef", {"Job Title", "rôle"}),
        ("{{subject}}", "{subject}", set()),
        ("{{{subject}}}", "{a woman}", {"subject"}),
        ("a {{ b }} c", "a { b } c", set()),
        ("(smile:1.2), [hat]", "(smile:1.2), [hat]", set()),
        ("  two\n lines\t and   more ", "two lines and more", set()),
    ],
)
def test_filling(template: str, filled: str, fields: set[str]) -> None:
    parsed = parse_template(template)
    assert parsed.fill(VALUES) == filled
    assert parsed.length(VALUES) == len(filled)
    assert parsed.fields == fields


def test_values_are_never_read_as_templates() -> None:
    assert parse_template("{subject}").fill({"subject": "{age} {{x}}"}) == "{age} {{x}}"


def test_missing_fields_are_named_once_in_their_order() -> None:
    assert parse_template("{z} {subject} {a} {z}").missing(VALUES) == ["z", "a"]


@pytest.mark.parametrize(
    "template",
    [
        "{",
        "}",
        "a } b",
        "{subject",
        "{}",
        "{0}",
        "{subject.__class__}",
        "{subject[0]}",
        "{subject!r}",
        "{age:>99999999}",
        "{ subject}",
        "{a|b}",
        "{{subject}",
        "{" + "a" * 65 + "}",
        "{subject{age}}",
    ],
)
def test_everything_else_between_braces_is_refused(template: str) -> None:
    with pytest.raises(TemplateFault):
        parse_template(template)


@given(st.text(alphabet=string.ascii_letters + "{}. \n[]!:é_-0", max_size=60))
def test_any_text_is_a_template_or_a_fault(text: str) -> None:
    try:
        parsed = parse_template(text)
    except TemplateFault:
        return
    # Doubling what comes out gives a template of the same text: nothing is lost, nothing is made up.
    values = {name: "v" for name in parsed.fields}
    filled = parsed.fill(values)
    escaped = filled.replace("{", "{{").replace("}", "}}")
    assert parse_template(escaped).fill({}) == filled

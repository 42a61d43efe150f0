"""The API against its own OpenAPI document, asked in every way that schemathesis can think of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from queue_world import settings as queue_settings
from schemathesis.checks import CHECKS
from web_world import Site, manifest, photo_bytes

from jobs.database import Database
from jobs.web import api_reading, api_writing, throttle

EXAMPLES = 25
OPERATIONS = sorted(
    (method, route.path)
    for router in (api_reading.router, api_writing.router)
    for route in router.routes
    for method in route.methods  # type: ignore[attr-defined]
)
# A body that the document allows may still name a photo that was never sent, and an id that nobody has is no fault:
# so what is valid by its form need not be accepted.
LEFT_OUT = {"positive_data_acceptance"}


@pytest.fixture(scope="module")
def open_site(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One site for all operations, with a job that is done and one that waits."""
    folder = tmp_path_factory.mktemp("schema")
    file = folder / "portraits.db"
    file.write_bytes(migrated_file.read_bytes())
    people = folder / "people"
    people.mkdir()
    database = Database(f"sqlite:///{file}")
    made = Site(queue_settings(folder / "home", f"sqlite:///{file}"), database, people)
    made.enqueue("ada", "ben")
    made.draw()
    made.enqueue("cleo", key="waits")
    with made.client, pytest.MonkeyPatch.context() as patch:
        patch.setattr(throttle, "MOST_WRONG", 10**9)  # requests without a token are part of what is tried
        yield made
    database.dispose()


@pytest.fixture(scope="module")
def document(open_site: Site) -> Any:
    """The API's document, as it is served."""
    return schemathesis.openapi.from_asgi("/api/v1/openapi.json", open_site.app)


@pytest.mark.parametrize("write", [True, False], ids=["write", "read"])
@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=lambda text: text)
def test_every_answer_is_as_the_document_says(
    open_site: Site, document: Any, method: str, path: str, write: bool
) -> None:
    # Given a token that may write, or only read
    token = {"Authorization": f"Bearer {open_site.token(write=write)}"}
    excluded = [check for check in CHECKS.get_all() if check.__name__ in LEFT_OUT]
    seen = set()

    @given(case=document[path][method].as_strategy())
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: Any) -> None:
        answer = case.call_and_validate(headers=token, excluded_checks=excluded)
        seen.add(answer.status_code)

    # When requests are made that fit the document, then there is no fault of the server, and status, type and body are
    # as described
    ask()
    assert seen - {401, 429} and all(status < 500 for status in seen), seen


@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=lambda text: text)
def test_requests_that_do_not_fit_the_document_are_refused(
    open_site: Site, document: Any, method: str, path: str
) -> None:
    # Given an operation that can be asked wrongly at all
    token = {"Authorization": f"Bearer {open_site.token()}"}
    operation = document[path][method]
    statuses = set()

    @given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: Any) -> None:
        answer = case.call(headers=token)
        statuses.add(answer.status_code)
        if answer.status_code >= 400:
            assert answer.headers["content-type"][0] == "application/problem+json", answer.text

    # When it is, then it is refused with a problem, or taken for what it was, and never a fault of the server
    ask()
    assert all(status < 500 for status in statuses), statuses


def test_what_is_really_there_fits_the_document(open_site: Site, document: Any) -> None:
    # Given answers with content, which made-up ids seldom lead to
    job = open_site.get("/jobs/spring")
    picture = open_site.get("/jobs/spring/pictures")["pictures"][0]["render_id"]
    source = open_site.send(photo_bytes("green"))
    headers = {"Authorization": f"Bearer {open_site.token()}"}
    asked: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", "/jobs", {}),
        ("GET", "/jobs/{job}", {"path_parameters": {"job": job["job_id"]}}),
        ("GET", "/jobs/{job}/people", {"path_parameters": {"job": "spring"}}),
        ("GET", "/jobs/{job}/pictures", {"path_parameters": {"job": "spring"}}),
        ("GET", "/pictures/{render}", {"path_parameters": {"render": picture}}),
        ("GET", "/pictures/{render}/file", {"path_parameters": {"render": picture}}),
        ("GET", "/pictures/{render}/thumbnail", {"path_parameters": {"render": picture}}),
        ("GET", "/workers", {}),
        ("POST", "/photos", {"body": {"sha256": "ab" * 32, "size_bytes": 10, "media_type": "image/png"}}),
        ("POST", "/jobs", {"body": manifest("dora", key="new", photo=source), "query": {"dry_run": True}}),
        ("POST", "/jobs", {"body": manifest("dora", key="new", photo=source)}),
        ("POST", "/jobs/{job}/cancel", {"path_parameters": {"job": "new"}}),
    ]

    # Then each is as described
    for method, path, values in asked:
        media = {"media_type": "application/json"} if "body" in values else {}
        case = document[path][method].Case(**values, **media)
        answer = case.call(headers=headers)
        assert answer.status_code in (200, 201), (method, path, answer.text)
        case.validate_response(answer)
    assert {path for _, path, _ in asked} | {"/uploads/{signed}"} == {path for _, path in OPERATIONS}

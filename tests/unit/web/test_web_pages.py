"""The pages: logging in, what they show, and what they do with hostile names."""

from __future__ import annotations

import re
import uuid
from html.parser import HTMLParser
from typing import Any

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient
from web_world import ACME, ADDRESS, GLOBEX, Site

from jobs import tokens
from jobs.models import Render
from jobs.models_outside import Token
from jobs.orm import utcnow
from jobs.repository import fleet
from jobs.web import access
from jobs.web.app import create_app
from jobs.web.login import PLAIN_COOKIE, SECURE_COOKIE
from jobs.web.strip import best_of_each
from jobs.web.words import similarity

HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(2)>'


class Found(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep it."""
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Keep it."""
        self.text += data


def read(site: Site, path: str) -> Found:
    """A page that must be there."""
    answer = site.client.get(path)
    assert answer.status_code == 200, (path, answer.status_code, answer.headers.get("location"))
    return Found(answer.text)


def test_logging_in_leads_where_one_wanted_to_go(site: Site) -> None:
    # Given somebody who is not logged in and follows a link to a job
    job = site.enqueue("ada")
    asked = site.client.get(f"/jobs/{job}?having=failed")
    assert asked.status_code == 303
    form = site.client.get(asked.headers["location"])
    (then,) = [about["value"] for tag, about in Found(form.text).elements if about.get("name") == "next"]

    # When a token is shown, then there is a session, and the job
    answer = site.client.post("/login", data={"token": f" {site.token()} ", "next": then})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/jobs/{job}?having=failed")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"{PLAIN_COOKIE}=")
    assert all(part in cookie for part in ("HttpOnly", "SameSite=strict", "Path=/")) and "Secure" not in cookie
    # And the cookie does not hold the token
    assert site.token().partition(".")[2] not in cookie
    assert "ada" not in read(site, f"/jobs/{job}?having=failed").text
    assert "ada" in read(site, f"/jobs/{job}").text

    # When one logs out, then it is over
    assert site.client.post("/logout").headers["location"] == "/login"
    assert site.client.get("/jobs").status_code == 303


def test_over_https_the_cookie_stays_there(site: Site) -> None:
    answer = site.client.post("https://portraits.test/login", data={"token": site.token()})
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"{SECURE_COOKIE}=") and "Secure" in cookie
    assert "max-age=31536000" in answer.headers["strict-transport-security"]


@pytest.mark.parametrize(
    "then",
    [
        "//evil.test/x",
        "https://evil.test",
        "/\\evil.test",
        "javascript:alert(1)",
        "/jobs\r\nSet-Cookie: a=b",
        "jobs",
        "",
    ],
)
def test_a_login_leads_to_no_other_site(site: Site, then: str) -> None:
    answer = site.client.post("/login", data={"token": site.token(), "next": then})
    assert (answer.status_code, answer.headers["location"]) == (303, "/jobs")


def test_no_other_site_logs_anybody_in_or_out(site: Site) -> None:
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.test"}):
        answer = site.client.post("/login", data={"token": site.token()}, headers=headers)
        assert answer.status_code == 403 and "set-cookie" not in answer.headers
    site.log_in()
    site.client.post("/logout", headers={"Sec-Fetch-Site": "cross-site"})
    assert site.client.get("/jobs").status_code == 200
    assert site.client.post("/logout", headers={"Origin": "http://portraits.test"}).status_code == 303
    assert site.client.get("/jobs").status_code == 303


def test_a_session_ends_with_its_token(site: Site) -> None:
    # Given somebody who is logged in
    site.enqueue("ada")
    site.log_in()
    assert site.client.get("/jobs").status_code == 200

    # When the token is revoked, then the next request is refused, that of a page's script too
    tokens.revoke(site.database, ACME, f"{ACME} True")
    assert site.client.get("/jobs").status_code == 303
    assert site.client.get("/jobs", headers={"X-Requested-With": "live"}).status_code == 401
    # And so when it expires
    with site.database.transaction() as tx:
        tx.execute(update(Token).values(revoked_at=None, expires_at=None))
    assert site.client.get("/jobs").status_code == 200
    with site.database.transaction() as tx:
        tx.execute(update(Token).values(expires_at=utcnow()))
    assert site.client.get("/jobs").status_code == 303


def test_a_session_that_was_logged_out_is_over_for_every_process(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given two logins with one token, and another process of the same installation
    site.log_in()
    first = {"Cookie": f"{PLAIN_COOKIE}={site.client.cookies[PLAIN_COOKIE]}"}
    site.log_in()
    second = {"Cookie": f"{PLAIN_COOKIE}={site.client.cookies[PLAIN_COOKIE]}"}
    site.client.cookies.clear()
    with TestClient(create_app(site.settings), ADDRESS, follow_redirects=False) as other:

        def answers(headers: dict[str, str]) -> tuple[int, int]:
            here, there = (one.get("/jobs", headers=headers).status_code for one in (site.client, other))
            return here, there

        # When one of them logs out, then its cookie is nothing any more, and the other one goes on
        assert site.client.post("/logout", headers=first).status_code == 303
        assert (answers(first), answers(second)) == ((303, 303), (200, 200))

        # And with more than are remembered one by one, all that began until then are over; a new one is not
        monkeypatch.setattr(access, "MOST_ENDED", 1)
        site.log_in()
        third = {"Cookie": f"{PLAIN_COOKIE}={site.client.cookies[PLAIN_COOKIE]}"}
        site.client.cookies.clear()
        assert other.post("/logout", headers=third).status_code == 303
        assert [answers(one) for one in (first, second, third)] == [(303, 303)] * 3
        site.log_in()
        assert site.client.get("/jobs").status_code == 200


def test_a_session_that_was_changed_or_made_elsewhere_is_none(site: Site) -> None:
    site.log_in()
    good = site.client.cookies[PLAIN_COOKIE]
    told, _, mac = good.partition(".")
    for text in (told, f"{told}.", f"{told}.{mac[:-2]}AA", f"{told}A.{mac}", f"e30.{mac}", "é", "." * 5_000):
        site.client.cookies.clear()
        answer = site.client.get("/jobs", headers={"Cookie": f"{PLAIN_COOKIE}={text}".encode()})
        assert answer.status_code == 303, text[:40]
    assert site.client.get("/jobs", headers={"Cookie": f"{PLAIN_COOKIE}={good}"}).status_code == 200


def test_a_wrong_token_is_told_so_and_many_make_one_wait(site: Site) -> None:
    answers = [site.client.post("/login", data={"token": "portraits_acme." + "A" * 43}) for _ in range(11)]
    assert [answer.status_code for answer in answers] == [401] * 10 + [429]
    assert "no valid token" in answers[0].text and int(answers[-1].headers["retry-after"]) > 0
    # The right one is let in all the same: many people may come from one address
    assert site.log_in().status_code == 303


def test_the_way_from_jobs_to_a_picture(site: Site) -> None:
    # Given a finished job, a failed one and one that waits
    job = site.enqueue("ada", "alan", name="Spring issue")
    site.draw()
    bad = site.enqueue("ben", key="bad", photo="blue.png")
    site.fail()
    site.enqueue("cleo", key="later")
    site.log_in()

    # Then the jobs are there with their states
    found = read(site, "/jobs")
    assert all(text in found.text for text in ("Spring issue", "bad", "later", "waiting", "done", "failed"))

    # And the job has its people, with links to their pictures
    found = read(site, f"/jobs/{job}")
    people = [about["href"] for tag, about in found.elements if tag == "a" and "/people/" in (about.get("href") or "")]
    assert len(people) == 2
    found = read(site, str(people[0]))
    images = [about for tag, about in found.elements if tag == "img" and "thumbnail" in (about.get("src") or "")]
    assert len(images) == 2 and all(
        about["loading"] == "lazy" and "made by AI" in str(about["alt"]) for about in images
    )
    assert site.client.get(str(images[0]["src"])).headers["content-type"] == "image/webp"

    # And the picture has its facts
    picture = str(images[0]["src"]).removesuffix("/thumbnail")
    found = read(site, picture)
    shown = site.get(f"/jobs/{job}/pictures")["pictures"][0]
    for fact in (str(shown["seed"]), "portrait of somebody", shown["sha256"], "Made by AI", "denoise"):
        assert fact in found.text, fact
    assert site.client.get(f"{picture}/file").headers["content-type"] == "image/png"

    # And the failed job says why, with a link to those pictures
    found = read(site, f"/jobs/{bad}")
    assert "no face was found" in found.text
    (link,) = [about["href"] for _, about in found.elements if "error_code=" in (about.get("href") or "")]
    assert "no_usable_photo" in read(site, str(link)).text
    assert "ben" not in read(site, f"/jobs/{bad}?named=x").text

    # And the fleet is told, once somebody of it lives
    assert "No worker" in read(site, "/workers").text
    with site.database.transaction() as tx:
        fleet.sign_of_life(tx, "one", name="one@here", pid=1, version="1", state="working")
    fleet_page = read(site, "/workers").text
    assert "one@here" in fleet_page and "Between batches" in fleet_page and "Idle" not in fleet_page
    assert "POST /jobs" in read(site, "/api").text and "<code>next</code>" in site.client.get("/api").text


def test_a_finished_jobs_page_shows_what_came_of_it(site: Site) -> None:
    # Given a job that waits, then its page has no picture, and what is nought is quiet
    job = site.enqueue("ada", "alan")
    site.log_in()
    page = site.client.get(f"/jobs/{job}").text
    assert "/thumbnail" not in page and page.count(' zero"') == 4

    # When it is drawn, then both people are there, the best of each first, each leading to its picture
    site.draw()
    found = read(site, f"/jobs/{job}")
    shown = [about["src"] for tag, about in found.elements if tag == "img" and "thumbnail" in (about.get("src") or "")]
    pictures = {f"/pictures/{one['render_id']}/thumbnail": one for one in site.get(f"/jobs/{job}/pictures")["pictures"]}
    assert len(shown) == 4 and set(shown) == set(pictures)
    assert {pictures[str(src)]["external_id"] for src in shown[:2]} == {"ada", "alan"}
    links = [about.get("href") for tag, about in found.elements if tag == "a"]
    assert all(str(src).removesuffix("/thumbnail") in links for src in shown)
    # And one button is the first thing to press: the pictures, as long as there is no gallery
    main = [about for tag, about in found.elements if tag == "a" and about.get("class") == "button main"]
    assert [about["href"] for about in main] == [f"/jobs/{job}/pictures"]
    # And the part that is followed brings them too
    assert "/thumbnail" in site.client.get(f"/jobs/{job}", headers={"X-Requested-With": "live"}).text


def test_a_picture_leads_to_the_one_before_and_after_it(site: Site) -> None:
    # Given six pictures of three people, beside another job's
    site.enqueue("zoe", key="other")
    job = site.enqueue("ada", "alan", "ben")
    site.draw()
    site.log_in()
    wanted = [one["render_id"] for one in site.get(f"/jobs/{job}/pictures")["pictures"]]

    # Then one leads through all of them, across people, and ends where the job does
    for n, picture in enumerate(wanted):
        found = read(site, f"/pictures/{picture}")
        ways = {about["rel"]: about["href"] for _, about in found.elements if about.get("rel") in ("prev", "next")}
        around = {"prev": wanted[n - 1] if n else None, "next": wanted[n + 1] if n < len(wanted) - 1 else None}
        assert ways == {rel: f"/pictures/{other}" for rel, other in around.items() if other}
        # And the file is a link that is seen
        assert f'href="/pictures/{picture}/file">Open the file</a>' in site.client.get(f"/pictures/{picture}").text


@pytest.mark.parametrize(("value", "told"), [(None, "–"), (-0.003, "0.00"), (-0.125, "-0.12"), (0.995, "0.99")])
def test_an_id_similarity_has_two_digits_and_nothing_has_no_sign(value: float | None, told: str) -> None:
    assert similarity(value) == told


def test_id_similarity_has_one_name_and_is_explained(site: Site) -> None:
    job = site.enqueue("ada")
    site.draw()
    with site.database.transaction() as tx:
        tx.execute(update(Render).values(id_similarity=0.4567))
    site.log_in()
    (shown, *_) = site.get(f"/jobs/{job}/pictures")["pictures"]
    assert shown["id_similarity"] == 0.4567
    tiles = site.client.get(f"/jobs/{job}/pictures").text
    assert f'<abbr title="ID similarity">ID</abbr> {shown["id_similarity"]:.2f}' in tiles
    picture = site.client.get(f"/pictures/{shown['render_id']}").text
    assert "ID similarity is the cosine between face embeddings" in picture
    assert "likeness" not in tiles + picture


def test_the_best_of_each_person_come_first() -> None:
    def picture(who: str, ordinal: int, similarity: float | None) -> dict[str, Any]:
        return {"identity_id": who, "ordinal": ordinal, "id_similarity": similarity}

    told = [("a", 0, None), ("a", 1, 0.2), ("a", 2, 0.6), ("b", 3, 0.1), ("c", 4, -0.1), ("c", 5, 0.3)]
    found = best_of_each([picture(*one) for one in told], 5)
    assert [one["ordinal"] for one in found] == [2, 3, 5, 1, 4]


def test_an_errors_page_keeps_the_navigation_and_speaks_in_sentences(site: Site) -> None:
    # Given somebody who is logged in and comes to a job, a picture and an address that are not there
    site.log_in()
    for path, told in (
        ("/jobs/none", "There is no job"),
        (f"/pictures/{uuid.UUID(int=7)}", "There is no picture"),
        ("/nothing", "There is no such page."),
    ):
        # Then there is a way on, and the reason is a sentence
        text = site.client.get(path).text
        assert '<nav aria-label="Main">' in text and "Log out" in text, path
        assert f"<p>{told}" in text, path
    # And whoever is not logged in sees no navigation
    site.client.post("/logout")
    text = site.client.get("/nothing").text
    assert "There is no such page." in text and '<nav aria-label="Main">' not in text


def test_another_tenants_pages_are_as_unknown_as_what_is_not_there(site: Site) -> None:
    job = site.enqueue("ada")
    site.draw()
    person = site.get(f"/jobs/{job}/people")["people"][0]["identity_id"]
    picture = site.get(f"/jobs/{job}/pictures")["pictures"][0]["render_id"]
    site.log_in(GLOBEX)
    for path in (
        *(f"/jobs/{job}", f"/jobs/{job}/pictures", f"/jobs/{job}/people/{person}"),
        *(f"/pictures/{picture}", f"/pictures/{picture}/file", f"/pictures/{picture}/thumbnail"),
    ):
        theirs = site.client.get(path)
        unknown = site.client.get(path.replace(str(job), str(uuid.uuid4())).replace(picture, str(uuid.uuid4())))
        assert (theirs.status_code, unknown.status_code) == (404, 404), path
        plain = [re.sub(r"[0-9a-f-]{36}", "ID", answer.text) for answer in (theirs, unknown)]
        assert plain[0] == plain[1], path
    assert "spring" not in read(site, "/jobs").text


def test_hostile_names_are_text(site: Site) -> None:
    # Given a job whose name, key, person, prompt and reason are markup, and turn the direction of text
    turned = f"gpj\u202e{HOSTILE}"
    prompts = [{"name": "office", "text": f"portrait {HOSTILE}"}]
    identities = [{"id": turned[:100], "subject": HOSTILE, "photos": ["red.png"]}]
    job = site.enqueue(key=f"k {HOSTILE}", name=turned, prompts=prompts, identities=identities)
    site.draw()
    site.log_in()
    person = site.get(f"/jobs/{job}/people")["people"][0]["identity_id"]
    picture = site.get(f"/jobs/{job}/pictures")["pictures"][0]["render_id"]

    # Then no page has an element of it, and no character that turns text
    for path in (
        "/jobs",
        f"/jobs/{job}",
        f"/jobs/{job}/pictures",
        f"/jobs/{job}/people/{person}",
        f"/pictures/{picture}",
    ):
        answer = site.client.get(path)
        found = Found(answer.text)
        assert "alert(" in found.text and "\u202e" not in answer.text, path
        scripts = [about.get("src") for tag, about in found.elements if tag == "script"]
        assert len(scripts) == 1 and str(scripts[0]).startswith("/static/live.js?"), path
        assert not [
            about for _, about in found.elements if any(name.startswith("on") or name == "style" for name in about)
        ]
    # And a name in the address is text in the answer
    answer = site.client.get(f"/jobs/{HOSTILE.replace('/', '')}")
    assert answer.status_code == 404 and "<script>alert" not in answer.text
    # And the file's name in a header is plain
    file = site.client.get(f"/pictures/{picture}/file")
    assert re.fullmatch(r'inline; filename="[A-Za-z0-9._-]+\.png"', file.headers["content-disposition"])


def test_what_is_live_says_when_it_is_over(site: Site) -> None:
    # Given a job that waits
    job = site.enqueue("ada")
    site.log_in()
    live = {"X-Requested-With": "live"}

    # Then its page is followed, by script or by reloading, and the part that changes comes alone
    page = site.client.get(f"/jobs/{job}").text
    assert f'data-live="/jobs/{job}"' in page and '<noscript><meta http-equiv="refresh"' in page
    part = site.client.get(f"/jobs/{job}", headers=live)
    assert part.headers["x-live"] == "more" and "<html" not in part.text and "of 2 pictures" in part.text

    # When it is done, then the part says so, and the page is no longer followed
    site.draw()
    assert site.client.get(f"/jobs/{job}", headers=live).headers["x-live"] == "over"
    assert "data-live=" not in site.client.get(f"/jobs/{job}").text
    assert site.client.get("/jobs", headers=live).headers["x-live"] == "over"


def test_many_pictures_come_page_by_page(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.web import pages

    monkeypatch.setattr(pages, "PICTURES", 2)
    job = site.enqueue("ada", prompts=[{"name": "office", "text": "portrait of {subject}", "seeds": 5}])
    site.draw()
    site.log_in()
    seen: list[Any] = []
    path: str | None = f"/jobs/{job}/pictures"
    while path:
        found = read(site, path)
        seen += [
            about["src"] for tag, about in found.elements if tag == "img" and "thumbnail" in (about.get("src") or "")
        ]
        following = [about["href"] for _, about in found.elements if about.get("rel") == "next"]
        path = f"/jobs/{job}/pictures{following[0]}" if following else None
    assert len(seen) == len(set(seen)) == 5


@pytest.mark.parametrize(
    "path", ["/nothing", "/jobs/none", "/pictures/1", f"/pictures/{uuid.UUID(int=7)}", "/static/../app.py"]
)
def test_what_is_not_there_is_told_on_a_page(site: Site, path: str) -> None:
    site.log_in()
    answer = site.client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "text/html; charset=utf-8")

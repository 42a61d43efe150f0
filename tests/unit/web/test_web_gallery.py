"""A job's gallery as it is served: its pages, its sheets, and nothing else of the store."""

from __future__ import annotations

import re

from web_world import GLOBEX, Site

from jobs import gallery as galleries
from jobs.repository import galleries as rows


def build(site: Site, tenant: str, job: object) -> None:
    """Make the gallery of a job."""
    with site.database.transaction() as tx:
        rows.make_due(tx, tenant, job)  # type: ignore[arg-type]
    storage = site.world.storage
    made = galleries.build_due(site.database, storage, site.settings, owner="test", limit=1, is_over=lambda: False)
    assert made == 1


def test_a_gallery_is_served_to_its_tenant_alone(site: Site) -> None:
    # Given a job whose gallery is built
    job = site.enqueue("ada", "<b>ben</b>")
    site.draw()
    build(site, "acme", job)
    site.log_in()

    # Then the job's page leads to it, and it stands under a policy that lets its own script run and nothing else
    assert f'href="/jobs/{job}/gallery/"' in site.client.get(f"/jobs/{job}").text
    page = site.client.get(f"/jobs/{job}/gallery/")
    assert page.status_code == 200 and "<b>ben</b>" not in page.text
    policy = page.headers["content-security-policy"]
    assert "sha256-" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy

    # And its sheets come from here, and its pictures are this server's
    (sheet,) = set(re.findall(r"thumbnails-\d+\.css", page.text))
    assert site.client.get(f"/jobs/{job}/gallery/{sheet}").headers["content-type"].startswith("text/css")
    assert '"serve":""' in page.text and "X-Amz" not in page.text
    # And it leads back to the job, by the page's data, so that the policy's hashes hold
    assert f'"back":"/jobs/{job}"' in page.text

    # And nothing else is a file of it
    for name in ("page-0001.json", "page-0002.html", "signed-page-0001.html", "thumbnails-9999.css", "..%2f1.png", "x"):
        assert site.client.get(f"/jobs/{job}/gallery/{name}").status_code == 404, name
    site.log_in(GLOBEX)
    assert site.client.get(f"/jobs/{job}/gallery/").status_code == 404
    assert site.client.get(f"/jobs/{job}/gallery/{sheet}").status_code == 404


def test_a_job_without_a_gallery_has_none(site: Site) -> None:
    job = site.enqueue("ada")
    site.log_in()
    assert "/gallery/" not in site.client.get(f"/jobs/{job}").text
    assert site.client.get(f"/jobs/{job}/gallery/").status_code == 404

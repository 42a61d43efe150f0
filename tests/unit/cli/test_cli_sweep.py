"""`portraits sweep` on the command line."""

from __future__ import annotations

import uuid

from cli_world import CliWorld

from jobs.storage import open_storage


def test_orphans_are_counted_and_removed_on_demand(cli: CliWorld) -> None:
    # Given a drawn job and an object that no row names
    cli.enqueue()
    cli.draw()
    storage = open_storage(cli.settings.storage_url, cli.settings)
    storage.put(f"default/{uuid.uuid4()}/{uuid.uuid4()}/1.png", bytes(2**20), content_type="image/png")
    before = len(list(storage.list("")))

    # When it is looked, then it is told and stays; young ones are not counted
    assert "1 objects, 1.0 MiB" in cli.run("sweep", "--older-than", "0s").stdout
    assert cli.json("sweep")["orphans"] == 0
    assert len(list(storage.list(""))) == before

    # When it is removed, then it alone is gone
    assert "wanted a minute" in cli.run("sweep", "--older-than", "0", "--delete", exit_code=2).output
    told = cli.json("sweep", "--older-than", "0", "--delete", "--force")
    assert (told["removed"], told["deleted"]) == (1, True)
    assert len(list(storage.list(""))) == before - 1


def test_a_length_of_time_that_is_none_is_refused(cli: CliWorld) -> None:
    cli.migrate()
    assert "no length of time" in cli.run("sweep", "--older-than", "soon", exit_code=2).output

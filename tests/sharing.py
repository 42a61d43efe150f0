"""How tests are shared out among processes (`pytest -n 2`): one by one to whichever is free, with these exceptions."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

# Each needs about 12 GB: two at once would not fit. Every test that is marked `large` is in one of these.
FULL_SIZE = {
    "tests/unit/hyperlora/test_hyperlora_large.py",
    "tests/unit/hyperlora/test_proof_full_size.py",
}


class Sharing(LoadScopeScheduling):
    """A scope is what one process runs, one test after the other; the scopes of most tests are begun first.

    An integration or chaos test starts processes of its own and waits for them, and a browser test its browser; so its
    file stays together and begins at once, while the other process computes. The marks of pytest-xdist's own
    `loadgroup` are lost under pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if file in FULL_SIZE:
            return "full size"
        return file if file.startswith(("tests/integration/", "tests/chaos/", "tests/browser/")) else nodeid

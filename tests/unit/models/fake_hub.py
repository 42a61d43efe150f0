"""A small Hugging Face hub on this machine: it tells what a repository has, and gives its files, also in parts."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LARGE = 1024  # a file of so many bytes is stored as the hub stores large ones


@dataclass
class Repo:
    """A repository: commits by name, each with files; branches; a licence."""

    commits: dict[str, dict[str, bytes]]
    branches: dict[str, str]
    licence: str | None = "openrail++"


@dataclass
class FakeHub:
    """What the hub has, what it was asked, and what it does wrong."""

    repos: dict[str, Repo] = field(default_factory=dict)
    port: int = 0
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    stops_after: dict[str, int] = field(default_factory=dict)
    """Bytes after which the next answers with this file break off, once."""
    refused: set[str] = field(default_factory=set)
    """Files that nobody may have."""
    swapped: dict[str, bytes] = field(default_factory=dict)
    """What is sent instead of a file's content."""

    @property
    def endpoint(self) -> str:
        """For HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.port}"

    def fetched(self) -> list[str]:
        """The files that were asked for with GET."""
        return [
            path.rsplit("/resolve/", 1)[1].split("/", 1)[1]
            for method, path, _ in self.asked
            if "/resolve/" in path and method == "GET"
        ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        """As GET, without the content."""
        self._answer()

    def do_GET(self) -> None:
        """What was asked for."""
        self._answer()

    def _answer(self) -> None:
        hub: FakeHub = self.server.hub  # type: ignore[attr-defined]
        path = self.path.partition("?")[0]
        hub.asked.append((self.command, path, self.headers.get("Range")))
        told = re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if told and told[1] in hub.repos:
            self._tell(hub.repos[told[1]], told[2])
        elif file and file[1] in hub.repos:
            self._give(hub, hub.repos[file[1]], file[2], file[3])
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _tell(self, repo: Repo, revision: str) -> None:
        commit = repo.branches.get(revision, revision)
        if commit not in repo.commits:
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return
        siblings = [_sibling(name, content) for name, content in repo.commits[commit].items()]
        card = {} if repo.licence is None else {"license": repo.licence}
        body = {"id": "x/y", "sha": commit, "siblings": siblings, "cardData": card, "tags": [], "private": False}
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _give(self, hub: FakeHub, repo: Repo, revision: str, name: str) -> None:
        commit = repo.branches.get(revision, revision)
        content = repo.commits.get(commit, {}).get(name)
        if name in hub.refused:
            self._send(403, b"", {"X-Repo-Commit": commit})
            return
        if content is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        etag = hashlib.sha256(content).hexdigest()
        content = hub.swapped.get(name, content)
        told = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        begin = int(wanted[1]) if wanted else 0
        if wanted:
            told["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        stop = hub.stops_after.pop(name, None) if self.command == "GET" else None
        self._send(206 if wanted else 200, content[begin:], told, stop=stop)

    def _send(self, code: int, body: bytes, headers: dict[str, str], stop: int | None = None) -> None:
        self.send_response(code)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body if stop is None else body[:stop])
        if stop is not None:
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def _sibling(name: str, content: bytes) -> dict[str, Any]:
    told: dict[str, Any] = {"rfilename": name, "size": len(content)}
    told["blobId"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    if len(content) >= LARGE:
        told["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return told


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """The hub, on a port of its own."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.hub = hub  # type: ignore[attr-defined]
    hub.port = server.server_address[1]
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)

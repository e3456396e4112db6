"""A Hugging Face hub on loopback with a few models in it, for downloads: it counts what is fetched."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: Files of this ending are stored as large ones, whose SHA-256 the hub knows.
LARGE = (".safetensors", ".bin")


@dataclass
class Hub:
    """What the server has, and what was asked of it.

    Attributes:
        url: Its address, for HF_ENDPOINT.
        commits: Revision → commit, by model.
        files: Content by path, by commit.
        fetched: Paths whose content was sent, in order.
    """

    url: str = ""
    commits: dict[str, dict[str, str]] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)

    def add(self, model: str, files: Mapping[str, bytes], *, tag: str | None = None) -> str:
        """Add a commit to a model's main branch, and tag it; returns the commit."""
        content = repr((model, sorted(files.items()))).encode()
        commit = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        self.files[commit] = dict(files)
        self.commits.setdefault(model, {}).update({"main": commit, commit: commit, **({tag: commit} if tag else {})})
        return commit


@contextlib.contextmanager
def hub_server() -> Iterator[Hub]:
    """A running hub."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(send=True)

        def do_HEAD(self) -> None:
            self._answer(send=False)

        def _answer(self, *, send: bool) -> None:
            path = self.path.partition("?")[0].lstrip("/")
            if found := re.fullmatch(r"api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path):
                model, what, revision = found[1], found[2], found[3] or "main"
                commit = hub.commits.get(model, {}).get(revision)
                if commit is None:
                    missing = "RevisionNotFound" if model in hub.commits else "RepoNotFound"
                    self._send(404, b"{}", {"X-Error-Code": missing})
                    return
                listed = [_entry(name, content) for name, content in hub.files[commit].items()]
                siblings = [{"rfilename": entry["path"]} for entry in listed]
                document = {"id": model, "modelId": model, "sha": commit, "siblings": siblings}
                self._send(200, json.dumps(listed if what == "tree" else document).encode(), {})
            elif found := re.fullmatch(r"([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                commit = hub.commits.get(found[1], {}).get(found[2])
                content = hub.files.get(commit or "", {}).get(found[3])
                if content is None:
                    self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
                    return
                if send:
                    hub.fetched.append(found[3])
                self._send(200, content, {"X-Repo-Commit": str(commit), "ETag": f'"{_etag(found[3], content)}"'}, send)
            else:
                self._send(404, b"", {})

        def _send(self, status: int, data: bytes, headers: Mapping[str, str], body: bool = True) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body and self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, *arguments: Any) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _etag(path: str, content: bytes) -> str:
    if path.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _entry(path: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": _etag(path, content)}
    if path.endswith(LARGE):
        entry["lfs"] = {"oid": _etag(path, content), "size": len(content), "pointerSize": 130}
    return entry

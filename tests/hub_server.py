"""A Hugging Face Hub on 127.0.0.1: as much of its wire format as reading a data set needs, from a dictionary of files.

It keeps every request, so that a test can say that nothing was asked.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


class Hub:
    """Repositories by name, each a list of commits, the last one being `main`."""

    def __init__(self) -> None:
        self.commits: dict[str, list[dict[str, bytes]]] = {}
        self.requests: list[str] = []
        self.url = ""

    def push(self, repo: str, files: Mapping[str, bytes]) -> str:
        """A new commit with these files alone; gives its id."""
        self.commits.setdefault(repo, []).append(dict(files))
        return self.commit_of(repo, "main")[0]

    def commit_of(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]]:
        """Id and files of a revision; KeyError where there is none."""
        ids = [hashlib.sha1(f"{repo} {n}".encode()).hexdigest() for n in range(len(self.commits[repo]))]
        by_id = dict(zip(ids, self.commits[repo], strict=True))
        commit = ids[-1] if revision == "main" else revision
        return commit, by_id[commit]

    @contextmanager
    def serving(self) -> Iterator[Hub]:
        """Answer at `url` for as long as this is open."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

        def _answer(self, body: bytes = b"") -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            try:
                content, headers = _found(hub, path.strip("/").split("/"), body)
                status = 200
            except KeyError as error:
                code = "EntryNotFound" if "resolve" in path else "RepoNotFound"
                content, headers, status = json.dumps({"error": str(error)}).encode(), {"X-Error-Code": code}, 404
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    return Handler


def _found(hub: Hub, parts: list[str], body: bytes) -> tuple[bytes, dict[str, str]]:
    """What lies at a path of the Hub, and headers; KeyError where there is nothing."""
    if parts[0] == "datasets":  # datasets/OWNER/NAME/resolve/REVISION/FILE
        commit, files = hub.commit_of("/".join(parts[1:3]), parts[4])
        content = files["/".join(parts[5:])]
        etag = hashlib.sha256(content).hexdigest()
        return content, {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
    repo, what, revision = "/".join(parts[2:4]), "".join(parts[4:5]), "".join(parts[5:6]) or "main"
    commit, files = hub.commit_of(repo, revision)
    if what == "tree":
        entries = _entries(files, "/".join(parts[6:]))
    elif what == "paths-info":
        wanted = json.loads(body)["paths"]
        entries = [entry for entry in _entries(files, "") if entry["path"] in wanted]
    else:
        siblings = [{"rfilename": name} for name in files]
        return _json({"id": repo, "sha": commit, "siblings": siblings, "private": False, "gated": False, "tags": []})
    return _json(entries)


def _entries(files: Mapping[str, bytes], folder: str) -> list[dict[str, Any]]:
    """Files and folders at and below a folder."""
    folders = {"/".join(name.split("/")[:n]) for name in files for n in range(1, name.count("/") + 1)}
    found = [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)]
    for name, content in files.items():
        found.append({"type": "file", "path": name, "oid": hashlib.sha1(content).hexdigest(), "size": len(content)})
    return [entry for entry in found if not folder or entry["path"].startswith(f"{folder}/")]


def _json(value: Any) -> tuple[bytes, dict[str, str]]:
    return json.dumps(value).encode(), {"Content-Type": "application/json"}

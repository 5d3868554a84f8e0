"""A Hub on this machine: the part of its HTTP interface that creating, pushing and downloading a repository uses."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0" * 40


class FakeHub:
    """Repositories in memory.

    Attributes:
        url: The address.
        repositories: id -> path -> contents.
        private: Ids of those that were created as private.
        refused: Whether writing is answered by 403.
        requests: Methods and paths, in order.
    """

    def __init__(self) -> None:
        self.url = ""
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.refused = False
        self.requests: list[str] = []

    def get(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of GET; HEAD has no body."""
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            name = "/".join(parts[2:4])
            if name not in self.repositories:
                return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
            if len(parts) > 5 and parts[4] == "revision" and parts[5] not in ("main", COMMIT):
                return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
            files = self.repositories[name]
            if "tree" in parts:
                return (
                    200,
                    {},
                    json.dumps(
                        [{"type": "file", "path": p, "size": len(f), "oid": _oid(f)} for p, f in files.items()]
                    ).encode(),
                )
            return (
                200,
                {},
                json.dumps({"id": name, "sha": COMMIT, "siblings": [{"rfilename": p} for p in files]}).encode(),
            )
        name, file = "/".join(parts[:2]), "/".join(parts[4:])
        contents = self.repositories.get(name, {}).get(file)
        if contents is None:
            return 404, {"X-Error-Code": "EntryNotFound" if name in self.repositories else "RepoNotFound"}, b""
        return 200, {"ETag": f'"{_oid(contents)}"', "X-Repo-Commit": COMMIT}, contents

    def post(self, path: str, body: bytes) -> tuple[int, Any]:
        """Status and JSON of POST."""
        parts = path.strip("/").split("/")
        if self.refused:
            return 403, {"error": "You don't have the rights to write"}
        if path == "/api/repos/create":
            values = json.loads(body)
            name = f"{values.get('organization') or 'me'}/{values['name']}"
            self.repositories.setdefault(name, {})
            if values.get("private") or values.get("visibility") == "private":
                self.private.add(name)
            return 200, {"url": f"{self.url}/{name}", "id": name}
        if parts[-2] == "preupload":
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return 200, {"files": files}
        if parts[-2] == "commit":
            files_of = self.repositories["/".join(parts[2:4])]
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    files_of[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            name = "/".join(parts[2:4])
            return 200, {"commitUrl": f"{self.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT, "success": True}
        return 200, {"errors": [], "warnings": []}


def _oid(contents: bytes) -> str:
    return hashlib.sha1(contents, usedforsecurity=False).hexdigest()


@contextmanager
def serve_fake_hub() -> Iterator[FakeHub]:
    """A Hub that answers as long as the context lasts."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def send(self, status: int, headers: dict[str, str], body: bytes) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            self.send_response(status)
            for key, value in {"Content-Type": "application/json", **headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_GET(self) -> None:
            self.send(*hub.get(unquote(urlsplit(self.path).path)))

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, values = hub.post(unquote(urlsplit(self.path).path), body)
            self.send(status, {}, json.dumps(values).encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

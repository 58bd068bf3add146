"""A small model hub on the loopback interface: the few endpoints that huggingface_hub uses, with byte ranges and a cable to pull."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class MadeUpHub:
    """repos: hub id -> file name -> content. cut_after: bytes after which a download of a large file breaks off, once per entry."""

    def __init__(self, repos: dict[str, dict[str, bytes]]) -> None:
        self.repos = repos
        self.cuts: list[int] = []
        self.wrong_sha: set[str] = set()
        self.requests: list[tuple[str, str, str | None]] = []
        self.served = 0

    def entry(self, name: str, content: bytes) -> dict[str, Any]:
        sha = hashlib.sha256(content + (b"x" if name in self.wrong_sha else b"")).hexdigest()
        entry: dict[str, Any] = {"rfilename": name, "path": name, "type": "file", "size": len(content), "oid": sha[:40], "blobId": sha[:40]}
        if name.endswith((".safetensors", ".bin")):
            entry["lfs"] = {"sha256": sha, "oid": sha, "size": len(content), "pointerSize": 134}
        return entry


def _handler(hub: MadeUpHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            path = self.path.split("?")[0]
            hub.requests.append((self.command, path, self.headers.get("Range")))
            for repo, files in hub.repos.items():
                if path.startswith(f"/api/models/{repo}"):
                    rest = path.removeprefix(f"/api/models/{repo}")
                    listing: Any = [hub.entry(n, c) for n, c in files.items()]
                    if not rest.startswith("/tree/"):
                        listing = {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": listing, "private": False, "tags": []}
                    return self._send(200, json.dumps(listing).encode(), {"Content-Type": "application/json"}, body)
                if path.startswith(f"/{repo}/resolve/"):
                    name = path.removeprefix(f"/{repo}/resolve/").split("/", 1)[1]
                    if name in files:
                        return self._file(name, files[name], body)
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)

        def _file(self, name: str, content: bytes, body: bool) -> None:
            start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            part = content[start:]
            if body and hub.cuts and len(content) > 100_000:
                cut = hub.cuts.pop(0)
                self._send(206 if start else 200, part, headers, body=False)
                self.wfile.write(part[:cut])
                hub.served += len(part[:cut])
                self.close_connection = True
                self.connection.close()
                return
            hub.served += len(part) if body else 0
            self._send(206 if start else 200, part, headers, body)

        def _send(self, code: int, content: bytes, headers: dict[str, str], body: bool) -> None:
            self.send_response(code)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

    return Handler


@contextmanager
def serving(hub: MadeUpHub) -> Iterator[str]:
    """The address of the hub while the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

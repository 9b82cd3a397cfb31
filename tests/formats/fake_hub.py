"""A hub of our own on a free port: enough of the Hugging Face API for the real client to make, fill and read models.

`repos` holds name -> {path: bytes}; `asked` every path that was asked for, so that a test can say what was not fetched.
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "c0ffee" + "0" * 34


class FakeHub:
    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []
        self.refuses = False
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub._read(self)

            def do_HEAD(self) -> None:
                hub._read(self)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                hub._write(self, body)

            def log_message(self, format: str, *args: Any) -> None:
                del format, args

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> "FakeHub":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _read(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.split("?")[0]
        self.asked.append(path)
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/[^/]+)?", path):
            if found[1] not in self.repos:
                return _send(handler, 404, {"error": "not found"})
            files = [{"rfilename": name} for name in sorted(self.repos[found[1]])]
            about = {"id": found[1], "modelId": found[1], "sha": COMMIT, "siblings": files, "private": False}
            return _send(handler, 200, about | {"tags": [], "downloads": 0, "likes": 0})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+", path):
            items = self.repos[found[1]].items()
            files = [{"type": "file", "path": n, "size": len(b), "oid": hashlib.sha1(b).hexdigest()} for n, b in items]
            return _send(handler, 200, files)
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            data = self.repos.get(found[1], {}).get(found[2])
            if data is None:
                return _send(handler, 404, {"error": "no such file"}, {"X-Error-Code": "EntryNotFound"})
            etag = hashlib.sha1(data).hexdigest()
            return _send(handler, 200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})
        return _send(handler, 404, {"error": f"the fake hub knows no {path}"})

    def _write(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        path = handler.path.split("?")[0]
        if self.refuses:
            return _send(handler, 401, {"error": "Invalid username or password."})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.repos.setdefault(name, {})
            return _send(handler, 200, {"url": f"{self.url}/{name}", "name": name})
        if re.fullmatch(r"/api/models/[^/]+/[^/]+/preupload/[^/]+", path):
            names = [f["path"] for f in json.loads(body)["files"]]
            modes = [{"path": n, "uploadMode": "regular", "shouldIgnore": False, "oid": None} for n in names]
            return _send(handler, 200, {"files": modes})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/[^/]+", path):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.repos[found[1]][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return _send(handler, 200, {"commitUrl": f"{self.url}/{found[1]}/commit/{COMMIT}", "commitOid": COMMIT})
        if path == "/api/validate-yaml":
            return _send(handler, 200, {"errors": [], "warnings": []})
        return _send(handler, 404, {"error": f"the fake hub knows no {path}"})


def _send(handler: BaseHTTPRequestHandler, code: int, body: Any, headers: dict[str, str] | None = None) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(code)
    kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
    for key, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}.items():
        handler.send_header(key, value)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(data)

"""The few answers of the Hugging Face hub that a push needs, on this machine."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Hub:
    """What was sent: `files` of each repository, `private` ones, `messages` of commits. `refuse`: a status for all."""

    def __init__(self) -> None:
        self.address = ""
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.messages: list[str] = []
        self.tokens: set[str | None] = set()
        self.refuse: int | None = None

    def answer(self, path: str, body: bytes) -> tuple[int, dict]:
        if self.refuse:
            return self.refuse, {"error": "you shall not push"}
        if path == "/api/validate-yaml":
            assert json.loads(body)["content"].startswith("---\n")
            return 200, {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            if repo in self.files:
                return 409, {"error": "exists", "url": f"{self.address}/{repo}"}
            self.files[repo] = {}
            if asked.get("private") or asked.get("visibility") == "private":
                self.private.add(repo)
            return 200, {"url": f"{self.address}/{repo}"}
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path)
        if found is None:
            return 404, {"error": f"there is no {path}"}
        repo, what = found.groups()
        if what == "preupload":
            named = [file["path"] for file in json.loads(body)["files"]]
            return 200, {"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in named]}
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "header":
                self.messages.append(line["value"]["summary"])
            else:
                self.files[repo][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return 200, {"commitUrl": f"{self.address}/{repo}/commit/1", "commitOid": "1"}


@contextlib.contextmanager
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub at HF_ENDPOINT and a token for it."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

        def do_POST(self) -> None:
            hub.tokens.add(self.headers.get("Authorization"))
            status, said = hub.answer(self.path, self.rfile.read(int(self.headers.get("Content-Length", 0))))
            content = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    endpoint = hub.address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    # the library reads its environment when it is imported
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()

"""The Hub, played on loopback: what huggingface_hub asks of it, and a store on another port that holds the files.

with Hub({"acme/small-GGUF": {"small-Q4_0.gguf": b"GGUF…"}}) as hub:
    … HF_ENDPOINT=hub.url …
    assert hub.asked == [("GET", "/api/models/acme/small-GGUF"), …]
"""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

COMMIT = "5a1f" * 10
TOKEN = "hf_goodfortests"


class Asked(NamedTuple):
    """One request that came: to the Hub (paths from /api or of a repository) or to its store (/store/…)."""

    method: str
    path: str
    range: str | None
    authorization: str | None


class Hub:
    """Repositories by id, each with its files by name. `gated` ones want TOKEN; `faults` are set by a test."""

    def __init__(self, repos, gated=()):
        self.repos = repos
        self.gated = set(gated)
        self.status = None  # answered to everything
        self.cut_after = None  # bytes of a transfer, and then the line is cut: taken once each
        self.damage = False  # the store sends other bytes than it says
        self.asked = []

    def __enter__(self):
        self._servers = [self._listen(_HubHandler), self._listen(_StoreHandler)]
        self.url, self.store = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)
        return self

    def __exit__(self, *_):
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def _listen(self, handler):
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads, server.hub = True, self
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def asked_of_store(self):
        return [one for one in self.asked if one.path.startswith("/store/")]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._take()

    def do_GET(self):
        self._take()

    def _take(self):
        self.hub = self.server.hub
        path = self.path.partition("?")[0]
        self.hub.asked.append(Asked(self.command, path, self.headers["Range"], self.headers["Authorization"]))
        if self.hub.status:
            self.send(self.hub.status, {"error": "played"})
        else:
            self.answer(path)

    def send(self, status, body, **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_):
        pass


class _HubHandler(_Handler):
    def answer(self, path):
        listing = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/.*)?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        repo = (listing or file or {1: None})[1]
        allowed = self.headers["Authorization"] == f"Bearer {TOKEN}"
        if self.headers["Authorization"] and not allowed:
            refused = {"X_Error_Message": "Invalid credentials in Authorization header"}
            return self.send(401, {"error": "Invalid credentials in Authorization header"}, **refused)
        if repo not in self.hub.repos:  # nobody is told which of the two it is
            return self.send(401, {"error": "Invalid username or password."}, X_Error_Code="RepoNotFound")
        files = self.hub.repos[repo]
        if listing:
            return self.send(200, _listing(repo, files))
        if repo in self.hub.gated and not allowed:
            message = f"Access to model {repo} is restricted and you are not in the authorized list."
            return self.send(403, {"error": message}, X_Error_Code="GatedRepo", X_Error_Message=message)
        if file[3] not in files:
            return self.send(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
        content = files[file[3]]
        return self.send(
            302,
            b"",
            Location=f"{self.hub.store}/store/{repo}/{file[3]}",
            X_Repo_Commit=COMMIT,
            X_Linked_Size=str(len(content)),
            X_Linked_ETag=f'"{hashlib.sha256(content).hexdigest()}"',
            ETag='"pointer"',
        )


class _StoreHandler(_Handler):
    def answer(self, path):
        org, repo, name = path.removeprefix("/store/").split("/", 2)
        content = self.hub.repos[f"{org}/{repo}"][name]
        start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1]) if self.headers["Range"] else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        cut, self.hub.cut_after = self.hub.cut_after, None
        sent = content[start : start + cut if cut else None]
        self.wfile.write(bytes(len(sent)) if self.hub.damage else sent)
        if cut:
            self.close_connection = True


def _listing(repo, files):
    siblings = [
        {
            "rfilename": name,
            "size": len(content),
            "blobId": "b" * 40,
            "lfs": {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134},
        }
        for name, content in files.items()
    ]
    return {"_id": "1", "id": repo, "modelId": repo, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings}


def put_tokenizer(home, model):
    """A tokenizer that takes each character for a token, where Hugging Face's tools would have put it."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = home / "hub" / f"models--{model.replace('/', '--')}" / "snapshots" / "0123abcd"
    folder.mkdir(parents=True)
    tokenizer = Tokenizer(models.WordLevel({chr(c): c for c in range(32, 127)} | {"?!": 200}, unk_token="?!"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"

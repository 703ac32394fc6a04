"""A small hub on localhost for the real huggingface_hub: what it asks of the real one, and faults.

A model repository OWNER/NAME is the folder of that name under the hub's folder, a dataset one lies
under `datasets/`. Files of 10 kB and more, and all safetensors, are stored beside git (LFS), as on
the real hub. Uploads write into the folder.
"""

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub
import pytest
from huggingface_hub import constants

LFS_FROM = 10_000
TOKEN = "hf_right"
_PIECE = 4096


@dataclass
class Faults:
    """What goes wrong; change it while the hub runs. Byte faults hit file bodies only.

    ``bytes_per_second``: slow. ``cut_after``: close the connection after so many bytes of a body,
    ``cuts`` times (-1: always). ``status``: answer everything with it, ``status_times`` times.
    ``gated``: names that answer 403. ``altered``, ``truncated``: file names that are sent with
    another first byte, or their last byte missing; the first ``altered_times`` times.
    ``ignore_range``: always send the whole file. ``cdn``: send LFS files from another host.
    ``reset``: refuse to answer at all. ``fail_upload_after``: take no more LFS files than these.
    ``upload_seconds``: how long it takes to take one.
    """

    bytes_per_second: float | None = None
    cut_after: int | None = None
    cuts: int = -1
    status: int | None = None
    status_times: int = -1
    gated: set[str] = field(default_factory=set)
    private: set[str] = field(default_factory=set)
    altered: set[str] = field(default_factory=set)
    altered_times: int = -1
    truncated: set[str] = field(default_factory=set)
    ignore_range: bool = False
    cdn: bool = False
    reset: bool = False
    fail_upload_after: int | None = None
    upload_seconds: float = 0.0


@dataclass(frozen=True)
class Request:
    """One request as it came in."""

    method: str
    path: str
    range: str | None
    token: str | None
    user_agent: str


class Hub:
    """The running hub: its address, its folder, its faults and what was asked of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults = Faults()
        self.requests: list[Request] = []
        self.bytes_sent = 0
        self.created: dict[str, bool] = {}
        """Repositories that clients created, and whether they are private."""
        self.objects: dict[str, bytes] = {}
        """Uploaded LFS contents by SHA-256."""
        self.commits: list[list[str]] = []
        """The names of the files of each commit that clients made."""
        self.server = _Server(("127.0.0.1", 0), _Handler)
        self.server.hub = self
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def requested(self, name: str, method: str = "GET") -> list[Request]:
        """The requests for a file."""
        return [r for r in self.requests if r.method == method and r.path.endswith("/" + name)]

    def revision(self, root: Path) -> str:
        """A commit hash that follows the content."""
        digest = hashlib.sha1()
        for path in _files(root):
            digest.update(f"{path.relative_to(root)} {_sha256(path)}".encode())
        return digest.hexdigest()


@contextmanager
def running_hub(folder: Path) -> Iterator[Hub]:
    """Serve ``folder`` until the end of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    hub = Hub(folder)
    thread = threading.Thread(target=hub.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.server.shutdown()
        hub.server.server_close()
        thread.join()


def connect(hub: Hub, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Make this process's huggingface_hub talk to the hub, with no token and no cache."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    huggingface_hub.close_session()


def environment(hub: Hub, home: Path) -> dict[str, str]:
    """The same for the environment of another process."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home / "huggingface"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": "",
        "NO_PROXY": "127.0.0.1",
    }


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: Hub

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that went away are no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *unused: Any) -> None:
        """Silent."""

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    # --- dispatch ---------------------------------------------------------------------------------

    def _serve(self) -> None:
        hub, faults = self.server.hub, self.server.hub.faults
        body = self._body()
        url = urlsplit(self.path)
        path = unquote(url.path)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        agent = self.headers.get("User-Agent", "")
        hub.requests.append(Request(self.command, path, self.headers.get("Range"), token, agent))
        if faults.reset:
            self.close_connection = True
            return
        if faults.status is not None and faults.status_times != 0:
            faults.status_times -= 1
            self._error(faults.status, None, "trouble")
            return
        if token is not None and token != TOKEN:
            self._error(401, None, "Invalid credentials in Authorization header")
            return
        if match := re.fullmatch(
            r"/api/(model|dataset)s/([^/]+/[^/]+)(?:/revision/([^/]+))?", path
        ):
            self._info(match[1], match[2], match[3], "blobs" in parse_qs(url.query))
        elif match := re.fullmatch(r"(?:/(datasets))?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve("dataset" if match[1] else "model", match[2], match[3], match[4])
        else:
            self._write(path, token, body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _root(self, kind: str, name: str) -> Path | None:
        """The folder of a repository that may be read, else None after the error was sent."""
        hub = self.server.hub
        root = hub.folder / ("datasets" if kind == "dataset" else "") / name
        authorized = TOKEN in self.headers.get("Authorization", "")
        hidden = name in hub.faults.private and not authorized
        if not root.is_dir() or hidden:
            self._error(401 if not authorized else 404, "RepoNotFound", "Repository not found")
            return None
        return root

    # --- reading ----------------------------------------------------------------------------------

    def _info(self, kind: str, name: str, revision: str | None, blobs: bool) -> None:
        if (root := self._root(kind, name)) is None:
            return
        commit = self.server.hub.revision(root)
        if revision not in (None, "main", commit):
            self._error(404, "RevisionNotFound", "Invalid rev id")
            return
        siblings = []
        for path in _files(root):
            sibling: dict[str, Any] = {"rfilename": str(path.relative_to(root))}
            if blobs:
                sibling |= {"size": path.stat().st_size, "blobId": _git_sha1(path)}
                if _is_lfs(path):
                    digest, size = _sha256(path), path.stat().st_size
                    sibling["lfs"] = {"sha256": digest, "size": size, "pointerSize": 130}
            siblings.append(sibling)
        private = self.server.hub.created.get(name, False)
        answer = {"id": name, "modelId": name, "sha": commit, "private": private}
        self._json(answer | {"siblings": siblings})

    def _resolve(self, kind: str, name: str, revision: str, file: str) -> None:
        faults = self.server.hub.faults
        if (root := self._root(kind, name)) is None:
            return
        if name in faults.gated:
            self._error(403, "GatedRepo", f"Access to model {name} is restricted")
            return
        commit = self.server.hub.revision(root)
        if revision not in ("main", commit):
            self._error(404, "RevisionNotFound", "Invalid rev id")
            return
        path = root / file
        if not path.is_file():
            self._error(404, "EntryNotFound", "Entry not found")
            return
        data = path.read_bytes()
        if file in faults.altered and faults.altered_times != 0:
            faults.altered_times -= 1
            data = bytes([data[0] ^ 1]) + data[1:]
        if file in faults.truncated:
            data = data[:-1]
        on_cdn = self.headers.get("Host", "").startswith("localhost")
        if faults.cdn and _is_lfs(path) and not on_cdn:
            port = self.server.server_address[1]
            self._answer(302, b"", {"Location": f"http://localhost:{port}{self.path}"})
            return
        etag = _sha256(path) if _is_lfs(path) else _git_sha1(path)
        self._send_file(data, {"ETag": f'"{etag}"', "X-Repo-Commit": commit})

    def _send_file(self, data: bytes, headers: dict[str, str]) -> None:
        faults = self.server.hub.faults
        start, stop, status = 0, len(data), 200
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted and not faults.ignore_range:
            start = int(wanted[1])
            stop = min(len(data), int(wanted[2]) + 1) if wanted[2] else len(data)
            if start >= len(data):
                self._error(416, None, "Range Not Satisfiable")
                return
            status = 206
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        if self.command != "HEAD":
            self._send_body(data[start:stop])

    def _send_body(self, data: bytes) -> None:
        hub, faults = self.server.hub, self.server.hub.faults
        sent = 0
        while sent < len(data):
            piece = data[sent : sent + _PIECE]
            if (
                faults.cut_after is not None
                and faults.cuts
                and sent + len(piece) > faults.cut_after
            ):
                hub.bytes_sent += faults.cut_after - sent
                self.wfile.write(piece[: faults.cut_after - sent])
                self.wfile.flush()
                faults.cuts -= 1
                self.close_connection = True
                return
            sent += len(piece)
            # Before they go: a client that has them all may look at once.
            hub.bytes_sent += len(piece)
            self.wfile.write(piece)
            if faults.bytes_per_second:
                time.sleep(len(piece) / faults.bytes_per_second)

    # --- writing ----------------------------------------------------------------------------------

    def _write(self, path: str, token: str | None, body: bytes) -> None:
        hub, faults = self.server.hub, self.server.hub.faults
        if path.startswith("/upload/"):  # as a storage service: the address is the permission
            if (
                faults.fail_upload_after is not None
                and len(hub.objects) >= faults.fail_upload_after
            ):
                self._error(403, None, "upload refused")
                return
            time.sleep(faults.upload_seconds)
            oid = path.removeprefix("/upload/")
            if hashlib.sha256(body).hexdigest() != oid:
                self._error(400, None, "the content is not what its hash says")
                return
            hub.objects[oid] = body
            self._json({})
        elif token is None:
            self._error(401, None, "Invalid username or password.")
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
            self._preupload(match[1], json.loads(body))
        elif re.fullmatch(r"/[^/]+/[^/]+\.git/info/lfs/objects/batch", path):
            self._batch(json.loads(body))
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            self._commit(match[1], [json.loads(line) for line in body.splitlines()])
        else:
            self._error(404, None, f"no such page: {path}")

    def _create(self, wanted: dict[str, Any]) -> None:
        hub = self.server.hub
        name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        if (hub.folder / name).is_dir():
            self._json({"url": f"{hub.url}/{name}"}, 409)
            return
        (hub.folder / name).mkdir(parents=True)
        hub.created[name] = wanted.get("visibility") == "private" or wanted.get("private") is True
        self._json({"url": f"{hub.url}/{name}", "id": name})

    def _preupload(self, name: str, wanted: dict[str, Any]) -> None:
        root = self.server.hub.folder / name
        answers = []
        for file in wanted["files"]:
            lfs = file["path"].endswith(".safetensors") or file["size"] >= LFS_FROM
            there = root / file["path"]
            oid = None
            if there.is_file():
                oid = _sha256(there) if _is_lfs(there) else _git_sha1(there)
            mode = "lfs" if lfs else "regular"
            answers.append(
                {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid}
            )
        self._json({"files": answers})

    def _batch(self, wanted: dict[str, Any]) -> None:
        hub = self.server.hub
        objects = []
        for item in wanted["objects"]:
            answer = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in hub.objects:
                answer["actions"] = {"upload": {"href": f"{hub.url}/upload/{item['oid']}"}}
            objects.append(answer)
        self._json({"transfer": "basic", "objects": objects})

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        hub = self.server.hub
        names = []
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "lfsFile":
                content = hub.objects[value["oid"]]
            else:
                content = base64.b64decode(value["content"])
            (hub.folder / name / value["path"]).write_bytes(content)
            names.append(value["path"])
        hub.commits.append(names)
        commit = hub.revision(hub.folder / name)
        self._json({"commitUrl": f"{hub.url}/{name}/commit/{commit}", "commitOid": commit})

    # --- answers ----------------------------------------------------------------------------------

    def _json(self, value: Any, status: int = 200) -> None:
        self._answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str | None, message: str) -> None:
        headers = {"X-Error-Message": message, "Content-Type": "application/json"}
        if code:
            headers["X-Error-Code"] = code
        self._answer(status, json.dumps({"error": message}).encode(), headers)

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def _is_lfs(path: Path) -> bool:
    return path.suffix == ".safetensors" or path.stat().st_size >= LFS_FROM


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _git_sha1(path: Path) -> str:
    data = path.read_bytes()
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()

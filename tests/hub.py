"""A local stand-in for the Hugging Face Hub: the part of its HTTP API that huggingface_hub calls."""

import base64
import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

import pytest


class Hub:
    """Repositories: name -> {revision: {file: bytes}}; `requests` are those that came, as (method, path).

    `objects` are uploaded files by their hash; None refuses uploads.
    """

    def __init__(self):
        self.repositories, self.private, self.gated, self.objects = {}, set(), set(), {}
        self.requests, self.commits, self.token = [], [], "hf_right"

    def add(self, name, folder, revision="main"):
        """Puts a folder's files into a repository."""
        files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        self.repositories.setdefault(name, {})[revision] = files

    def sha(self, name, revision):
        files = self.repositories[name][revision]
        state = hashlib.sha1(name.encode())
        for path in sorted(files):
            state.update(path.encode() + files[path])
        return state.hexdigest()

    def find(self, name, revision):
        """(commit, files) of a revision or commit, None where there is none."""
        for known in self.repositories[name]:
            if revision in (known, self.sha(name, known)):
                return self.sha(name, known), self.repositories[name][known]
        return None

    def downloads(self):
        """The files that were sent."""
        return [path.split("/resolve/")[1].split("/", 1)[1] for method, path in self.requests
            if method == "GET" and "/resolve/" in path]  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        """Nothing is printed."""

    def do_HEAD(self):
        self._get()

    def do_GET(self):
        self._get()

    def do_POST(self):
        self._post()

    def do_PUT(self):
        data = self._body()
        if self.hub.objects is None:
            self._answer(400, {"error": "no space"})
            return
        self.hub.objects[self.path.rpartition("/")[2]] = data
        self._answer(200, {})

    @property
    def hub(self):
        return self.server.hub

    def _body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, status, value=None, data=None, **headers):
        data = json.dumps(value).encode() if data is None else data
        self.send_response(status)
        for name, text in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _is_known(self, name):
        """Whether the repository is there and may be read; answers where it may not."""
        authorized = self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        if name in self.hub.gated and not authorized:
            self._answer(403, {"error": "gated"}, X_Error_Code="GatedRepo")
        elif name not in self.hub.repositories or (name in self.hub.private and not authorized):
            self._answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        else:
            return True
        return False

    def _get(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        if path.startswith(("/api/models/", "/api/datasets/")):
            name, _, rest = path.removeprefix("/api/").removeprefix("models/").partition("/revision/")
            name, _, tree = name.partition("/tree/")
            tree, _, folder = tree.partition("/")
            if not self._is_known(name):
                return
            found = self.hub.find(name, rest or tree or "main")
            if found is None:
                self._answer(404, {"error": "no revision"}, X_Error_Code="RevisionNotFound")
            elif tree and folder and not any(file.startswith(f"{folder}/") for file in found[1]):
                self._answer(404, {"error": "no entry"}, X_Error_Code="EntryNotFound")
            elif tree:
                recursive = "recursive=true" in self.path.lower()
                self._answer(200, self._tree(found[1], f"{folder}/" if folder else "", recursive))
            else:
                names = [{"rfilename": file} for file in found[1]]
                self._answer(200, {"id": name, "modelId": name, "sha": found[0], "siblings": names, "private": False,
                    "tags": [], "downloads": 0, "likes": 0})  # fmt: skip
            return
        name, _, rest = path.lstrip("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        if not self._is_known(name):
            return
        found = self.hub.find(name, revision)
        if found is None or file not in found[1]:
            self._answer(404, {"error": "no entry"}, X_Error_Code="EntryNotFound")
            return
        etag = f'"{self._entry(file, found[1][file])["oid"]}"'
        self._answer(200, data=found[1][file], ETag=etag, X_Repo_Commit=found[0])

    def _tree(self, files, folder, recursive):
        """The files and folders of a folder, and with `recursive` those below it."""
        below = {file for file in files if file.startswith(folder)}
        folders = {str(up) for file in below for up in PurePosixPath(file).parents} - {
            ".",
            folder.rstrip("/"),
        }
        made = {
            one: {"type": "directory", "path": one, "size": 0, "oid": "0"}
            for one in folders
            if one.startswith(folder)
        }
        made |= {file: self._entry(file, files[file]) for file in below}
        return [
            one for path, one in sorted(made.items()) if recursive or "/" not in path.removeprefix(folder)
        ]

    @staticmethod
    def _entry(file, data):
        oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        return {"type": "file", "path": file, "size": len(data), "oid": oid}

    def _post(self):
        path, body = unquote(urlsplit(self.path).path), self._body()
        self.hub.requests.append(("POST", path))
        if "/paths-info/" in path:
            name, _, revision = path.removeprefix("/api/").removeprefix("models/").partition("/paths-info/")
            if self._is_known(name) and (found := self.hub.find(name, revision)):
                wanted = parse_qs(body.decode()).get("paths") or json.loads(body)["paths"]
                self._answer(200, [self._entry(one, found[1][one]) for one in wanted if one in found[1]])
            return
        if path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
            return
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self._answer(401, {"error": "Invalid credentials"})
            return
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = "/".join(filter(None, (wanted.get("organization"), wanted["name"])))
            there = name in self.hub.repositories
            self.hub.repositories.setdefault(name, {"main": {}})
            if wanted.get("private") or wanted.get("visibility") == "private":
                self.hub.private.add(name)
            self._answer(409 if there else 200, {"url": f"http://{self.headers['Host']}/{name}", "id": name})
        elif "/preupload/" in path:
            modes = [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]  # fmt: skip
            self._answer(200, {"files": modes})
        elif path.endswith("/info/lfs/objects/batch"):
            host = self.headers["Host"]
            objects = [
                {**one, "actions": {"upload": {"href": f"http://{host}/lfs/{one['oid']}", "header": {}}}}
                for one in json.loads(body)["objects"]
            ]
            self._answer(200, {"transfer": "basic", "objects": objects})
        elif "/commit/" in path:
            self._commit(path.removeprefix("/api/models/").split("/commit/")[0], body)
        else:
            self._answer(404, {"error": path})

    def _commit(self, name, body):
        files = self.hub.repositories[name]["main"]
        for line in body.decode().splitlines():
            change = json.loads(line)
            key, value = change["key"], change["value"]
            if key == "header":
                self.hub.commits.append(value["summary"])
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        oid = self.hub.sha(name, "main")
        url = f"http://{self.headers['Host']}/{name}/commit/{oid}"
        self._answer(200, {"success": True, "commitOid": oid, "commitUrl": url})


def set_endpoint(patch, address):
    """Has huggingface_hub call another address; what it reads of HF_ENDPOINT it reads as it is imported."""
    from huggingface_hub import constants

    patch.setattr(constants, "ENDPOINT", address)
    files = address + "/{repo_id}/resolve/{revision}/{filename}"
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)


@contextlib.contextmanager
def serve(cache):
    """The stand-in as huggingface_hub's endpoint, with an empty cache and no token."""
    from huggingface_hub import constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.hub, server.daemon_threads = Hub(), True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        set_endpoint(patch, f"http://127.0.0.1:{server.server_port}")
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            patch.delenv(name, raising=False)
        try:
            yield server.hub
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


@pytest.fixture
def hub(tmp_path):
    """A Hub of this test."""
    pytest.importorskip("huggingface_hub")
    with serve(tmp_path / "hub-cache") as standin:
        yield standin

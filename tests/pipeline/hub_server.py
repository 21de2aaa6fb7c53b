"""A small Hub on loopback: the routes that `huggingface_hub` uses to publish and to read, kept in
memory, failing on command.

It keeps what the real one promises and publishing relies on: a commit is whole or absent, a
`parentCommit` that is not the head is refused, contents of large files are uploaded once whatever
they are called, and storage answers under other addresses than the repository. Xet storage is not
served: clients run with HF_HUB_DISABLE_XET=1.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LFS_ENDINGS = (".parquet", ".safetensors", ".bin")


@dataclass
class Blob:
    """A file's content, kept in git or in large file storage."""

    data: bytes
    is_lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def git_sha1(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()

    def entry(self, path: str) -> dict[str, Any]:
        """As the Hub lists it."""
        lfs = (
            {"lfs": {"oid": self.sha256, "size": len(self.data), "pointerSize": 134}}
            if self.is_lfs
            else {}
        )
        return {"type": "file", "path": path, "size": len(self.data), "oid": self.git_sha1, **lfs}


@dataclass
class Commit:
    oid: str
    message: str
    files: dict[str, Blob]


@dataclass
class Repo:
    is_private: bool
    commits: list[Commit] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, message: str, files: dict[str, Blob]) -> Commit:
        """Adds a commit that holds `files` and nothing else."""
        made = Commit(
            hashlib.sha1(f"{len(self.commits)} {message} {sorted(files)}".encode()).hexdigest(),
            message,
            files,
        )
        self.commits.append(made)
        return made

    def at(self, revision: str) -> Commit | None:
        oid = self.commits[-1].oid if revision == "main" else self.tags.get(revision, revision)
        return next((commit for commit in self.commits if commit.oid == oid), None)


@dataclass
class Hub:
    """The server's content, what it was asked, and how it is to misbehave."""

    token: str = "hf_test_token_that_must_appear_nowhere"
    may_write: bool = True
    says: str = "You need write access"  # to who may not
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)  # by ("dataset", "org/name")
    stored: dict[str, bytes] = field(default_factory=dict)  # large file storage, by sha256
    uploads: list[str] = field(default_factory=list)  # sha256 of each content that arrived whole
    requests: list[str] = field(default_factory=list)
    # storage answers 403, as it does when an address has expired
    refuse_uploads_after: int | None = None
    hang_uploads_after: int | None = None  # reads half of the content and then nothing more
    drop_next_upload: bool = False  # closes the connection in the middle, once
    # runs when a commit arrives, before it is looked at
    before_commit: Callable[[], object] | None = None
    after_commit: Callable[[Commit], object] | None = None
    released: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def repo(self, name: str, kind: str = "dataset") -> Repo:
        return self.repos[kind, name]


def serve(hub: Hub) -> ThreadingHTTPServer:
    """Starts serving `hub` on a free port, and tells it its address; `shutdown()` ends that."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


REPO = r"/api/(?P<kind>dataset|model)s/(?P<name>[^/]+/[^/]+)"
FILES = r"/(?P<prefix>datasets/)?(?P<name>[^/]+/[^/]+)"
ROUTES = (
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/validate-yaml", "validate_yaml"),
    ("POST", r"/api/repos/create", "create"),
    ("GET", REPO + r"(/revision/(?P<revision>[^/]+))?", "info"),
    ("GET", REPO + r"/refs", "refs"),
    ("GET", REPO + r"/tree/(?P<revision>[^/]+)(/(?P<path>.+))?", "tree"),
    ("POST", REPO + r"/paths-info/(?P<revision>[^/]+)", "paths_info"),
    ("POST", REPO + r"/preupload/(?P<revision>[^/]+)", "preupload"),
    ("POST", REPO + r"/commit/(?P<revision>[^/]+)", "commit"),
    ("POST", REPO + r"/tag/(?P<revision>[^/]+)", "tag"),
    ("POST", FILES + r"\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", r"/storage/(?P<oid>[0-9a-f]{64})", "lfs_upload"),
    ("GET", FILES + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
    ("HEAD", FILES + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
)
# What may be asked for without a token, as the real storage's addresses are signed themselves.
OPEN = ("lfs_upload", "validate_yaml")


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    # headers and body in one packet: two would wait for each other's acknowledgement, 40 ms per
    # answer
    wbufsize = -1

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        path, self.query = unquote(address.path), parse_qs(address.query)
        self.hub.requests.append(f"{self.command} {path}")
        for method, pattern, name in ROUTES:
            found = re.fullmatch(pattern, path) if method == self.command else None
            if found:
                # Read before any answer, or the next request on this connection would begin with
                # it.
                self.content = b"" if name == "lfs_upload" else self.body()
                given = {
                    key: value for key, value in found.groupdict().items() if value is not None
                }
                if (
                    name not in OPEN
                    and self.headers.get("Authorization") != f"Bearer {self.hub.token}"
                ):
                    self.answer(
                        401,
                        {"error": "Invalid username or password."},
                        {"X-Error-Message": "Invalid credentials in Authorization header"},
                    )
                    return
                getattr(self, name)(**given)
                return
        self.answer(404, {"error": f"no such route: {self.command} {path}"})

    do_POST = do_PUT = do_HEAD = do_GET

    def body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(
        self,
        status: int,
        value: Any = None,
        headers: dict[str, str] | None = None,
        data: bytes | None = None,
    ) -> None:
        content = json.dumps(value).encode() if data is None else data
        self.send_response(status)
        for key, text in {
            "Content-Length": str(len(content)),
            "Content-Type": "application/json",
            **(headers or {}),
        }.items():
            self.send_header(key, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def found(self, kind: str, name: str) -> Repo | None:
        repo = self.hub.repos.get((kind, name))
        if repo is None:
            self.answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        return repo

    def found_commit(self, kind: str, name: str, revision: str) -> tuple[Repo, Commit] | None:
        repo = self.found(kind, name)
        commit = repo.at(revision) if repo else None
        if repo and commit is None:
            self.answer(404, {"error": "Revision not found"}, {"X-Error-Code": "RevisionNotFound"})
        return (repo, commit) if repo and commit else None

    def refused_to_write(self) -> bool:
        if not self.hub.may_write:
            self.answer(403, {"error": self.hub.says}, {"X-Error-Message": self.hub.says})
        return not self.hub.may_write

    def whoami(self) -> None:
        self.answer(
            200, {"type": "user", "name": "tester", "orgs": [], "auth": {"type": "access_token"}}
        )

    def validate_yaml(self) -> None:
        header = yaml.safe_load(json.loads(self.content)["content"].split("---\n")[1])
        good = isinstance(header, dict) and (
            "license_name" in header or header.get("license") != "other"
        )
        self.answer(
            200 if good else 400,
            {"errors": [] if good else [{"message": '"license_name" is required'}], "warnings": []},
        )

    def create(self) -> None:
        asked = json.loads(self.content)
        kind, name = asked.get("type", "model"), f"{asked['organization']}/{asked['name']}"
        if self.refused_to_write():
            return
        if (kind, name) in self.hub.repos:
            self.answer(409, {"error": f"You already created this {kind} repo"})
            return
        repo = self.hub.repos[kind, name] = Repo(asked.get("visibility") == "private")
        repo.commit(
            "initial commit", {".gitattributes": Blob(b"*.parquet filter=lfs\n", is_lfs=False)}
        )
        self.answer(
            200,
            {
                "url": f"{self.hub.url}/{'datasets/' if kind == 'dataset' else ''}{name}",
                "name": name,
            },
        )

    def info(self, kind: str, name: str, revision: str = "main") -> None:
        if found := self.found_commit(kind, name, revision):
            repo, commit = found
            siblings = [{"rfilename": path} for path in commit.files]
            self.answer(
                200,
                {
                    "id": name,
                    "sha": commit.oid,
                    "private": repo.is_private,
                    "tags": [],
                    "siblings": siblings,
                    "downloads": 0,
                },
            )

    def refs(self, kind: str, name: str) -> None:
        if repo := self.found(kind, name):
            tags = [
                {"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": oid}
                for tag, oid in repo.tags.items()
            ]
            main = {"name": "main", "ref": "refs/heads/main", "targetCommit": repo.commits[-1].oid}
            self.answer(200, {"branches": [main], "converts": [], "tags": tags})

    def tree(self, kind: str, name: str, revision: str, path: str = "") -> None:
        if not (found := self.found_commit(kind, name, revision)):
            return
        inside = f"{path}/" if path else ""
        below = {file: blob for file, blob in found[1].files.items() if file.startswith(inside)}
        if not below:
            self.answer(404, {"error": "no such folder"}, {"X-Error-Code": "EntryNotFound"})
            return
        is_recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        folders = {
            file[: index.start()]
            for file in below
            for index in re.finditer("/", file)
            if index.start() >= len(inside)
        }
        entries = [blob.entry(file) for file, blob in below.items()] + [
            self.folder(folder) for folder in folders
        ]
        self.answer(
            200,
            [
                entry
                for entry in entries
                if is_recursive or "/" not in entry["path"].removeprefix(inside)
            ],
        )

    @staticmethod
    def folder(path: str) -> dict[str, Any]:
        return {
            "type": "directory",
            "path": path,
            "size": 0,
            "oid": hashlib.sha1(path.encode()).hexdigest(),
        }

    def paths_info(self, kind: str, name: str, revision: str) -> None:
        asked = (
            parse_qs(self.content.decode())
            if "json" not in self.headers.get("Content-Type", "")
            else json.loads(self.content)
        )
        if found := self.found_commit(kind, name, revision):
            files, entries = found[1].files, []
            for path in asked["paths"]:
                if path in files:
                    entries.append(files[path].entry(path))
                elif any(file.startswith(f"{path}/") for file in files):
                    entries.append(self.folder(path))
            self.answer(200, entries)

    def preupload(self, kind: str, name: str, revision: str) -> None:
        asked = json.loads(self.content)["files"]
        if self.refused_to_write() or not (found := self.found_commit(kind, name, revision)):
            return
        files = []
        for file in asked:
            path, there = file["path"], found[1].files.get(file["path"])
            known = {"oid": there.sha256 if there.is_lfs else there.git_sha1} if there else {}
            files.append(
                {
                    "path": path,
                    "uploadMode": "lfs" if path.endswith(LFS_ENDINGS) else "regular",
                    "shouldIgnore": False,
                    **known,
                }
            )
        self.answer(200, {"files": files})

    def lfs_batch(self, **_: str) -> None:
        objects = json.loads(self.content)["objects"]
        for item in objects:
            if item["oid"] not in self.hub.stored:
                item["actions"] = {"upload": {"href": f"{self.hub.url}/storage/{item['oid']}"}}
        self.answer(200, {"transfer": "basic", "objects": objects})

    def lfs_upload(self, oid: str) -> None:
        hub, size = self.hub, int(self.headers.get("Content-Length", 0))
        if hub.drop_next_upload:
            hub.drop_next_upload = False
            self.rfile.read(size // 2)
            self.connection.close()
            self.close_connection = True
            return
        if hub.hang_uploads_after is not None and len(hub.uploads) >= hub.hang_uploads_after:
            self.rfile.read(size // 2)
            hub.released.wait()
            self.close_connection = True
            return
        data = self.body()
        if hub.refuse_uploads_after is not None and len(hub.uploads) >= hub.refuse_uploads_after:
            self.answer(
                403,
                data=(
                    b"<Error><Code>AccessDenied</Code><Message>Request has"
                    b" expired</Message></Error>"
                ),
            )
        elif hashlib.sha256(data).hexdigest() != oid:
            self.answer(400, {"error": "the content is not what its name says"})
        else:
            hub.stored[oid] = data
            hub.uploads.append(oid)
            self.answer(200, {})

    def commit(self, kind: str, name: str, revision: str) -> None:
        lines = [json.loads(line) for line in self.content.splitlines()]
        if self.hub.before_commit:
            self.hub.before_commit()
        if self.refused_to_write() or not (found := self.found_commit(kind, name, revision)):
            return
        repo, head = found
        header, *operations = [(line["key"], line["value"]) for line in lines]
        if header[1].get("parentCommit", head.oid) != head.oid:
            self.answer(
                412, {"error": "A commit has happened since. Please refresh and try again."}
            )
            return
        files = dict(head.files)
        for key, value in operations:
            if key == "deletedFile" and value["path"] in files:
                del files[value["path"]]
            elif key == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), is_lfs=False)
            elif key == "lfsFile" and value["oid"] in self.hub.stored:
                files[value["path"]] = Blob(self.hub.stored[value["oid"]], is_lfs=True)
            else:
                self.answer(400, {"error": f"{key} {value.get('path')}: cannot be done"})
                return
        made = repo.commit(header[1]["summary"], files)
        if self.hub.after_commit:
            self.hub.after_commit(made)
        self.answer(
            200,
            {
                "success": True,
                "commitOid": made.oid,
                "commitUrl": f"{self.hub.url}/{name}/commit/{made.oid}",
            },
        )

    def tag(self, kind: str, name: str, revision: str) -> None:
        tag = json.loads(self.content)["tag"]
        if self.refused_to_write() or not (found := self.found_commit(kind, name, revision)):
            return
        if tag in found[0].tags:
            self.answer(409, {"error": "Tag reference exists already"})
            return
        found[0].tags[tag] = found[1].oid
        self.answer(200, {})

    def resolve(self, name: str, revision: str, path: str, prefix: str = "") -> None:
        if not (found := self.found_commit("dataset" if prefix else "model", name, revision)):
            return
        blob = found[1].files.get(path)
        if blob is None:
            self.answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        etag = blob.sha256 if blob.is_lfs else blob.git_sha1
        headers = {
            "X-Repo-Commit": found[1].oid,
            "ETag": f'"{etag}"',
            "Content-Type": "application/octet-stream",
            "Accept-Ranges": "bytes",
        }
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked:
            start, stop = int(asked[1]), min(int(asked[2] or len(blob.data)) + 1, len(blob.data))
            self.answer(
                206,
                headers=headers | {"Content-Range": f"bytes {start}-{stop - 1}/{len(blob.data)}"},
                data=blob.data[start:stop],
            )
        else:
            self.answer(200, headers=headers, data=blob.data)

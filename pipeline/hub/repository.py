"""A repository on the Hub: what its head holds, one commit upon that head, a tag.

Knows no data sets.

The Hub is the one that HF_ENDPOINT names. The token comes from HF_TOKEN or the login file, and no
message repeats it.
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.core.progress import Progress
from pipeline.core.recipe import UserError
from pipeline.core.storage import sha256_file

Kind = Literal["dataset", "model"]
Content = Path | bytes

_UPLOADING = (
    "nothing was published; what is uploaded is kept, and the same command goes on from there"
)
# The answer to a commit can get lost, or be an error, although the commit was made.
_COMMITTING = "run the same command again, it sees whether the commit was made"


class HubError(UserError):
    """The Hub does not do what was asked; the message says what is the case there now."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file at a commit.

    Large ones are known by sha256, small ones by the name that git gives their content.
    """

    size: int
    sha256: str | None
    git_sha1: str

    def holds(self, content: Content) -> bool:
        """Whether this is what the file holds."""
        if self.size != content_size(content):
            return False
        if self.sha256 is not None:
            return self.sha256 == (
                hashlib.sha256(content).hexdigest()
                if isinstance(content, bytes)
                else sha256_file(content)
            )
        data = content if isinstance(content, bytes) else content.read_bytes()
        blob = b"blob %d\0" % len(data) + data
        return self.git_sha1 == hashlib.sha1(blob, usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Head:
    """The newest commit of the main branch: its name, files and tags.

    Tags come with the commits they name.
    """

    commit: str
    is_private: bool
    files: Mapping[str, RemoteFile] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


def content_size(content: Content) -> int:
    """Bytes of a file to be pushed."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


class HubRepository:
    """One repository and the right to write into it.

    Raises:
        HubError: No token, or one that the Hub does not accept. So do all methods, where the Hub
            refuses or cannot be reached.
    """

    def __init__(self, repo: str, kind: Kind) -> None:
        from huggingface_hub import HfApi, constants, get_token

        # Read at each call, not when the library was imported.
        self.endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        self.repo, self.kind = repo, kind
        self._token = get_token() or ""
        if not self._token:
            raise HubError(
                "no Hub token: set HF_TOKEN, or log in with `hf auth login`; it needs write access"
            )
        self._api: Any = HfApi(endpoint=self.endpoint, token=self._token)
        self._where = {"repo_id": repo, "repo_type": kind}
        with self._in_words("asking whose token this is"):
            self._api.whoami()

    @property
    def url(self) -> str:
        """Where a person looks at it."""
        return f"{self.endpoint}/{'datasets/' if self.kind == 'dataset' else ''}{self.repo}"

    def head(self) -> Head | None:
        """The newest commit; None where there is no repository that this token may see."""
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            with self._in_words("asking for the repository"):
                info = self._api.repo_info(**self._where)
                tags = {
                    tag.name: tag.target_commit
                    for tag in self._api.list_repo_refs(**self._where).tags
                }
                return Head(info.sha, bool(info.private), self.files(info.sha), tags)
        except HubError as error:
            if isinstance(error.__cause__, RepositoryNotFoundError):
                return None
            raise

    def create(self, *, is_private: bool) -> Head:
        """Makes the repository, and returns its first commit."""
        with self._in_words("making the repository"):
            self._api.create_repo(**self._where, private=is_private)
        head = self.head()
        if head is None:
            raise HubError(
                f"{self.repo}: was made, but this token may not see it; give it read access"
            )
        return head

    def files(self, commit: str) -> dict[str, RemoteFile]:
        """The files at a commit, by path."""
        with self._in_words("listing the files"):
            entries = list(self._api.list_repo_tree(**self._where, recursive=True, revision=commit))
        return {
            entry.path: RemoteFile(
                entry.size, entry.lfs.sha256 if entry.lfs else None, entry.blob_id
            )
            for entry in entries
            if hasattr(entry, "size")  # folders have none
        }

    def push(
        self, added: Mapping[str, Content], removed: Sequence[str], *, onto: str, message: str
    ) -> str:
        """Uploads `added`, then makes one commit of everything; returns its name.

        It goes upon the commit `onto`.

        File by file, so that a run that was interrupted finds those it finished: the Hub tells
        which contents it has. Until the commit nothing of it can be seen; if somebody committed
        since `onto`, nothing is changed.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        operations = [CommitOperationAdd(path, content) for path, content in added.items()]
        with Progress("upload", len(operations), "files") as progress:
            for operation in operations:
                with self._in_words(f"uploading {operation.path_in_repo}", _UPLOADING):
                    self._api.preupload_lfs_files(self.repo, [operation], repo_type=self.kind)
                progress.advance(1, file=operation.path_in_repo)
        operations += [CommitOperationDelete(path) for path in removed]
        with self._in_words("committing", _COMMITTING):
            commit = self._api.create_commit(
                **self._where, operations=operations, commit_message=message, parent_commit=onto
            )
        return str(commit.oid)

    def read(self, path: str, commit: str) -> bytes:
        """A small file as anybody would download it."""
        with tempfile.TemporaryDirectory() as folder, self._in_words(f"downloading {path}"):
            return Path(
                self._api.hf_hub_download(
                    self.repo, path, repo_type=self.kind, revision=commit, local_dir=folder
                )
            ).read_bytes()

    def tag(self, name: str, commit: str) -> None:
        """Names a commit."""
        with self._in_words(f"making the tag {name}", "the files are published, without it"):
            self._api.create_tag(**self._where, tag=name, revision=commit)

    @contextlib.contextmanager
    def _in_words(self, doing: str, state: str = "") -> Iterator[None]:
        """What fails inside becomes one sentence, without the token.

        `state` tells how things stand then.
        """
        # httpx's, of whichever version the library uses
        from huggingface_hub.errors import HTTPError

        try:
            yield
        except HubError:
            raise
        # The library wraps what fails in a thread as RuntimeError, and a header that the Hub
        # refuses as ValueError.
        except (HTTPError, OSError, RuntimeError, ValueError) as error:
            raise HubError(self._explained(error, doing, state)) from error

    def _explained(self, error: BaseException, doing: str, state: str) -> str:
        cause: BaseException | None = error
        while cause is not None and not hasattr(cause, "response"):
            cause = cause.__cause__
        status = getattr(getattr(cause, "response", None), "status_code", None)
        said = " ".join(
            str(getattr(cause, "server_message", None) or error)
            .replace(self._token, "(token)")
            .split()
        )
        if status == 412:
            return (
                f"{self.repo}: somebody else committed there meanwhile, so nothing was published;"
                " look at it, and run the command again"
            )
        if status == 401:
            return (
                f"{self.endpoint}: does not accept the Hub token ({doing}); set another HF_TOKEN,"
                " or log in with `hf auth login`"
            )
        # Storage answers 403 too, to an address that has expired; only what the Hub itself says is
        # about the token.
        if status == 403 and cause is error:
            return (
                f"{self.repo}: the Hub token may not do that ({doing}: {said}); give it write"
                " access, or choose another --repo"
            )
        answer = f"the Hub answered {status}" if status else "the Hub could not be reached"
        return f"{self.repo}: {doing} failed, {answer} ({said.rstrip('.')[:400]})" + (
            f"; {state}" if state else ""
        )

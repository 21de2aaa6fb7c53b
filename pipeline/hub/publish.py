"""`svco publish`: a repository on the Hub, in one commit or not at all.

What is published is an MVC folder, or a finetuned model.
"""

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.progress import say, summary_table
from pipeline.core.recipe import UserError, absolute_path, has_hub_form
from pipeline.core.storage import LOCK, Owner, only_one, remove_stale
from pipeline.hub.repository import Head, HubError, HubRepository, RemoteFile, content_size
from pipeline.hub.upload_plan import UploadPlan, plan_upload

OWNER = Owner("dry run of svco publish", (".svco-publish",))
# Nobody edits these in place, so a dry run need not copy them.
_LARGE = (".parquet", ".safetensors")
_VERSION = re.compile(r"v(\d+)")


def publish(
    upload: UploadPlan, repo: str, *, is_public: bool = False, tag: str | None = None
) -> tuple[str, str]:
    """Makes the repository hold the upload, in one commit with a tag; returns commit and tag.

    A new repository is private unless `is_public`; one that is there stays what it is. Where it
    holds everything already, no commit is made: so the same command, run again after any failure,
    ends what it began.

    Raises:
        HubError: Refused, unreachable, changed by somebody else meanwhile, or not holding
            afterwards what was pushed.
    """
    repository = HubRepository(repo, upload.kind)
    head = repository.head()
    if head is None:
        head = repository.create(is_private=not is_public)
        say(f"{repository.url}: new, {'public' if is_public else 'private'}")
    elif is_public and head.is_private:
        say(f"{repository.url}: is private and stays so; its settings page makes it public")
    operations = file_operations(upload, head.files)
    changed = [path for path, what in operations.items() if what in ("add", "replace")]
    stale = [path for path, what in operations.items() if what == "remove"]
    version = choose_tag(head, tag, is_new=bool(changed or stale))
    commit = head.commit
    if changed or stale:
        print_operations(upload, operations)
        message = f"Publish {version} with the S-VCO toolkit"
        commit = repository.push(
            {path: upload.files[path] for path in changed}, stale, onto=head.commit, message=message
        )
    else:
        say(f"{repository.url}: holds all of it already")
    verify(repository, upload, commit)
    if version not in head.tags:
        repository.tag(version, commit)
    return commit, version


def file_operations(upload: UploadPlan, there: Mapping[str, RemoteFile]) -> dict[str, str]:
    """What is done with each path: add, replace, keep, or remove.

    To keep is what the repository holds already; what is removed is of an earlier version.
    """
    operations = {
        path: "add" if path not in there else "keep" if there[path].holds(content) else "replace"
        for path, content in upload.files.items()
    }
    return operations | dict.fromkeys(upload.stale(there), "remove")


def choose_tag(head: Head, given: str | None, *, is_new: bool) -> str:
    """The version's tag.

    The one given, else the one that names this content already, else the next of v1, v2, ..

    Raises:
        HubError: The given tag names another commit.
    """
    here = sorted(
        name for name, commit in head.tags.items() if commit == head.commit and not is_new
    )
    if given and given in head.tags and given not in here:
        raise HubError(f"tag {given!r} names an earlier version there; give another --tag, or none")
    numbers = [int(match[1]) for name in head.tags if (match := _VERSION.fullmatch(name))]
    return given or next(iter(here), f"v{max(numbers, default=0) + 1}")


def verify(repository: HubRepository, upload: UploadPlan, commit: str) -> None:
    """Reads back what the commit holds: sizes and checksums of all files, and one file whole.

    Raises:
        HubError: Something is missing, different, or there though it should be gone.
    """
    wrong = [
        path
        for path, what in file_operations(upload, repository.files(commit)).items()
        if what != "keep"
    ]
    content = upload.files[upload.proof]
    if not wrong and repository.read(upload.proof, commit) != (
        content if isinstance(content, bytes) else content.read_bytes()
    ):
        wrong = [upload.proof]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise HubError(
            f"{repository.url}: commit {commit[:8]} does not hold what was pushed:"
            f" {', '.join(wrong[:5])}{more}; do not use it, and run the command again"
        )


def write_dry_run(upload: UploadPlan, out: Path) -> None:
    """Writes into `out` exactly the files that would be pushed.

    An earlier dry run there is replaced.

    Raises:
        UserError: `out` holds something else, or cannot be written.
    """
    OWNER.check(out)
    with only_one(out, "out"):
        OWNER.claim(out, "A dry run of svco publish.\n")
        remove_stale(out, "*", keep=(LOCK, *OWNER.marks))
        for path, content in upload.files.items():
            target = out / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                target.write_bytes(content)
            elif target.suffix in _LARGE:
                _link(content, target)
            else:
                shutil.copyfile(content, target)


def _link(source: Path, target: Path) -> None:
    """The same file twice, without its bytes twice where the disk can do that."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def print_operations(upload: UploadPlan, operations: Mapping[str, str]) -> None:
    """The table of what happens to each file."""
    rows = [
        [path, what, f"{content_size(upload.files[path]):,}" if path in upload.files else ""]
        for path, what in sorted(operations.items(), key=lambda item: (item[1], item[0]))
    ]
    summary_table(f"One commit to a {upload.kind} repository", ["file", "what", "bytes"], rows)


def run(
    folder: Annotated[
        str,
        typer.Argument(metavar="DIR", help="An MVC folder, or the folder of a finetuned model."),
    ],
    repo: Annotated[
        str, typer.Option(metavar="ORG/NAME", help="The repository; made if it is not there.")
    ],
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Write what would be pushed into a folder; needs no token, no network.",
        ),
    ] = False,
    out: Annotated[
        str | None, typer.Option(help="Where a dry run writes; by default DIR-publish beside DIR.")
    ] = None,
    allow_license: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help=(
                "A licence that you have permission for, though it is not known to allow this; may"
                " be repeated."
            ),
        ),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Make a new repository public instead of private.")
    ] = False,
    tag: Annotated[
        str | None, typer.Option(help="The version's tag; by default the next of v1, v2, ..")
    ] = None,
) -> None:
    """Publish an MVC folder, or a finetuned model, on the Hugging Face Hub.

    It becomes one commit with a tag, and what is there then is looked at.

    The token comes from HF_TOKEN or from `hf auth login`; HF_ENDPOINT names another Hub. The card
    of a data set is made anew from its manifest each time.
    """
    if not has_hub_form(repo):
        raise UserError(f"--repo {repo}: expected ORG/NAME, of letters, digits, '-', '_' and '.'")
    if tag is not None and not re.fullmatch(r"\w[\w.-]*", tag, re.ASCII):
        raise UserError(f"--tag {tag}: expected letters, digits, '-', '_' and '.', for example v2")
    source = absolute_path(folder, "DIR")
    if "://" in source:
        raise UserError(f"{source}: only local folders can be published; copy it here first")
    say(f"checking {source}")
    upload = plan_upload(Path(source), repo, allow_license or [])
    if dry_run:
        _dry_run(upload, Path(absolute_path(out, "out") if out else f"{source}-publish"))
        return
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()  # ours counts files
    commit, version = publish(upload, repo, is_public=public, tag=tag)
    say(f"published {version}, commit {commit}")


def _dry_run(upload: UploadPlan, target: Path) -> None:
    write_dry_run(upload, target)
    print_operations(upload, file_operations(upload, {}))
    say(
        f"nothing was sent; {', '.join(upload.replaced)} of an earlier version would be"
        f" removed\n{target}"
    )

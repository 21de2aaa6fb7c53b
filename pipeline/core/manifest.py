"""What a build writes about itself for others to read: manifest.json and result.json."""

from typing import Any, Literal, TypedDict

# Numbers of rows; the functional form because "in" is a word of the language.
RowCounts = TypedDict(
    "RowCounts",
    {
        "in": int,
        "kept": int,
        "dropped": int,
        "by_split": dict[str, int],
        "dropped_by_reason": dict[str, int],
        "kept_by_category": dict[str, int],
        "dropped_by_category": dict[str, int],
        "kept_by_source": dict[str, int],
        "dropped_by_source": dict[str, int],
    },
)


class GroupFacts(TypedDict):
    """Groups before and after pictures that look the same have linked them."""

    num_groups: int
    num_linked_groups: int
    largest_rows: int
    largest_groups: int
    frac_largest: float


class Manifest(TypedDict, total=False):
    """manifest.json: it is written last, so where it is, the MVC folder is finished.

    `recipe` has every default filled in and no path of the machine; `files` holds the sha256 of
    each shard by its path; `rewrite` and `verify` are there where models were asked.
    """

    schema_version: int
    name: str
    recipe: dict[str, Any]
    fingerprints: dict[str, str]
    rows: RowCounts
    licenses: dict[str, int]
    links: GroupFacts
    audit: list[dict[str, Any]]
    rewrite: dict[str, Any]
    verify: dict[str, Any]
    files: dict[str, str]
    warnings: list[str]


class StageTiming(TypedDict):
    """How long a stage took; a reused one took no time."""

    name: str
    reused: bool
    seconds: float
    fingerprint: str


class BuildResult(TypedDict, total=False):
    """result.json: how the job ended; `error` is there where it failed, the rest where not."""

    status: Literal["running", "failed", "done"]
    out: str
    error: str
    rows: RowCounts
    stages: list[StageTiming]
    throughput: dict[str, float]
    warnings: list[str]

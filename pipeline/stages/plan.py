"""The plan of a build: its stage folders, named by fingerprints of the recipe."""

import posixpath
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.audit import shortcuts
from pipeline.config import BuildSection
from pipeline.core.recipe import RecipeError, absolute_path, fingerprint, in_ray_job, is_hub_id
from pipeline.core.schema import SCHEMA_VERSION
from pipeline.dedup import groups
from pipeline.dedup.decontaminate import folder_identity
from pipeline.embedding import stage as embedding
from pipeline.embedding.encoders import encoder_fingerprints
from pipeline.embedding.model_files import model_files
from pipeline.rewrite import model_writer, template
from pipeline.rewrite.tables import REWRITE_VERSION
from pipeline.selection.rules import check_bounds
from pipeline.sources.registry import open_source
from pipeline.stages import ingest, normalize, shard_writer, tables
from pipeline.stages.ingest import Chunk, plan_chunks
from pipeline.stages.remote import local_folder
from pipeline.verify import accept, judge, margins
from pipeline.verify.config import VerifySection, check_verify


@dataclass(frozen=True, slots=True)
class Plan:
    """A build that has been thought through but not started."""

    section: BuildSection
    out: Path
    work: Path
    chunks: tuple[Chunk, ...]
    fingerprints: dict[str, str]

    @property
    def is_remote(self) -> bool:
        """Whether `section.out` is a URI, to which the content of `out` is copied at the end."""
        return "://" in self.section.out

    @property
    def num_candidates(self) -> int:
        """Rows that all sources yield together."""
        return sum(chunk.stop - chunk.start for chunk in self.chunks)


def plan_build(section: BuildSection) -> Plan:
    """Resolves paths, opens the sources, names the stages; reads no image, loads no model.

    Raises:
        RecipeError: A path that cannot be used, two sources of one name, a source with nothing in
            it, a bound on a score that no encoder makes.
    """
    section = _with_absolute_paths(section)
    _check_bounds(section)
    _check_names(section)
    out = local_folder(section.out)
    sources = [open_source(source) for source in section.sources]
    return Plan(
        section=section,
        out=out,
        work=Path(section.work) if section.work else out / ".work",
        chunks=tuple(
            plan_chunks([source.count() for source in sources], section.workers.chunk_pairs)
        ),
        fingerprints=_fingerprints(section, [source.identity() for source in sources]),
    )


def _with_absolute_paths(section: BuildSection) -> BuildSection:
    sources = tuple(
        source.model_copy(
            update={
                name: absolute_path(getattr(source, name), f"sources.{index}.{name}")
                for name in source.PATHS
                if getattr(source, name)
            }
        )
        for index, source in enumerate(section.sources)
    )
    if "://" in (section.work or ""):
        raise RecipeError(
            f"work={section.work}: the stages' folder is local or on a disk that all nodes share;"
            " only out may be a URI"
        )
    if "://" in section.out and not section.work and in_ray_job():
        raise RecipeError(
            f"out={section.out}: in a Ray job the stages of a build to a URI need a disk that all"
            " nodes share; give work=/data/work"
        )
    work = absolute_path(section.work, "work") if section.work else None
    places = tuple(
        place if is_hub_id(place, needs_org=False) else absolute_path(place, "links.benchmarks")
        for place in section.links.benchmarks
    )
    links = section.links.model_copy(update={"benchmarks": places})
    out = absolute_path(section.out, "out")
    return section.model_copy(update={"sources": sources, "links": links, "out": out, "work": work})


def _check_bounds(section: BuildSection) -> None:
    encoders = section.encoders
    made = {
        "pixels_image_cos": encoders.pixels.enabled,
        "clip_image_cos": encoders.clip is not None,
        "caption_margin_a": encoders.clip is not None,
        "caption_margin_b": encoders.clip is not None,
        "dinov2_image_cos": encoders.dinov2 is not None,
    }
    encoder_fingerprints(encoders)
    if section.verify is not None:
        check_verify(section.verify, has_clip=encoders.clip is not None)
    check_bounds(
        section.selection,
        {name for name, is_made in made.items() if is_made},
        {source.name for source in section.sources},
    )


def _check_names(section: BuildSection) -> None:
    names = [source.name for source in section.sources]
    # Scenes of several seeds are one source: their rows are told apart by seed.
    repeated = sorted(
        {
            source.name
            for source in section.sources
            if names.count(source.name) > 1 and source.kind != "scenes"
        }
    )
    if repeated:
        raise RecipeError(
            f"sources: two are called {repeated[0]!r}; give each its own, for example"
            " sources.1.name=mine"
        )


def _fingerprints(section: BuildSection, sources: list[dict[str, object]]) -> dict[str, str]:
    """One per stage that the recipe needs, in order.

    Each also hashes the one before, so a change re-runs its own stage and those after it.
    """
    parts: dict[str, list[Any]] = {
        "ingest": [
            ingest.VERSION,
            sources,
            section.workers.chunk_pairs,
            (
                [normalize.VERSION, section.normalize.model_dump(mode="json")]
                if section.normalize.mode != "keep"
                else []
            ),
        ],
        "link": [
            groups.VERSION,
            section.links.model_dump(mode="json"),
            [folder_identity(place) for place in section.links.benchmarks],
        ],
        "embed": [embedding.VERSION, encoder_fingerprints(section.encoders)],
        "score": [tables.SCORE_VERSION],
        "select": [
            tables.SELECT_VERSION,
            section.selection.model_dump(mode="json"),
            section.validation.model_dump(mode="json"),
        ],
        "rewrite": [
            REWRITE_VERSION,
            template.VERSION,
            section.rewrite.content(),
            *(model_writer.version() if section.rewrite.backend == "openai" else []),
        ],
        **_verify_parts(section.verify),
        "audit": [shortcuts.VERSION, section.audit.model_dump(mode="json")],
        "finalise": [
            shard_writer.VERSION,
            SCHEMA_VERSION,
            section.name,
            section.report.model_dump(mode="json"),
        ],
    }
    named: dict[str, str] = {}
    upstream = ""
    for stage, part in parts.items():
        upstream = named[stage] = fingerprint(stage, part, upstream)
    return named


def _verify_parts(section: VerifySection | None) -> dict[str, list[Any]]:
    """Two stages, what is measured and what is decided: a threshold measures nothing again."""
    if section is None:
        return {}
    asked = judge.version(section.judge) if section.judge is not None else []
    return {"verify": [margins.VERSION, asked], "accept": [accept.VERSION, section.thresholds()]}


def published_recipe(section: BuildSection) -> dict[str, Any]:
    """The recipe as the manifest shows it: what decides the content, no path of a machine."""
    shown = section.model_dump(mode="json", exclude={"out", "work"})
    for source, fields in zip(section.sources, shown["sources"], strict=True):
        for name in source.PATHS:
            fields[name] = posixpath.basename(str(fields[name])) if fields[name] else None
    shown["links"]["benchmarks"] = [
        place if is_hub_id(place, needs_org=False) else posixpath.basename(place)
        for place in section.links.benchmarks
    ]
    if section.verify is None:
        del shown["verify"]  # recipes that know nothing of it keep their bytes
    judge_shown = (shown.get("verify") or {}).get("judge") or {}
    for endpoint in (shown["rewrite"]["endpoint"], judge_shown.get("endpoint")):
        # where a server stands and where its replies are kept is nobody else's business
        if endpoint is not None:
            endpoint |= {"base_url": None, "cache": None}
            if Path(endpoint["model"]).exists():
                endpoint["model"] = Path(endpoint["model"]).name
    for described in (shown["encoders"]["clip"], shown["encoders"]["dinov2"]):
        if described is not None:
            described["files"] = model_files(described["model"])
            if described["files"]:
                described["model"] = Path(described["model"]).name
    return shown

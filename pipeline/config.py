"""The shape of a build recipe: what may stand in `recipes/mvc_*.yaml`."""

from typing import Literal

from pydantic import Field

from pipeline.audit.shortcuts import AuditSection
from pipeline.core.recipe import Section
from pipeline.dedup.groups import LinkSection
from pipeline.embedding.encoders import EncodersSection
from pipeline.rewrite.config import RewriteSection
from pipeline.selection.rules import SelectionSection
from pipeline.sources.registry import SourceSection
from pipeline.verify.config import VerifySection


class ValidationSection(Section):
    """The held-out split: whole groups, chosen by a seeded hash.

    The paper's recipe holds out 240 pairs.
    """

    fraction: float = Field(default=0.05, ge=0.0, lt=1.0)
    num_pairs: int | None = Field(default=None, ge=0)  # instead of the fraction
    seed: int = 0

    @property
    def wants_rows(self) -> bool:
        """Whether a validation split is asked for at all."""
        return self.num_pairs > 0 if self.num_pairs is not None else self.fraction > 0


class WorkersSection(Section):
    """How Ray Data is used. Fractions of a CPU keep a small machine from waiting for itself.

    `num_embedders` null means one per GPU where encoders run on CUDA, otherwise one per two CPUs.
    """

    num_embedders: int | None = Field(default=None, gt=0)
    cpus_per_task: float = Field(default=0.5, gt=0)
    chunk_pairs: int = Field(default=256, gt=0)


class ReportSection(Section):
    """How much of the data the report page shows."""

    num_kept_shown: int = Field(default=24, ge=0)
    num_dropped_shown: int = Field(default=6, ge=0)


class NormalizeSection(Section):
    """Images stay as they came, byte by byte (`keep`), or are all written anew (`reencode`).

    New ones are upright RGB, shrunk, without metadata.
    `scale` multiplies both sides of a picture and `max_px` caps the longer one; nothing is ever
    enlarged. `quality` is that of JPEG and WebP. The defaults hid every kind of saving from the
    shortcut audit: numbers in `pipeline/stages/normalize.py`.
    """

    mode: Literal["keep", "reencode"] = "keep"
    format: Literal["webp", "jpeg", "png"] = "webp"
    quality: int = Field(default=75, ge=1, le=100)
    scale: float = Field(default=0.75, gt=0.0, le=1.0)
    max_px: int | None = Field(default=None, ge=8)


class BuildSection(Section):
    """One build: sources in, an MVC folder out.

    `work` holds the stages (default `<out>/.work`), never published.
    """

    name: str = "Minimal Visual Contrasts"
    sources: tuple[SourceSection, ...] = Field(min_length=1)
    out: str
    work: str | None = None
    normalize: NormalizeSection = NormalizeSection()
    links: LinkSection = LinkSection()
    encoders: EncodersSection = EncodersSection()
    selection: SelectionSection = SelectionSection()
    rewrite: RewriteSection = RewriteSection()
    verify: VerifySection | None = None
    validation: ValidationSection = ValidationSection()
    audit: AuditSection = AuditSection()
    workers: WorkersSection = WorkersSection()
    report: ReportSection = ReportSection()

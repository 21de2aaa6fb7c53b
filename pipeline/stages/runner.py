"""The stages of a build in order, each skipped where its DONE.json says so.

Knows nothing of Ray: it is given a way to map.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.audit.shortcuts import audit_features, audit_sources, features_of, sample_for_audit
from pipeline.core.manifest import StageTiming
from pipeline.core.progress import Progress
from pipeline.core.ray_pool import MapItems
from pipeline.core.schema import SCORE_COLUMNS
from pipeline.core.storage import Stage, open_stage, read_table, write_mapped, write_table
from pipeline.dedup.groups import COLUMNS, find_links, links_table
from pipeline.embedding.reader import Vectors
from pipeline.embedding.stage import EmbedChunks
from pipeline.rewrite.stage import ask_model, rewrite_facts
from pipeline.rewrite.tables import pairs_to_write, rewrite_chunk
from pipeline.rewrite.types import by_template
from pipeline.stages.ingest import ingest_chunk, read_facts
from pipeline.stages.plan import Plan
from pipeline.stages.tables import FACTS, score_chunk, select
from pipeline.storage.decided_rows import DecidedRows
from pipeline.storage.image_store import ImageLibrary, write_index
from pipeline.verify.accept import accept, accept_facts, read_measured
from pipeline.verify.judge import ask_judge, judge_facts
from pipeline.verify.margins import MARGINS, EmbedAnswers, margin_facts, write_margins

AUDIT_PIECE = 128  # images in one piece of the audit's work


class Build:
    """One run over a plan. `timings` and `facts` are what the report says of it."""

    def __init__(self, plan: Plan, map_items: MapItems, num_threads: int) -> None:
        self.plan, self._map, self._num_threads = plan, map_items, num_threads
        self.stages = {
            name: open_stage(plan.work, name, fingerprint)
            for name, fingerprint in plan.fingerprints.items()
        }
        self.timings: list[StageTiming] = []
        self.facts: dict[str, Any] = {}

    def run(self) -> None:
        """Every stage up to `audit`; what is published is written by `publish`."""
        works = {
            "ingest": self._ingest,
            "link": self._link,
            "embed": self._embed,
            "score": self._score,
            "select": self._select,
            "rewrite": self._rewrite,
            "verify": self._verify,
            "accept": self._accept,
            "audit": self._audit,
        }
        for name, stage in self.stages.items():
            if name in works:
                self._finish(name, stage, works[name])

    def decided_rows(self) -> DecidedRows:
        """Every candidate's row as it is published."""
        decisions = None
        if "accept" in self.stages:
            decisions = read_table(self.stages["accept"].part("decisions", 0))
        return DecidedRows(self.stages["rewrite"], len(self.plan.chunks), decisions)

    def timing(self, name: str, seconds: float, *, reused: bool) -> StageTiming:
        """How long a stage took, as result.json has it."""
        return {
            "name": name,
            "reused": reused,
            "seconds": round(seconds, 2),
            "fingerprint": self.plan.fingerprints[name],
        }

    def _finish(self, name: str, stage: Stage, work: Callable[[Stage], dict[str, Any]]) -> None:
        started_s, seconds = time.monotonic(), 0.0
        earlier = done = stage.done()
        if done is None:
            done = stage.finish({"fingerprint": self.plan.fingerprints[name], **work(stage)})
            seconds = time.monotonic() - started_s
        self.timings.append(self.timing(name, seconds, reused=earlier is not None))
        about_stage = ("stage", "fingerprint", "files")
        self.facts[name] = {key: value for key, value in done.items() if key not in about_stage}

    def _each(
        self,
        title: str,
        unit: str,
        stage: Stage,
        kind: str,
        work: Callable[..., Any],
        *,
        arguments: tuple[Any, ...] = (),
        sizes: Sequence[int] | None = None,
        suffix: str = "parquet",
    ) -> int:
        """Runs `work` for every part of a stage that is missing; returns how many were.

        Args:
            work: As for `Pool.map`: a function of a part's number, or a class made with `arguments`
                that leaves a part alone which is there already.
            sizes: How many units each part counts; None: one for each chunk.
        """
        sizes = [1] * len(self.plan.chunks) if sizes is None else sizes
        missing = stage.missing(kind, len(sizes), suffix)

        def run(index: int) -> None:
            # A worker that dies between writing a part and saying so is asked for it again.
            if not stage.part(kind, index, suffix).is_file():
                work(index)

        with Progress(title, sum(sizes), unit) as progress:
            progress.advance(sum(sizes) - sum(sizes[index] for index in missing))
            made = self._map(work if isinstance(work, type) else run, missing, arguments)
            for index, _ in made:
                progress.advance(sizes[index])
        return len(missing)

    def _ingest(self, stage: Stage) -> dict[str, Any]:
        section, chunks = self.plan.section, self.plan.chunks

        def work(index: int) -> None:
            source = section.sources[chunks[index].source]
            ingest_chunk(stage, source, section.normalize, chunks[index])

        sizes = [chunk.stop - chunk.start for chunk in chunks]
        self._each("ingest", "pairs", stage, "rows", work, sizes=sizes)
        return {
            "num_chunks": len(chunks),
            "num_rows": self.plan.num_candidates,
            "num_images": write_index(stage, len(chunks)),
        }

    def _link(self, stage: Stage) -> dict[str, Any]:
        num_chunks = len(self.plan.chunks)
        columns = read_facts(self.stages["ingest"], num_chunks, COLUMNS)

        def order_of(rows: np.ndarray) -> list[tuple[str, str]]:
            if not len(rows):
                return []
            names = read_facts(self.stages["ingest"], num_chunks, ("source", "source_id"))
            return list(
                zip(names["source"][rows].tolist(), names["source_id"][rows].tolist(), strict=True)
            )

        links = find_links(columns, order_of, self.plan.section.links)
        write_table(stage.part("links", 0), links_table(links))
        return links.facts

    def _embed(self, stage: Stage) -> dict[str, Any]:
        encoders, num_chunks = self.plan.section.encoders, len(self.plan.chunks)
        num_images = (self.stages["ingest"].done() or {})["num_images"]
        arguments = (self.stages["ingest"], stage, encoders, self._num_threads)
        loads_models = encoders.clip is not None or encoders.dinov2 is not None
        started_s = time.monotonic()
        num_made = self._each(
            "embed",
            f"chunks ({num_images:,} images)",
            stage,
            "images",
            # with nothing to load, tasks start faster than actors
            EmbedChunks if loads_models else lambda index: EmbedChunks(*arguments)(index),
            arguments=arguments,
        )
        seconds = max(time.monotonic() - started_s, 1e-6)
        return {
            "num_images": num_images,
            "images_per_s": round(num_images * num_made / max(num_chunks, 1) / seconds, 1),
        }

    def _score(self, stage: Stage) -> dict[str, Any]:
        ingest = self.stages["ingest"]
        needed = ["image_a_sha256", "image_b_sha256", "caption_a", "caption_b", "drop_reason"]
        vectors = Vectors(self.stages["embed"], ImageLibrary(ingest))
        with Progress("score", len(self.plan.chunks), "chunks") as progress:
            for chunk in self.plan.chunks:
                rows = read_table(ingest.part("rows", chunk.index), needed)
                write_table(
                    stage.part("scores", chunk.index), score_chunk(rows, vectors, chunk.index)
                )
                progress.advance()
        return {"num_chunks": len(self.plan.chunks)}

    def _select(self, stage: Stage) -> dict[str, Any]:
        links = read_table(self.stages["link"].part("links", 0))
        columns: dict[str, Any] = read_facts(self.stages["ingest"], len(self.plan.chunks), FACTS)
        columns["group"] = links["group"].to_numpy()
        scores = pa.concat_tables(
            [
                read_table(self.stages["score"].part("scores", chunk.index))
                for chunk in self.plan.chunks
            ]
        )
        # those that some encoder made; NaN where null
        columns |= {
            name: scores[name].to_numpy()
            for name in SCORE_COLUMNS
            if scores[name].null_count < scores.num_rows
        }
        reasons = links["drop_reason"].to_numpy(zero_copy_only=False)
        decided = select(
            columns, reasons, self.plan.section.selection, self.plan.section.validation
        )
        write_table(stage.part("decisions", 0), decided)
        return {
            "num_rows": decided.num_rows,
            "num_kept": decided["drop_reason"].to_pylist().count(""),
        }

    def _rewrite(self, stage: Stage) -> dict[str, Any]:
        section, chunks = self.plan.section.rewrite, self.plan.chunks
        ingest, score, select_ = (self.stages[name] for name in ("ingest", "score", "select"))
        starts = np.cumsum([0, *(chunk.stop - chunk.start for chunk in chunks)])

        def read(index: int) -> tuple[pa.Table, pa.Table, pa.Table]:
            num_rows = starts[index + 1] - starts[index]
            return (
                read_table(ingest.part("rows", index)),
                read_table(score.part("scores", index)),
                read_table(select_.part("decisions", 0)).slice(starts[index], num_rows),
            )

        def work(index: int) -> None:
            rows, scores, decisions = read(index)
            rewrites = [
                by_template(pair) if pair else None for pair in pairs_to_write(rows, decisions)
            ]
            write_mapped(
                stage.part("rows", index, "arrow"), rewrite_chunk(rows, scores, decisions, rewrites)
            )

        if section.backend == "template":
            self._each("rewrite", "chunks", stage, "rows", work, suffix="arrow")
            return {"num_rows": int(starts[-1])}
        missing = stage.missing("rows", len(chunks), "arrow")
        with Progress("rewrite", len(chunks), "chunks") as progress:
            progress.advance(len(chunks) - len(missing))
            asked = ask_model(stage, missing, read, section, str(self.plan.out), progress.advance)
        return {
            "num_rows": int(starts[-1]),
            "rewrite": asked | rewrite_facts(stage, len(chunks), section),
        }

    def _verify(self, stage: Stage) -> dict[str, Any]:
        section, chunks = self.plan.section, self.plan.chunks
        ingest, rewrite = self.stages["ingest"], self.stages["rewrite"]
        assert section.verify is not None
        has_clip = section.encoders.clip is not None
        if has_clip:
            arguments = (rewrite, stage, section.encoders, self._num_threads)
            self._each(
                "verify", "chunks of answers", stage, "texts", EmbedAnswers, arguments=arguments
            )
            write_margins(ingest, self.stages["embed"], rewrite, stage, len(chunks))
        spent: dict[str, float] = {}
        if section.verify.judge is not None:
            missing = stage.missing("judged", len(chunks))
            with Progress("judge", len(chunks), "chunks") as progress:
                progress.advance(len(chunks) - len(missing))
                spent = ask_judge(
                    ingest,
                    rewrite,
                    stage,
                    missing,
                    section.verify.judge,
                    f"{self.plan.out} judge",
                    progress.advance,
                )
        facts: dict[str, Any] = {}
        if has_clip:
            measured = read_measured(stage, len(chunks), section.verify, has_clip=has_clip)
            facts["margins"] = margin_facts({name: measured[name] for name in MARGINS})
        if section.verify.judge is not None:
            asked = DecidedRows(rewrite, len(chunks)).column("drop_reason") == ""
            facts["judge"] = spent | judge_facts(stage, len(chunks), asked, section.verify.judge)
        return {"verify": facts}

    def _accept(self, stage: Stage) -> dict[str, Any]:
        section, num_chunks = self.plan.section, len(self.plan.chunks)
        assert section.verify is not None
        measured = read_measured(
            self.stages["verify"],
            num_chunks,
            section.verify,
            has_clip=section.encoders.clip is not None,
        )
        before = DecidedRows(self.stages["rewrite"], num_chunks)
        decided = accept(before, measured, section.verify)
        write_table(stage.part("decisions", 0), decided)
        return {"accept": accept_facts(decided, before.column("drop_reason"))}

    def _audit(self, stage: Stage) -> dict[str, Any]:
        section = self.plan.section.audit
        if not section.enabled:
            return {"results": []}
        rows = self.decided_rows()
        names = {name: rows.column(name) for name in ("source", "operation", "drop_reason")}
        kept = names["drop_reason"] == ""
        sample = sample_for_audit(
            rows.column("pair_id", "S32"), names["source"], names["operation"], kept, section
        )
        sides = rows.gather(sample).select(["image_a_sha256", "image_b_sha256"])
        features = self._image_features(
            stage, sorted({key for column in sides.columns for key in column.to_pylist()})
        )
        groups = read_table(self.stages["link"].part("links", 0))["group"].to_numpy()
        results = audit_sources(
            names["source"][kept],
            names["operation"][kept],
            groups[kept],
            np.flatnonzero(np.isin(np.flatnonzero(kept), sample)),
            features_of(features, sides["image_a_sha256"].to_pylist()),
            features_of(features, sides["image_b_sha256"].to_pylist()),
            section,
        )
        return {"results": [asdict(result) for result in results]}

    def _image_features(self, stage: Stage, keys: list[str]) -> pa.Table:
        """The audit's features of images, made in pieces that a killed build finds again."""
        pieces = [keys[start : start + AUDIT_PIECE] for start in range(0, len(keys), AUDIT_PIECE)]
        if not pieces:
            return audit_features({}, [])
        ingest = self.stages["ingest"]

        def work(index: int) -> None:
            write_table(
                stage.part("features", index), audit_features(ImageLibrary(ingest), pieces[index])
            )

        sizes = [len(piece) for piece in pieces]
        self._each("audit", "images", stage, "features", work, sizes=sizes)
        return pa.concat_tables(
            [read_table(stage.part("features", index)) for index in range(len(pieces))]
        )

"""Puts a report together from what lies in an OUTPUT_DIR."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from wsis.data.files import atomic_write
from wsis.engine.status import fingerprint
from wsis.errors import WSISError
from wsis.evaluation.results import format_table
from wsis.report.figures import figure_table, headline, stage_table
from wsis.report.instances import (
    INSTANCE_ARRAYS,
    Quality,
    Source,
    artifact_source,
    prediction_source,
    pseudo_label_source,
)
from wsis.report.options import Options
from wsis.report.page import Page, escape, problem
from wsis.report.runs import RunFolder, find_runs, read_figures, read_stage_names
from wsis.report.samples import ImageCatalog, Images
from wsis.report.sections import (
    class_section,
    extreme_labels,
    loss_section,
    measure,
    prediction_rows,
    product_rows,
    quality_section,
)

logger = logging.getLogger(__name__)

Entries = list[dict[str, Any]]


def _array_names(run: RunFolder) -> set[str]:
    """What the first readable artifact of a run folder holds."""
    reader = run.reader
    for key in reader.keys():  # noqa: SIM118  (it is no dict)
        try:
            return set(reader[key])
        except WSISError as error:
            logger.warning("%s", error)
    return set()


class Report:
    """The report of one OUTPUT_DIR.

    Args:
        output_dir: the pipeline's OUTPUT_DIR.
        options: what to show.

    Attributes:
        entries: the figures of ``metrics.json``.
    """

    def __init__(self, output_dir: Path, options: Options) -> None:
        self.output_dir = output_dir
        self.options = options
        self.runs = find_runs(output_dir)
        self.entries = read_figures(output_dir, self.runs)
        self.catalog = ImageCatalog()

    def _product_images(self) -> tuple[Images | None, list[RunFolder]]:
        """The images that the stages treat, and the runs that treat them."""
        makers = [run for run in self.runs if run.manifest.kind != "train"]
        key = "WSIS.IMAGES" if makers else "DATASETS.TRAIN"
        for run in reversed(makers or self.runs):
            names = run.dataset_names(key)
            images = self.catalog.get(names)
            if images is not None:
                return images, [run for run in makers if run.dataset_names(key) == names]
        return None, []

    def _note_changed_images(self, images: Images, runs: Sequence[RunFolder]) -> None:
        """Products of other images than these would be drawn on the wrong photographs."""
        seen = {run.name: run.supervision for run in runs}
        now = {level: fingerprint(images.records, level) for level in set(seen.values())}
        changed = [
            run.name
            for run in runs
            if run.manifest.inputs.get("images", now[seen[run.name]]) != now[seen[run.name]]
        ]
        if changed:
            text = (
                f"{images.title} has changed since {', '.join(changed)} ran: the pictures below do "
                "not belong together; run those stages again"
            )
            logger.warning("%s", text)
            self.catalog.problems.append(text)

    def _try(self, make: Callable[..., Source], run: RunFolder, images: Images) -> Source | None:
        try:
            return make(run, images)
        except WSISError as error:
            logger.warning("%s is left out: %s", run.name, error)
            self.catalog.problems.append(f"{run.name} is left out: {error}")
            return None

    def _pseudo_labels(self, runs: Sequence[RunFolder], images: Images) -> Source | None:
        """The exported labels, or else the last stage's instances."""
        for run in reversed(runs):
            if run.pseudo_labels is not None:
                return self._try(pseudo_label_source, run, images)
        for run in reversed(runs):
            if run.has_artifacts and _array_names(run) >= INSTANCE_ARRAYS:
                return self._try(artifact_source, run, images)
        return None

    def _predictions(self) -> list[Source]:
        sources = []
        for run in self.runs:
            images = (
                self.catalog.get(run.dataset_names("DATASETS.TEST")) if run.predictions else None
            )
            source = self._try(prediction_source, run, images) if images else None
            if source is not None:
                sources.append(source)
        return sources

    def page(self) -> Page:
        """All sections for which there is something."""
        page = Page(
            f"WSIS report: {self.output_dir.resolve().name}",
            footer="Made by <code>tools/report.py</code>. This file needs nothing beside it.",
        )
        page.add("figures", "Figures", self._figures())
        page.add("stages", "Stages", stage_table(self.runs))
        images, runs = self._product_images()
        measured: list[tuple[Source, Quality]] = []
        if images is not None:
            self._note_changed_images(images, runs)
            page.add("images", "Images, stage by stage", product_rows(images, runs, self.options))
            source = self._pseudo_labels(runs, images)
            if source is not None:
                measured.append((source, measure(source, self.options)))
                content = extreme_labels(*measured[0], self.options)
                page.add("extremes", "Worst and best pseudo labels", content)
        for source in self._predictions():
            measured.append((source, measure(source, self.options)))
            content = prediction_rows(source, self.options)
            page.add(f"predictions-{source.key}", f"Predictions of {source.title}", content)
        page.add("losses", "Training", loss_section(self.runs))
        page.add("classes", "Classes", class_section(self.entries))
        page.add("quality", "Scores and sizes", quality_section(measured))
        page.subtitle = self._subtitle(images)
        return page

    def _figures(self) -> str:
        if self.entries:
            return headline(self.entries, self.runs) + figure_table(self.entries)
        return (
            '<p class="soft">Nothing has been evaluated yet, or the data set has no ground '
            "truth to evaluate against. The pictures below are what there is.</p>"
        )

    def _subtitle(self, images: Images | None) -> str:
        done = sum(run.manifest.status == "done" for run in self.runs)
        known = {run.name for run in self.runs} | set(read_stage_names(self.output_dir))
        parts = [f"{done} of {len(known)} stages finished"]
        if images is not None:
            parts.append(f"{len(images.records)} images of {images.title}")
            parts.append(f"{len(images.classes)} classes")
        versions = next(
            (r.manifest.versions for r in reversed(self.runs) if r.manifest.versions), {}
        )
        shown = [f"{k} {versions[k]}" for k in ("wsis", "detectron2", "torch") if k in versions]
        text = " · ".join([*parts, *shown])
        problems = "".join(problem(text) for text in self.catalog.problems)
        return f'<p class="soft">{escape(text)}</p>{problems}'


def report_path(
    output_dir: str | os.PathLike[str], path: str | os.PathLike[str] | None = None
) -> Path:
    """The file of a report: ``path``, or by default ``OUTPUT_DIR/report.html``."""
    return Path(path) if path is not None else Path(output_dir) / "report.html"


def is_current(
    output_dir: str | os.PathLike[str], *, path: str | os.PathLike[str] | None = None
) -> bool:
    """Whether a report exists and nothing in the run folders has been written since."""
    try:
        written = report_path(output_dir, path).stat().st_mtime_ns
    except OSError:
        return False
    products = (file for file in Path(output_dir).glob("*/**/*") if file.is_file())
    return all(file.stat().st_mtime_ns <= written for file in products)


def write_report(
    output_dir: str | os.PathLike[str],
    *,
    path: str | os.PathLike[str] | None = None,
    options: Options | None = None,
) -> tuple[Path, Entries]:
    """Write ``report.html``.

    Args:
        output_dir: OUTPUT_DIR of a pipeline, however much of it is finished.
        path: the file to write; ``OUTPUT_DIR/report.html`` by default.
        options: what to show.

    Returns:
        The file, and the figures (entries of ``metrics.json``).

    Raises:
        WSISError: no such folder, no run in it, a damaged manifest, or no place to write.
    """
    output_dir = Path(output_dir)
    report = Report(output_dir, options or Options())
    text = report.page().render()
    target = report_path(output_dir, path)
    try:
        with atomic_write(target, "w") as stream:
            stream.write(text)
    except OSError as error:
        raise WSISError(f"cannot write {target} ({error.strerror}); choose --output") from None
    return target, report.entries


def make_report(args: argparse.Namespace) -> None:
    """Write the report, where it is not current, and print the figures."""
    if args.if_changed and is_current(args.output_dir, path=args.output):
        path = report_path(args.output_dir, args.output)
        sys.stdout.write(f"nothing to draw anew\nreport: {path.resolve()}\n")
        return
    options = Options(
        images=args.images,
        statistics=args.statistics,
        seed=args.seed,
        min_score=args.min_score,
    )
    path, entries = write_report(args.output_dir, path=args.output, options=options)
    table = format_table(entries) if entries else "nothing has been evaluated"
    sys.stdout.write(f"{table}\n\nreport: {path.resolve()}\n")

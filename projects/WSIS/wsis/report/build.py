"""Puts a report together from what lies in an OUTPUT_DIR."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

from wsis.data.builtin import left_out_of
from wsis.engine.manifest import fingerprint
from wsis.errors import WSISError
from wsis.evaluation.results import format_table, lost_to_baselines, main_figures
from wsis.report.figures import figures_section, stages_section
from wsis.report.page import Section, render
from wsis.report.run_folders import RunFolder, find_run_folders, read_figures, read_stage_names
from wsis.report.sections import (
    classes_section,
    extremes_section,
    images_section,
    losses_section,
    measure,
    predictions_section,
    quality_section,
)
from wsis.report.sources import (
    ImageSet,
    Source,
    artifact_source,
    prediction_source,
    pseudo_label_source,
    read_images,
)
from wsis.views import instances, views_of

logger = logging.getLogger(__name__)


def _makes_instances(folder: RunFolder) -> bool:
    """Whether the first readable artifact of a run folder holds instances."""
    for key in folder.reader.keys():  # noqa: SIM118  (it is no dict)
        try:
            return instances in views_of(folder.reader[key])
        except WSISError as error:
            logger.warning("%s", error)
    return False


class Report:
    """The report of one OUTPUT_DIR, with the options of ``tools/report.py``."""

    def __init__(self, output_dir: Path, options: argparse.Namespace) -> None:
        self.output_dir, self.options = output_dir, options
        self.folders = find_run_folders(output_dir)
        self.entries = read_figures(output_dir, self.folders)  # of metrics.json
        self.problems: list[str] = []  # sentences about what could not be shown
        self._images = cache(self._read_images)

    def _note(self, problem: str) -> None:
        logger.warning("%s", problem)
        self.problems.append(problem)

    def _read_images(self, names: tuple[str, ...], max_pixels: int) -> ImageSet | None:
        """The images of data sets, None (and a problem) if they cannot be read or are none."""
        try:
            images = read_images(names, max_pixels) if names else None
        except WSISError as error:
            self._note(f"No pictures of {', '.join(names)}: {error}")
            return None
        for name in filter(left_out_of, names):
            text = f"images and annotations of {name} left out as broken: {left_out_of(name)}"
            self._note(f"{text}; tools/check_data.py lists them")
        return images

    @cached_property
    def _product_images(self) -> tuple[ImageSet | None, list[RunFolder]]:
        """The images that the stages treat, and the run folders of those that treat them."""
        makers = [folder for folder in self.folders if folder.manifest.kind != "train"]
        key = "WSIS.IMAGES" if makers else "DATASETS.TRAIN"
        for folder in reversed(makers or self.folders):
            names = folder.dataset_names(key)
            images = self._images(names, folder.max_pixels)
            if images is not None:
                return images, [f for f in makers if f.dataset_names(key) == names]
        return None, []

    def _note_changed_images(self, images: ImageSet, folders: Sequence[RunFolder]) -> None:
        """Note products made of other images: they would be drawn on the wrong photographs."""
        now = cache(partial(fingerprint, images.records))
        changed = [
            folder.name
            for folder in folders
            if folder.manifest.inputs.get("images") not in (None, now(folder.supervision))
        ]
        if changed:
            self._note(
                f"{images.title} has changed since {', '.join(changed)} ran: the pictures below do "
                "not belong together; run those stages again"
            )

    def _try(self, folder: RunFolder, make: Callable[..., Source], *values: Any) -> list[Source]:
        try:
            return [make(*values)]
        except WSISError as error:
            self._note(f"{folder.name} is left out: {error}")
            return []

    def _pseudo_labels(self, folders: Sequence[RunFolder], images: ImageSet) -> list[Source]:
        """The exported labels, or else the last stage's instances."""
        for folder in reversed(folders):
            if folder.pseudo_labels is not None:
                return self._try(folder, pseudo_label_source, folder.pseudo_labels, images)
        for folder in reversed(folders):
            if _makes_instances(folder):
                return self._try(folder, artifact_source, folder, images)
        return []

    def predictions(self) -> Iterator[Source]:
        """The predictions of every network on each data set that it was evaluated on."""
        for folder in self.folders:
            for name in folder.predictions:
                images = self._images((name,), folder.max_pixels)
                if images is not None:
                    yield from self._try(folder, prediction_source, folder, images)

    def labels(self) -> list[Source]:
        """Pseudo labels, or the instances that they would be made of; one source or none."""
        images, folders = self._product_images
        return [] if images is None else self._pseudo_labels(folders, images)

    def sections(self) -> list[Section]:
        """All sections for which there is something."""
        options = self.options
        for sentence in lost_to_baselines(self.entries).values():
            self._note(sentence)
        for folder in self.folders:
            for sentence in folder.manifest.remarks:
                self._note(sentence)
        sections = [figures_section(self.entries, self.folders), stages_section(self.folders)]
        images, folders = self._product_images
        measured = []
        if images is not None:
            self._note_changed_images(images, folders)
            sections.append(images_section(images, folders, options, trained=self.folders))
            for source in self.labels():
                measured.append((source, measure(source, options)))
                sections.append(extremes_section(*measured[0]))
        for source in self.predictions():
            measured.append((source, measure(source, options)))
            sections.append(predictions_section(*measured[-1], options))
        sections += [
            losses_section(self.folders),
            classes_section(self.entries),
            quality_section(measured),
        ]
        return [section for section in sections if section]

    def _facts(self) -> list[str]:
        """The facts in the line below the headline."""
        images, _ = self._product_images
        begun = {folder.name: folder.manifest.status == "done" for folder in self.folders}
        count = sum(begun.values())
        states = {
            "unfinished": [name for name, done in begun.items() if not done],
            "not run": [n for n in read_stage_names(self.output_dir) if n not in begun],
        }
        facts = [f"{count} {'stage' if count == 1 else 'stages'} finished"]
        facts += [f"{state}: {', '.join(names)}" for state, names in states.items() if names]
        if images is not None:
            facts.append(f"{len(images.records)} images of {images.title}")
            facts.append(f"{len(images.classes)} classes")
        known_versions = [f.manifest.versions for f in self.folders if f.manifest.versions]
        versions = known_versions[-1] if known_versions else {}
        names = [name for name in ("wsis", "detectron2", "torch") if name in versions]
        return [*facts, *(f"{name} {versions[name]}" for name in names)]

    def html(self) -> str:
        """The whole page."""
        title = f"WSIS report: {self.output_dir.resolve().name}"
        sections = self.sections()
        return render(title, facts=self._facts(), problems=self.problems, sections=sections)

    def text(self) -> str:
        """The main figures for the terminal, "" without any."""
        return format_table(self.entries) if main_figures(self.entries) else ""

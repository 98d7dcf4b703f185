"""Several runs side by side: one table of figures, and the same images with a picture of each."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from wsis.commands import check_output, writing
from wsis.data.builtin import get_dataset_dicts
from wsis.data.files import atomic_write
from wsis.errors import WSISError
from wsis.evaluation.results import main_figures, number_of
from wsis.report.build import Report
from wsis.report.page import Section, render, section
from wsis.report.sections import side_by_side_section
from wsis.report.sources import Record, Source

COMPARISON = "runs.html"  # in the present folder


def _file(record: Record) -> str:
    return str(Path(record["file_name"]).resolve())


class Comparison:
    """The report of several OUTPUT_DIRs, with the options of ``tools/report.py``.

    Each run is read before the next one: both may call different data sets the same.
    """

    def __init__(self, output_dirs: Sequence[Path], options: Namespace) -> None:
        self.options, self.problems = options, list[str]()
        self._data_sets: dict[frozenset[str], str] = {}
        # product, data set, protocol and metric to the figure of each run that has it
        self.figures: dict[tuple[str, ...], dict[str, float]] = {}
        self.runs: dict[str, Report] = {}
        self._labels: dict[str, list[Source]] = {}
        self._predictions: dict[str, list[Source]] = {}
        for name, path in _names(output_dirs).items():
            report = self.runs[name] = Report(path, options)
            self._labels[name] = report.labels()
            self._predictions[name] = list(report.predictions())
            self._add_figures(name, report)
            self.problems += [f"{name}: {problem}" for problem in report.problems]

    def _data_set(self, name: str, run: str) -> str:
        """One name for a data set of the same images in all runs, and of other images in none."""
        try:
            files = frozenset(map(_file, get_dataset_dicts(name, "skip")))
        except WSISError:
            return name
        taken = name in self._data_sets.values()
        return self._data_sets.setdefault(files, f"{name} of {run}" if taken else name)

    def _add_figures(self, name: str, report: Report) -> None:
        trained = {f.name for f in report.folders if f.manifest.kind == "train"}
        for entry, metric in main_figures(report.entries):
            protocol, stage = str(entry["protocol"]), str(entry["stage"])
            product = stage.replace("_", " ") if stage in trained else "pseudo masks"
            product = "classifier" if protocol == "classification" else product
            value = number_of(entry, metric)
            if value is not None and not entry.get("weights"):
                key = product, self._data_set(str(entry["dataset"]), name), protocol, metric
                self.figures.setdefault(key, {})[name] = value

    def _pictures(self, what: str, found: dict[str, list[Source]]) -> Section | None:
        """The images that all runs have, beside each other; a run's later source counts."""
        known = {
            name: {_file(record): (s, record) for s in sources for record in s.images.records}
            for name, sources in found.items()
            if sources
        }
        if len(known) < 2:
            return None
        common = sorted(set.intersection(*map(set, known.values())))
        if not common:
            told = ", ".join(f"{name} on {s[-1].images.title}" for name, s in found.items() if s)
            self.problems.append(f"No {what} side by side: no image is common to all ({told})")
            return None
        images = {name: [files[file] for file in common] for name, files in known.items()}
        return side_by_side_section(what, images, self.options)

    def sections(self) -> list[Section]:
        """The figures, then pseudo labels and predictions of all runs that have them."""
        shown = [
            section("compared", "Figures", runs=list(self.runs), table=self.figures),
            self._pictures("pseudo labels", self._labels),
            self._pictures("predictions", self._predictions),
        ]
        return [one for one in shown if one]

    def html(self) -> str:
        """The whole page."""
        sections, names = self.sections(), ", ".join(self.runs)
        facts = [str(report.output_dir) for report in self.runs.values()]
        title = f"WSIS runs side by side: {names}"
        return render(title, facts=facts, problems=self.problems, sections=sections)

    def text(self) -> str:
        """The table of figures for the terminal, "" without any."""
        rows = [
            [*key, *(f"{values[name]:.2f}" if name in values else "" for name in self.runs)]
            for key, values in self.figures.items()
        ]
        headers = ["product", "data set", "protocol", "metric", *self.runs]
        return tabulate(rows, headers=headers, disable_numparse=True) if rows else ""


def _names(output_dirs: Sequence[Path]) -> dict[str, Path]:
    """The runs by the names of their folders, or by their whole paths where these are equal."""
    short: dict[str, Any] = {path.resolve().name: path for path in output_dirs}
    if len(short) == len(output_dirs):
        return short
    return {str(path): path for path in output_dirs}


def is_current(path: Path, output_dirs: Sequence[Path]) -> bool:
    """Whether a report exists and nothing in the run folders has been written since."""
    try:
        written = path.stat().st_mtime_ns
    except OSError:
        return False
    products = (p for folder in output_dirs for p in folder.glob("*/**/*") if p.is_file())
    return all(file.stat().st_mtime_ns <= written for file in products)


def make_report(args: Namespace) -> None:
    """Write the report, where it is not current, and print the figures.

    Raises:
        WSISError: no such folder, no run in it, a damaged manifest, or no place to write.
    """
    output_dirs = [Path(name) for name in args.runs]
    several = len(output_dirs) > 1
    path = Path(args.output or (COMPARISON if several else output_dirs[0] / "report.html"))
    check_output("--output", path, what="an HTML file")
    if args.if_changed and is_current(path, output_dirs):
        said = "nothing to draw anew"
    else:
        report: Comparison | Report = (
            Comparison(output_dirs, args) if several else Report(output_dirs[0], args)
        )
        text = report.html()
        with writing(path, "--output"), atomic_write(path, "w") as stream:
            stream.write(text)
        said = f"{report.text() or 'nothing has been evaluated'}\n"
    sys.stdout.write(f"{said}\nreport: {path.resolve()}\n")

"""The last lines of a run: the few figures that count, where things are, what to do next."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wsis.data.user import entries_of
from wsis.engine.evaluate import METRICS, evaluated_on
from wsis.engine.launch import same_processes
from wsis.engine.manifest import Manifest
from wsis.engine.pipeline import MODEL_FINAL, Pipeline, PlannedStage
from wsis.evaluation.results import format_table, lost_to_baselines, main_figures, stage_title
from wsis.stage import ExportStage, TrainStage
from wsis.stages import detection_evaluator

logger = logging.getLogger(__name__)

REPORT = "report.html"  # in OUTPUT_DIR, where tools/report.py was run
Entries = Sequence[Mapping[str, Any]]


def tell_ending(
    pipeline: Pipeline,
    found: Entries,
    *,
    done: Sequence[str],
    shown: Sequence[str],
    others: Entries = (),
    words: Sequence[str] = (),
) -> None:
    """Log a short table of the stages ``shown``, paths and commands, then lost comparisons.

    Args:
        pipeline: what has run.
        found: all figures, as `wsis.engine.evaluate.collect_figures` gives them.
        done: stages with a product that is finished and up to date.
        shown: the chosen stages.
        others: the figures among ``found`` of another checkpoint, which the command measured.
        words: config file and overrides of the command, for the next ones.
    """
    rows = [
        entry
        for entry in found
        if entry["stage"] in shown
        and (entry in others if entry.get("weights") else others or entry["stage"] in done)
    ]
    made = [planned for planned in pipeline.stages if planned.name in done]
    chosen = [planned for planned in made if planned.name in shown]
    blocks = [format_table(rows, found)] if main_figures(rows) else []
    blocks += [
        "\n".join(lines)
        for lines in (
            _remarks(chosen),
            _unmeasured(chosen, rows),
            _places(pipeline, chosen, rows),
            _commands(pipeline, made, words, {entry["dataset"] for entry in found}),
        )
        if lines
    ]
    if blocks:
        logger.info(
            "%s in %s\n\n%s\n", pipeline.name, _short(pipeline.output_dir), "\n\n".join(blocks)
        )
    for (title, _), sentence in lost_to_baselines(found).items():
        if title in map(stage_title, rows):
            logger.warning("%s", sentence)


def _short(path: Path) -> str:
    """A path below the present folder without it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _remarks(chosen: Sequence[PlannedStage]) -> list[str]:
    """What the counts of the products call for."""
    found = [Manifest.read(planned.folder) for planned in chosen]
    return [text for manifest in found if manifest for text in manifest.remarks]


def _unmeasured(chosen: Sequence[PlannedStage], rows: Entries) -> list[str]:
    """Products whose data set has nothing to compare them with, and images that have nothing."""
    measured = {(entry["stage"], entry["dataset"]) for entry in rows}
    without: dict[str, list[str]] = {}
    for planned in chosen:
        for name in evaluated_on(planned) if planned.stage.evaluation else ():
            if (planned.name, name) not in measured:
                without.setdefault(name, []).append(planned.name)
    said = [f"{', '.join(stages)} on {name}" for name, stages in without.items()]
    lines = [f"no true masks to measure against: {'; '.join(said)}"] if said else []
    partly = {}
    for entry in rows:
        if lacking := int(entry["metrics"].get("images_without_ground_truth", 0)):
            partly[entry["dataset"]] = lacking, lacking + int(entry["metrics"]["images"])
    lines += [
        f"no true masks: {n} of {total} images of {name}" for name, (n, total) in partly.items()
    ]
    return lines


def _places(pipeline: Pipeline, chosen: Sequence[PlannedStage], rows: Entries) -> list[str]:
    """Where labels, weights, figures and the report are."""
    places = {}
    for planned in chosen:
        if isinstance(planned.stage, ExportStage):
            places["labels"] = planned.folder / planned.stage.file_name
    for planned in chosen:
        if isinstance(planned.stage, TrainStage):
            places["weights"] = planned.folder / MODEL_FINAL
    if rows:
        places["all figures"] = pipeline.output_dir / METRICS
    places["report"] = pipeline.output_dir / REPORT
    return [f"{what:<12} {_short(path)}" for what, path in places.items() if path.is_file()]


def _back(pipeline: Pipeline, planned: PlannedStage) -> list[str]:
    """Options of tools/export.py that lead back into the tool that the boxes or points are from."""
    names, place = tuple(planned.cfg.WSIS.IMAGES), pipeline.output_dir
    entries, merge = entries_of(names), list[str]()
    seen = {one.stage.supervision for one in pipeline.stages}
    if len(names) == len(entries) == 1 and seen & {"point", "box"}:
        form = entries[0]["FORMAT"]
        if form in ("labelme", "yolo"):
            return ["--format", form, "--output", _short(place / form)]
        if form == "coco":
            merge = ["--merge", _short(Path(entries[0]["JSON"]).absolute())]
    return ["--format", "coco-polygons", *merge, "--output", _short(place / "labels.json")]


def _commands(
    pipeline: Pipeline, made: Sequence[PlannedStage], words: Sequence[str], measured: set[str]
) -> list[str]:
    """The next commands: to go on, or what to do with labels and weights.

    Labels of data sets that are not among those ``measured`` can be, once some are corrected.
    """
    if not made:
        return []
    config, *overrides = words or ("CONFIG",)
    place = pipeline.output_dir
    commands = [["python", "tools/report.py", _short(place)]]
    for planned in made:
        if isinstance(planned.stage, ExportStage):
            labels = _short(planned.folder / planned.stage.file_name)
            commands.append(["python", "tools/export.py", labels, *_back(pipeline, planned)])
            if not measured & set(planned.cfg.WSIS.IMAGES):
                options = ["--predictions", labels, "--dataset", "CORRECTED_MASKS"]
                commands.append(["python", "tools/evaluate.py", *options])
    if len(made) < len(pipeline.stages):
        start = same_processes(made[0].cfg.MODEL.DEVICE)
        commands.append([*start, "--config-file", config, *overrides])
    elif any(planned.stage.evaluation is detection_evaluator for planned in made):
        options = ["--input", "PHOTOGRAPHS", "--output", _short(place / "found")]
        commands.append(["python", "tools/demo.py", "--config-file", config, *options, *overrides])
    lines = map(shlex.join, commands)
    return [f"{'next' if not number else '':<12} {line}" for number, line in enumerate(lines)]

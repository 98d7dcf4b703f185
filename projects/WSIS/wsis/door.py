"""Runs pipelines and scores predictions from Python; ``train_net.py`` does the same."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from wsis.commands import check_output, writing
from wsis.data.builtin import get_dataset_dicts, given_name, reading_once
from wsis.data.files import write_json
from wsis.data.label_files import CocoResults
from wsis.data.recognize import tool_of
from wsis.data.user import named_entries, register_role
from wsis.engine.evaluate import METRICS
from wsis.engine.launch import check_device, choose_devices, launch, started_by_torchrun
from wsis.engine.listing import other_run
from wsis.engine.lock import output_lock
from wsis.engine.manifest import MANIFEST
from wsis.engine.pipeline import PlannedStage, load_pipeline
from wsis.engine.run import run as run_stages
from wsis.engine.trainer import images_per_process
from wsis.errors import DataError, UsageError, WSISError
from wsis.evaluation.predictions import InstancePrediction
from wsis.evaluation.results import format_figures, json_results
from wsis.evaluation.voc_instance import VOCInstanceEvaluator, build_measures
from wsis.progress import progress
from wsis.report.run_folders import find_labels
from wsis.stage import TrainStage
from wsis.visualization.canvas import counted

logger = logging.getLogger(__name__)


def run(
    config_file: str | os.PathLike[str],
    overrides: Sequence[Any] = (),
    *,
    stage: str | None = None,
    from_stage: str | None = None,
    until_stage: str | None = None,
    force: bool = False,
    resume: bool = False,
    eval_only: bool = False,
    num_gpus: int | None = None,
    num_processes: int | None = None,
) -> dict[str, Any]:
    """Run a pipeline, or some of its stages, from where it stands.

    Args:
        config_file: a pipeline's YAML.
        overrides: ``KEY, VALUE, ...`` as on the command line of ``train_net.py``.
        stage: run this one only.
        from_stage: run from this one.
        until_stage: run until this one.
        force: redo the chosen stages from scratch.
        resume: train on where only SOLVER.MAX_ITER has grown.
        eval_only: evaluate what is there and make nothing; with MODEL.WEIGHTS among the overrides
            that checkpoint, on the chosen stages whose network it fits.
        num_gpus: on this machine; None takes one where there is one.
        num_processes: on the CPU, where no GPU is used.

    Returns:
        What ``OUTPUT_DIR/metrics.json`` holds: ``{"stages": [{"stage", "dataset", "protocol",
        "metrics"}], ...}``, in per cent.

    Raises:
        WSISError: a mistake in the request or the data, with what to do next.
    """
    if isinstance(overrides, str | Mapping):
        raise UsageError("overrides are a list, [KEY, VALUE, ...]")
    device, processes = choose_devices(num_gpus, num_processes)
    if started_by_torchrun():
        processes = int(os.environ["WORLD_SIZE"])
    config_file = os.fspath(config_file)
    words = ("MODEL.DEVICE", device, *("" if o is None else str(o) for o in overrides))
    selection = {"stage": stage, "first": from_stage, "last": until_stage}
    datasets = named_entries()  # other processes do not know what was registered in this one
    here = processes == 1  # else one of the processes reads the data sets for all, and not yet
    with reading_once():
        known = {"num_processes": processes, "networks": here, "classes": here}
        pipeline = load_pipeline(config_file, words, **known)
        chosen = pipeline.select(**selection)
        for planned in chosen:
            _check_processes(planned, processes, device, eval_only=eval_only)
        if not (force or eval_only) and (other := other_run(pipeline, chosen)):
            raise UsageError(other)
        one_of_many = started_by_torchrun() and os.environ["RANK"] != "0"
        with nullcontext() if one_of_many else output_lock(pipeline.output_dir):
            options = {"force": force, "resume": resume, "eval_only": eval_only}
            work = partial(run_stages, config_file, words, selection, datasets=datasets, **options)
            launch(partial(work, pipeline=pipeline) if here else work, processes, device=device)
    return json.loads((pipeline.output_dir / METRICS).read_text(encoding="utf-8"))


def _check_processes(
    planned: PlannedStage, processes: int, device: str, *, eval_only: bool
) -> None:
    """Tell what stops a stage on so many processes before they are started."""
    check_device(planned.cfg)
    used = planned.cfg.MODEL.DEVICE
    if processes > 1 and used.partition(":")[0] != device:
        raise UsageError(
            f"stage {planned.name}: MODEL.DEVICE is {used}, but {processes} processes run on "
            f"{device}; for the CPU give --num-gpus 0 --num-processes {processes}"
        )
    if isinstance(planned.stage, TrainStage) and not eval_only:
        images_per_process(planned.cfg, processes)


def evaluate(
    predictions: str | os.PathLike[str],
    dataset: str | os.PathLike[str] | Mapping[str, Any],
    protocols: str | Sequence[str] | None = None,
) -> dict[str, dict[str, float]]:
    """Score anybody's predictions against a data set with true masks, or with true boxes.

    Args:
        predictions: a JSON in COCO's result format, as every Detectron2 model writes it: a list of
            ``{"image_id", "category_id", "score", "segmentation" and/or "bbox"}``. Or a COCO file,
            as pseudo labels are; or the folder of a run or stage that has such labels.
        dataset: the name of a registered data set, a path (COCO JSON, VOC tree) or an entry as
            `wsis.data.user.register_dataset` takes it, also as text, ``"{FORMAT: ...}"``.
        protocols: of "voc", "coco" and "coco_bbox"; None for the first two, or, where there are
            boxes and no masks, the last.

    Returns:
        ``{protocol: {metric: per cent}}``; protocols that need masks are left out, with a warning,
        where there are none.

    Raises:
        WSISError: a file is missing or damaged, an image or a category is not of the data set, or
            there is nothing that the protocols could measure.
    """
    return _score(Path(predictions), dataset, protocols)[0]


def _score(
    predictions: Path,
    dataset: str | os.PathLike[str] | Mapping[str, Any],
    protocols: str | Sequence[str] | None,
) -> tuple[dict[str, dict[str, float]], str]:
    """What `evaluate` returns, and how much was measured in words."""
    given = predictions
    with _telling_its_form(given):
        predictions = find_labels(given)
    if isinstance(dataset, list | tuple):
        raise UsageError("predictions are scored on one data set, not on a list of them")
    (name,) = register_role("VAL", dataset, stem=predictions.stem, source="wsis.evaluate")
    chosen = (protocols,) if isinstance(protocols, str) else protocols
    build_measures((), chosen or ())  # their names, before anything is read
    records = get_dataset_dicts(name)
    with _telling_its_form(given):
        found = CocoResults(predictions, name, records)
    if not found.has_scores and (Path(given_name(name)).parent / MANIFEST).is_file():
        logger.warning(
            "%s has no scores, and %s was made by a run: are they swapped?",
            predictions,
            given_name(name),
        )
    usable = _usable(found, records, chosen)
    evaluator = VOCInstanceEvaluator(name, usable, distributed=False)
    counts = []
    with progress(records, f"evaluate on {given_name(name)}", total=len(records)) as bar:
        for record in bar:
            here = InstancePrediction.of_annotations(found.find(record))
            counts.append(len(here.classes))
            evaluator.add(record, here)
    figures = {protocol: dict(metrics) for protocol, metrics in evaluator.evaluate().items()}
    none, objects = counts.count(0), evaluator.counts["objects"]
    said = (
        f"{counted(len(records), 'image')} with {counted(objects, 'object')}, "
        f"{counted(sum(counts), 'prediction')} ({predictions}); {none} of the images have none"
        f"{': all of their objects count as missed' if none else ''}"
    )
    return figures, f"WARNING: {said}" if 2 * none > len(counts) else said


@contextmanager
def _telling_its_form(path: Path) -> Iterator[None]:
    """Say of predictions that cannot be read which annotation tool's they are, if they are."""
    try:
        yield
    except WSISError:
        form = tool_of(path)
        if not form:
            raise
        raise DataError(
            f"{path} is in the form of {form}; predictions are a list in COCO's result format, a "
            "COCO file with masks or the folder of a run: write what was exported once more, with "
            "tools/export.py LABELS --format coco-rle --output FILE.json, and score that"
        ) from None


def _usable(
    found: CocoResults, records: Sequence[Mapping[str, Any]], wanted: Sequence[str] | None
) -> Sequence[str]:
    """The protocols that can be computed; a warning, or `DataError`, names the others."""
    given = given_name(found.name)
    annotations = [a for record in records for a in record.get("annotations", ())]
    masks = any("instance_file_name" in record for record in records)
    masks = masks or any("segmentation" in annotation for annotation in annotations)
    boxes = any("bbox" in annotation for annotation in annotations)
    tagged = annotations or any(record.get("image_labels") for record in records)
    if not masks and not boxes and tagged:
        raise DataError(
            f"{given} has neither masks nor boxes to measure {found.path} against; name a "
            "data set that has"
        )
    lacking = found.path if not found.has_masks else given if boxes and not masks else None
    if lacking is None:
        return wanted or ("voc", "coco")
    usable = [name for name in wanted or ("coco_bbox",) if name == "coco_bbox"]
    others = [name for name in wanted or ("voc", "coco") if name != "coco_bbox"]
    said = f"{lacking} has boxes and no masks: {' and '.join(others)} cannot be computed"
    if not usable:
        raise DataError(f"{said}; coco_bbox can")
    if others:
        logger.warning("%s; coco_bbox is", said)
    return usable


def print_scores(args: argparse.Namespace) -> None:
    """What ``tools/evaluate.py`` does."""
    predictions = Path(args.predictions)
    with _telling_its_form(predictions):
        predictions = find_labels(predictions)
    check_output("--json", args.json, predictions, args.dataset)
    figures, measured = _score(predictions, args.dataset, args.protocol)
    entries = json_results([{"protocol": p, "metrics": found} for p, found in figures.items()])
    sys.stdout.write(f"{format_figures(entries, ('protocol',))}\n\n{measured}\n")
    if args.json is not None:
        with writing(args.json, "--json"):
            write_json(args.json, {entry["protocol"]: entry["metrics"] for entry in entries})

"""``tools/demo.py``: a trained stage on photographs of the user's, as one picture each."""

from __future__ import annotations

import argparse
import glob
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from wsis.commands import check_output, writing
from wsis.data.builtin import image_keys
from wsis.data.files import atomic_write
from wsis.data.images import read_dataset_image, read_image, read_image_size
from wsis.data.proposals.folder import images_in
from wsis.data.pseudo_labels import image_root, write_pseudo_labels
from wsis.data.working_size import at_working_size
from wsis.engine.launch import keep_freed_memory
from wsis.engine.manifest import package_versions
from wsis.errors import DataError, UsageError
from wsis.trained_stage import (
    INSTANCE_ARRAYS,
    Arrays,
    Record,
    TrainedStage,
    choose_instances,
    choose_stage,
    has_instances,
    open_pipeline,
)
from wsis.views import views_of
from wsis.visualization.canvas import Canvas, Picture, counted
from wsis.visualization.instances import draw_detections, instance_labels

_COLUMNS = 4
_MOST_DRAWN = 20  # instances in one picture of a stage that gives every candidate a score


def save_picture(trained: TrainedStage, record: Record, arrays: Arrays, path: Path) -> None:
    """Draw what a stage made of a photograph, as a PNG."""
    with atomic_write(path) as stream:
        if trained.is_detector:
            image, arrays = read_image(record["file_name"]), trained.enlarged(record, arrays)
            labels = instance_labels(arrays["classes"], trained.classes, arrays["scores"])
            drawn = draw_detections(image, arrays["boxes"], labels, masks=arrays.get("masks"))
            Image.fromarray(drawn).save(stream, "PNG")
            return
        arrays, record = strongest(arrays), at_working_size(record, trained.max_pixels)
        image = read_dataset_image(record)
        canvas = Canvas(record, image, trained.classes, None, stage=trained.name)
        shown = [picture for view in views_of(arrays) for picture in view.draw(canvas, arrays)]
        figure = _figure([Picture(canvas.photo, "photograph"), *shown])
        figure.savefig(stream, format="png")


def strongest(arrays: Arrays) -> Arrays:
    """An artifact with its best instances only, as many as a picture can show."""
    if not has_instances(arrays) or len(arrays["scores"]) <= _MOST_DRAWN:
        return arrays
    best = np.argsort(-arrays["scores"], kind="stable")[:_MOST_DRAWN]
    return choose_instances(arrays, np.sort(best))


def _figure(pictures: Sequence[Picture]) -> Figure:
    """Panels with their titles, four in a row."""
    rows = -(-len(pictures) // _COLUMNS)
    columns = min(len(pictures), _COLUMNS)
    height, width = pictures[0].panel.shape[:2]
    figure = Figure(figsize=(3.6 * columns, rows * (3.6 * height / width + 0.5)), dpi=110)
    for number, picture in enumerate(pictures):
        axes = figure.add_subplot(rows, columns, number + 1)
        axes.imshow(picture.panel)
        axes.set_axis_off()
        axes.set_title(picture.title + (f": {picture.note}" if picture.note else ""), fontsize=8)
    figure.tight_layout()
    return figure


def find_images(words: Sequence[str]) -> list[str]:
    """Image files that the words name: files, folders and patterns.

    Raises:
        DataError: a word that names nothing.
    """
    found: list[str] = []
    for word in words:
        path = os.path.expanduser(word)
        if os.path.isdir(path):
            found += [record["file_name"] for record in images_in(path)]
        elif os.path.isfile(path):
            found.append(path)
        else:
            matches = sorted(filter(os.path.isfile, glob.glob(path, recursive=True)))
            if not matches:
                raise DataError(f"--input {word} names no file; it takes files, folders, patterns")
            found += matches
    return list({os.path.abspath(name): name for name in found}.values())


def _records(names: Sequence[str]) -> list[Record]:
    keys = image_keys([os.path.abspath(name) for name in names])
    sizes = [dict(zip(("height", "width"), read_image_size(name), strict=True)) for name in names]
    return [
        {"file_name": name, "image_key": key, "image_id": number, **size}
        for number, (name, key, size) in enumerate(zip(names, keys, sizes, strict=True), start=1)
    ]


def draw(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    names = find_images(args.input)
    planned = choose_stage(open_pipeline(args.config_file, args.opts), args.stage)
    weights = Path(args.weights) if args.weights else None
    if weights is not None and not weights.is_file():
        raise DataError(f"--weights {weights} names no file")
    if planned.cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()  # as runs do
    trained = TrainedStage(planned, weights=weights, min_score=args.confidence_threshold)
    tags = {} if args.tags is None else {"image_labels": trained.class_ids(args.tags)}
    folder, records = Path(args.output), _records(names)
    check_output("--json", args.json)
    folder.mkdir(parents=True, exist_ok=True)

    def show(record: Record) -> Mapping[str, Any]:
        arrays = trained.run(record | tags)
        target = folder / f"{record['image_key']}.{trained.name}.png"
        with writing(target, "--output"):
            save_picture(trained, record, arrays, target)
        sys.stdout.write(f"{target}{_said(arrays, trained, tagged=bool(tags))}\n")
        return arrays

    if args.json is not None:
        _write_json(Path(args.json), records, show, trained)
        return
    for record in records:
        show(record)


def _said(arrays: Arrays, trained: TrainedStage, *, tagged: bool) -> str:
    """ ": 3 instances", nothing where the stage makes none."""
    if not has_instances(arrays):
        return ""
    count = len(arrays["scores"])
    text = f": {counted(count, 'instance', none='no')}"
    if not count and trained.min_score > 0:
        text += f" that score {trained.min_score:g} (--confidence-threshold S shows weaker ones)"
    if trained.is_detector:
        return text
    if count > _MOST_DRAWN:
        text += f", the best {_MOST_DRAWN} drawn (--confidence-threshold S shows fewer)"
    if not count and not tagged:
        text += " (--tags CLASS ... tells the stage which classes are there)"
    return text


def _write_json(
    path: Path,
    records: list[Record],
    show: Callable[[Record], Mapping[str, Any]],
    trained: TrainedStage,
) -> None:
    def instances(record: Record) -> Mapping[str, Any]:
        arrays = show(record)
        missing = INSTANCE_ARRAYS - set(arrays)
        if missing:
            raise UsageError(f"--json: stage {trained.name} makes no {min(missing)}")
        # a detector's boxes are written too, so that instances without a mask are kept
        return {name: arrays[name] for name in (*INSTANCE_ARRAYS, "boxes") if name in arrays}

    info = {"description": f"made by stage {trained.name}", "versions": package_versions()}
    with writing(path, "--json"):
        counts = write_pseudo_labels(
            path,
            records,
            read_instances=instances,
            class_names=trained.classes,
            info=info,
            min_score=trained.min_score,
            max_pixels=trained.max_pixels,
        )
    root = os.path.relpath(image_root(records))
    sys.stdout.write(
        f"{path}: {counts['annotations']} instances in {counts['images']} images below {root}\n"
    )

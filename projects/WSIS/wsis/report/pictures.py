"""``tools/visualize.py``: pictures of data sets, pseudo labels and predictions as PNG files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from PIL import Image

from wsis.data.artifacts import check_key
from wsis.data.builtin import image_keys
from wsis.data.coco import read_coco
from wsis.data.files import atomic_write
from wsis.data.images import read_dataset_image
from wsis.engine.pipeline import load_pipeline
from wsis.engine.progress import iterate
from wsis.errors import UsageError, WSISError
from wsis.report.instances import (
    Source,
    artifact_source,
    found_in_annotations,
    prediction_source,
    pseudo_label_file_source,
)
from wsis.report.products import Picture, Scene, draw_found, draw_truth
from wsis.report.runs import read_run
from wsis.report.samples import Images, choose, read_images, true_objects
from wsis.visualization.instances import weak_panel
from wsis.visualization.panels import photo_panel, side_by_side

Record = dict[str, Any]
WIDTH = 480


def _weak(scene: Scene) -> Picture:
    """Boxes and points of a data set without masks, or its tags alone."""
    annotations = [a for a in scene.record.get("annotations", ()) if not a.get("iscrowd")]
    if not annotations:
        annotations = [{"category_id": i} for i in scene.record.get("image_labels", ())]
    boxes = np.full((len(annotations), 4), np.nan)
    points = np.full((len(annotations), 2), np.nan)
    for row, annotation in enumerate(annotations):
        if "bbox" in annotation:
            mode = annotation["bbox_mode"]
            boxes[row] = BoxMode.convert(list(annotation["bbox"]), mode, BoxMode.XYXY_ABS)
        if "point" in annotation:
            points[row] = annotation["point"]
    names = [scene.classes[a["category_id"]] for a in annotations]
    panel = weak_panel(scene.image, boxes, points, names, width=WIDTH)
    return Picture(panel, "annotations")


def _scene(record: Record, classes: tuple[str, ...]) -> Scene:
    image = read_dataset_image(record)
    return Scene(record, image, classes, true_objects(record), WIDTH)


def _draw_dataset(record: Record, classes: tuple[str, ...]) -> list[Picture]:
    scene = _scene(record, classes)
    return [*(draw_truth(scene) or [_weak(scene)])]


def _draw_source(record: Record, source: Source, min_score: float) -> list[Picture]:
    scene = _scene(record, source.images.classes)
    found = source.find(record)
    drawn = [] if found is None else [draw_found(scene, found.above(min_score), source.title)]
    return drawn + draw_truth(scene)


def _file_source(path: str, folder: str) -> Source:
    """A pseudo-label file with images in a folder, without a registered data set."""
    file = read_coco(path)
    records = [r | {"file_name": str(Path(folder) / r["file_name"])} for r in file.images]
    for record, key in zip(records, image_keys([r["file_name"] for r in records]), strict=True):
        record["image_key"] = key
    labels = {record["image_key"]: record.pop("annotations") for record in records}

    def find(record: Record) -> Any:
        size = (int(record["height"]), int(record["width"]))
        masks = [a for a in labels[record["image_key"]] if isinstance(a.get("segmentation"), dict)]
        return found_in_annotations(masks, size)

    return Source("file", "pseudo labels", Images((path,), file.class_names, records), find)


def _run_source(folder: str) -> Source:
    run = read_run(Path(folder))
    if run.predictions is not None:
        return prediction_source(run, read_images(run.dataset_names("DATASETS.TEST")))
    images = read_images(run.dataset_names("WSIS.IMAGES"))
    if run.pseudo_labels is not None:
        return pseudo_label_file_source(run.pseudo_labels, images)
    if not run.has_artifacts:
        raise UsageError(
            f"{folder} has no predictions; run train_net.py --stage {run.name} --eval-only first"
        )
    return artifact_source(run, images)


def _source(args: argparse.Namespace) -> Source:
    if args.kind == "predictions":
        return _run_source(args.folder)
    if args.dataset:
        return pseudo_label_file_source(Path(args.file), read_images((args.dataset,)))
    return _file_source(args.file, args.images)


def _write(path: Path, pictures: Iterable[Picture]) -> None:
    panels = [picture.panel for picture in pictures]
    try:
        with atomic_write(path, sync=False) as stream:
            Image.fromarray(side_by_side(panels)).save(stream, "PNG")
    except OSError as error:
        raise WSISError(f"cannot write {path} ({error.strerror}); choose --output") from None


def draw_pictures(args: argparse.Namespace) -> int:
    """Do what the command line asks for.

    Returns:
        number of files written.
    """
    if args.number < 0:
        raise UsageError(f"--number is {args.number}; 0 means all images")
    if args.config_file:
        load_pipeline(args.config_file, ())
    source = None if args.kind == "dataset" else _source(args)
    images = read_images((args.name,)) if source is None else source.images
    min_score = getattr(args, "min_score", None)
    if min_score is None:
        min_score = 0.5 if args.kind == "predictions" else 0.0
    output = Path(args.output)
    records = images.records
    if source is not None and source.keys is not None:  # a picture of nothing but truth misleads
        records = [record for record in records if record["image_key"] in source.keys]
    chosen = choose(records, args.number or len(records), seed=args.seed)
    for record in iterate(chosen, args.kind, total=len(chosen)):
        if source is None:
            pictures = _draw_dataset(record, images.classes)
        else:
            pictures = _draw_source(record, source, min_score)
        if not pictures:
            pictures = [Picture(photo_panel(read_dataset_image(record), width=WIDTH), "photograph")]
        _write(output / f"{check_key(record['image_key'])}.png", pictures)
    return len(chosen)


def draw(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    count = draw_pictures(args)
    sys.stdout.write(f"{count} pictures in {Path(args.output).resolve()}\n")

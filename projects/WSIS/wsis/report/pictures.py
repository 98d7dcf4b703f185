"""``tools/visualize.py``: data sets, proposals, pseudo labels and predictions as PNG files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from PIL import Image

from wsis.data.artifacts import ArtifactFolder, ProductReader, check_key
from wsis.data.builtin import image_keys
from wsis.data.coco import read_coco
from wsis.data.files import atomic_write
from wsis.data.images import read_dataset_image
from wsis.data.proposals.folder import images_in
from wsis.engine.manifest import MANIFEST
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
from wsis.report.products import Picture, Scene, draw_found, draw_truth, views_of
from wsis.report.runs import read_run
from wsis.report.samples import Images, choose, read_images, true_objects
from wsis.report.weak import draw_given, draw_weak, level_around
from wsis.visualization.panels import photo_panel, side_by_side

Record = dict[str, Any]
_Plan = tuple[list[Record], Callable[[Record], list[Picture]]]
WIDTH = 480


def _scene(record: Record, classes: tuple[str, ...]) -> Scene:
    image = read_dataset_image(record)
    return Scene(record, image, classes, true_objects(record), WIDTH)


def _draw_dataset(record: Record, classes: tuple[str, ...]) -> list[Picture]:
    scene = _scene(record, classes)
    return [*(draw_truth(scene) or [draw_weak(scene)])]


def _draw_source(record: Record, source: Source, min_score: float, level: str) -> list[Picture]:
    scene = _scene(record, source.images.classes)
    found = source.find(record)
    drawn = [] if found is None else [draw_found(scene, found.above(min_score), source.title)]
    return draw_given(scene, level) + drawn + draw_truth(scene)


def _draw_proposals(
    record: Record, classes: tuple[str, ...], folder: ArtifactFolder
) -> list[Picture]:
    scene, arrays = _scene(record, classes), folder[record["image_key"]]
    views = [view for view in views_of(arrays) if view.title == "proposals"]
    if not views:
        raise UsageError(
            f"{record['image_key']}: no proposals but {', '.join(sorted(arrays))}; give the folder "
            "that datasets/make_proposals.py wrote, or a run folder <n>_proposals"
        )
    return [*views[0].draw(scene, arrays), *draw_truth(scene)]


def _proposal_folder(path: str) -> ArtifactFolder:
    """Proposals by image key: of a run folder, or of what make_proposals.py wrote."""
    if (Path(path) / MANIFEST).is_file():
        return ProductReader(path, read_run(Path(path)).name)
    return ArtifactFolder(path)


def _given(args: argparse.Namespace) -> str:
    """What the method of the labels was given: of the run folders, else of the data set."""
    if args.kind == "predictions":
        run = read_run(Path(args.folder))
        return "" if run.predictions is not None else level_around(run.folder)
    level = level_around(Path(args.file))
    if not level and args.dataset:
        level = MetadataCatalog.get(args.dataset).get("supervision", "")
    return level if level in ("point", "box") else ""


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


def _proposal_plan(args: argparse.Namespace) -> _Plan:
    folder = _proposal_folder(args.folder)
    if args.dataset:
        images = read_images((args.dataset,))
    else:
        images = Images((args.images,), (), images_in(args.images))
    records = [record for record in images.records if record["image_key"] in folder]
    if not records:
        raise UsageError(
            f"{args.folder} has no proposals of {images.title}; make some with python "
            "datasets/make_proposals.py"
        )
    return records, lambda record: _draw_proposals(record, images.classes, folder)


def _source_plan(args: argparse.Namespace) -> _Plan:
    source, level = _source(args), _given(args)
    records, min_score = source.images.records, args.min_score
    if min_score is None:
        min_score = 0.5 if args.kind == "predictions" else 0.0
    if source.keys is not None:  # a picture of nothing but truth misleads
        records = [record for record in records if record["image_key"] in source.keys]
    return records, lambda record: _draw_source(record, source, min_score, level)


def _plan(args: argparse.Namespace) -> _Plan:
    """The images that can be drawn, and how."""
    if args.kind == "dataset":
        images = read_images((args.name,))
        return images.records, lambda record: _draw_dataset(record, images.classes)
    return _proposal_plan(args) if args.kind == "proposals" else _source_plan(args)


def draw_pictures(args: argparse.Namespace) -> int:
    """Do what the command line asks for.

    Returns:
        number of files written.
    """
    if args.number < 0:
        raise UsageError(f"--number is {args.number}; 0 means all images")
    if args.config_file:
        load_pipeline(args.config_file, ())
    records, pictures_of = _plan(args)
    output = Path(args.output)
    chosen = choose(records, args.number or len(records), seed=args.seed)
    for record in iterate(chosen, args.kind, total=len(chosen)):
        pictures = pictures_of(record)
        if not pictures:
            pictures = [Picture(photo_panel(read_dataset_image(record), width=WIDTH), "photograph")]
        _write(output / f"{check_key(record['image_key'])}.png", pictures)
    return len(chosen)


def draw(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    count = draw_pictures(args)
    sys.stdout.write(f"{count} pictures in {Path(args.output).resolve()}\n")

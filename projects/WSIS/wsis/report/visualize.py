"""``tools/visualize.py``: proposals, pseudo labels and predictions as PNG files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from detectron2.data import MetadataCatalog
from PIL import Image

from wsis.commands import writing
from wsis.data.artifacts import ArtifactFolder, ProductReader, check_key
from wsis.data.builtin import image_keys
from wsis.data.coco import read_coco
from wsis.data.files import atomic_write
from wsis.data.proposals.folder import images_in
from wsis.engine.manifest import MANIFEST
from wsis.engine.pipeline import load_pipeline
from wsis.errors import UsageError
from wsis.progress import progress
from wsis.report.run_folders import level_around, read_run_folder
from wsis.report.sections import make_canvas
from wsis.report.sources import (
    ImageSet,
    Source,
    artifact_source,
    choose,
    label_source,
    prediction_source,
    pseudo_label_source,
    read_images,
)
from wsis.views import proposals, views_of
from wsis.visualization.canvas import (
    Canvas,
    Picture,
    draw_found,
    draw_given,
    draw_truth,
)
from wsis.visualization.panels import side_by_side

# Images, what draws one, and the folder below --output where the pictures go.
_Work = tuple[ImageSet, Callable[[Canvas], list[Picture]], str]
WIDTH = 480


def _draw_source(canvas: Canvas, source: Source, min_score: float, level: str) -> list[Picture]:
    found, drawn = source.find(canvas.record), draw_given(canvas, level)
    if found is not None:
        shown = found.take(found.scores >= min_score)
        drawn = [*drawn, draw_found(canvas, shown, source.title)]
    return drawn + draw_truth(canvas)


def _draw_proposals(canvas: Canvas, folder: ArtifactFolder) -> list[Picture]:
    key = canvas.record["image_key"]
    arrays = folder[key]
    if proposals not in views_of(arrays):
        raise UsageError(
            f"{key}: no proposals but {', '.join(sorted(arrays))}; give the folder that "
            "datasets/make_proposals.py wrote, or a run folder <n>_proposals"
        )
    return [*proposals.draw(canvas, arrays), *draw_truth(canvas)]


def _given(args: argparse.Namespace) -> str:
    """The supervision of the method that made the labels: of the run, else of the data set."""
    if args.kind == "predictions":
        run = read_run_folder(Path(args.folder))
        return "" if run.predictions else level_around(run.folder)
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
    masks = {
        k: [a for a in v if isinstance(a.get("segmentation"), dict)] for k, v in labels.items()
    }
    return label_source(ImageSet((path,), file.class_names, records), masks)


def _run_sources(path: str) -> list[Source]:
    """One source for each data set that a trained network was evaluated on, else its product."""
    run = read_run_folder(Path(path))
    if run.predictions:
        named = {name: read_images((name,), run.max_pixels) for name in run.predictions}
        return [prediction_source(run, images) for images in named.values()]
    images = read_images(run.dataset_names("WSIS.IMAGES"), run.max_pixels)
    if run.pseudo_labels is not None:
        return [pseudo_label_source(run.pseudo_labels, images)]
    if not run.has_artifacts:
        raise UsageError(
            f"{path} has no predictions; run train_net.py --stage {run.name} --eval-only first"
        )
    return [artifact_source(run, images)]


def _proposal_work(args: argparse.Namespace) -> _Work:
    folder = ArtifactFolder(args.folder)  # that make_proposals.py wrote
    if (Path(args.folder) / MANIFEST).is_file():
        folder = ProductReader(args.folder, read_run_folder(Path(args.folder)).name)
    if args.dataset:
        images = read_images((args.dataset,))
    else:
        images = ImageSet((args.images,), (), images_in(args.images))
    records = [record for record in images.records if record["image_key"] in folder]
    if not records:
        raise UsageError(
            f"{args.folder} has no proposals of {images.title}; make some with python "
            "datasets/make_proposals.py"
        )
    return replace(images, records=records), partial(_draw_proposals, folder=folder), ""


def _source_work(args: argparse.Namespace) -> list[_Work]:
    if args.kind == "predictions":
        sources = _run_sources(args.folder)
    elif args.dataset:
        sources = [pseudo_label_source(Path(args.file), read_images((args.dataset,)))]
    else:
        sources = [_file_source(args.file, args.images)]
    level, min_score = _given(args), args.min_score
    if min_score is None:
        min_score = 0.5 if args.kind == "predictions" else 0.0
    work: list[_Work] = []
    for source in sources:
        draw_one = partial(_draw_source, source=source, min_score=min_score, level=level)
        place = source.images.title if len(sources) > 1 else ""  # two sets may share image keys
        work.append((source.images, draw_one, place))
    return work


def draw(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    if args.number < 0:
        raise UsageError(f"--number is {args.number}; 0 means all images")
    if args.config_file:
        load_pipeline(args.config_file, ())
    work = [_proposal_work(args)] if args.kind == "proposals" else _source_work(args)
    jobs = [(record, *one) for one in work for record in one[0].records]
    chosen = choose(jobs, args.number or len(jobs), seed=args.seed)
    for record, images, make, place in progress(chosen, args.kind, total=len(chosen)):
        canvas = make_canvas(record, images, WIDTH)
        panels = [picture.panel for picture in make(canvas)] or [canvas.photo]
        path = Path(args.output) / place / f"{check_key(record['image_key'])}.png"
        with writing(path, "--output"), atomic_write(path, sync=False) as stream:
            Image.fromarray(side_by_side(panels)).save(stream, "PNG")
    sys.stdout.write(f"{len(chosen)} pictures in {Path(args.output).resolve()}\n")

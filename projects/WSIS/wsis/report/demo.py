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
import torch
from detectron2.config import CfgNode
from matplotlib.figure import Figure
from PIL import Image

from wsis.data.artifacts import ProductReader
from wsis.data.builtin import class_names, image_keys
from wsis.data.files import atomic_write
from wsis.data.images import read_image, read_image_size
from wsis.data.mappers import build_mapper
from wsis.data.proposals.folder import images_in
from wsis.data.pseudo_labels import image_root, write_pseudo_labels
from wsis.engine.launch import choose_devices
from wsis.engine.models import build_inference_model
from wsis.engine.pipeline import Pipeline, PlannedStage, load_pipeline
from wsis.engine.versions import package_versions
from wsis.errors import DataError, UsageError, WSISError
from wsis.report.instances import INSTANCE_ARRAYS
from wsis.report.products import Arrays, Picture, Scene, views_of
from wsis.stage import DeriveStage, InferStage, Stage, TrainStage, get_stage
from wsis.stages import detection_evaluator
from wsis.visualization.instances import draw_detections, instance_labels
from wsis.visualization.panels import photo_panel

Record = dict[str, Any]
_COLUMNS = 4
_CONFIDENT = 0.5  # as Detectron2's demo
_MOST_DRAWN = 20  # instances in one picture of a stage that gives every candidate a score
_OF_INSTANCES = {*INSTANCE_ARRAYS, "boxes", "confidence", "ignore", "instance_peaks", "proposals"}


def is_detector(stage: Stage) -> bool:
    """Whether a stage trains a network that makes ``Instances`` of an image and of nothing else."""
    return isinstance(stage, TrainStage) and stage.evaluation is detection_evaluator


def _is_for_all_images(stage: Stage) -> bool:
    """Whether a product belongs to all images together: weights, or a summary."""
    return isinstance(stage, TrainStage) or getattr(stage, "reduce", None) is not None


def _can_show(pipeline: Pipeline, planned: PlannedStage) -> bool:
    """Whether a stage works on a photograph with, at most, tags."""
    stage = planned.stage
    if isinstance(stage, TrainStage):
        return is_detector(stage)
    if not isinstance(stage, InferStage | DeriveStage) or _is_for_all_images(stage):
        return False
    known = {other.name: other for other in pipeline.stages}
    for product in stage.consumes:
        name, _ = pipeline.producer(product, planned)
        if not _is_for_all_images(get_stage(name)) and not (
            name in known and _can_show(pipeline, known[name])
        ):
            return False
    return stage.supervision == "image"


def choose_stage(pipeline: Pipeline, name: str | None = None) -> PlannedStage:
    """The stage to show: ``name``, or the last one that makes instances of a photograph.

    Raises:
        UsageError: it is not there, or cannot be shown; the message lists those that can.
    """
    shown = [planned for planned in pipeline.stages if _can_show(pipeline, planned)]
    names = ", ".join(planned.name for planned in shown)
    if name is None:
        makers = [p for p in shown if is_detector(p.stage) or p.stage.produces == "instances"]
        if makers:
            return makers[-1]
        raise UsageError(
            f"no stage of pipeline {pipeline.name} makes instances of a photograph; "
            + (f"--stage shows {names}" if shown else "give another pipeline")
        )
    (planned,) = pipeline.select(stage=name)
    if planned not in shown:
        raise UsageError(
            f"stage {name} makes nothing of a photograph alone; "
            + (f"--stage shows {names}" if shown else "give another pipeline")
        )
    return planned


class _Fresh:
    """Artifacts of a stage, made of the photograph at hand when they are asked for."""

    def __init__(self, make: Callable[[], Arrays]) -> None:
        self._make = make
        self._known: Arrays | None = None

    def forget(self) -> None:
        self._known = None

    def __getitem__(self, key: str) -> Arrays:
        if self._known is None:
            self._known = self._make()
        return self._known


class Demo:
    """A trained stage that takes any photograph; earlier stages are run on it as far as needed.

    Args:
        pipeline: as it was trained.
        planned: one of its stages (`choose_stage`).
        weights: a checkpoint of the stage's network; by default the one that the pipeline trained.
        min_score: instances with a lower score are left out; None for 0.5 of a detector, else 0.

    Raises:
        UsageError: weights for a stage without a network.
        WSISError: it is not trained.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        planned: PlannedStage,
        *,
        weights: Path | None = None,
        min_score: float | None = None,
    ) -> None:
        if min_score is None:
            min_score = _CONFIDENT if is_detector(planned.stage) else 0.0
        self.pipeline, self.planned, self.min_score = pipeline, planned, min_score
        self.stages = {other.name: other for other in pipeline.stages}
        self.classes = tuple(class_names(planned.cfg.WSIS.IMAGES[0]))
        self._record: Record = {}
        self._fresh: dict[str, _Fresh] = {}
        self._make = self._maker(planned, weights)

    def _products(self, planned: PlannedStage) -> dict[str, Any]:
        products: dict[str, Any] = {}
        for product in planned.stage.consumes:
            name, folder = self.pipeline.producer(product, planned)
            if _is_for_all_images(get_stage(name)):
                products[product] = ProductReader(folder, name)
                continue
            if name not in self._fresh:
                self._fresh[name] = _Fresh(self._maker(self.stages[name], None))
            products[product] = self._fresh[name]
        return products

    def _maker(self, planned: PlannedStage, weights: Path | None) -> Callable[[], Arrays]:
        """What makes a stage's artifact of the photograph at hand."""
        stage, cfg = planned.stage, planned.cfg
        if is_detector(stage):
            return self._detector(planned, weights)
        if weights is not None and isinstance(stage, DeriveStage):
            raise UsageError(f"--weights: stage {planned.name} has no network of its own")
        products = self._products(planned)
        if isinstance(stage, DeriveStage):
            return lambda: stage.function(
                self._record, {name: reader[""] for name, reader in products.items()}, cfg
            )
        assert isinstance(stage, InferStage)
        mapper = build_mapper(cfg, stage.mapper, is_train=False, products=products)
        if stage.measured is not None:
            cfg = planned.with_values(stage.measured(products)).cfg
        model = build_inference_model(cfg, weights or products[stage.weights_from].weights)
        return lambda: stage.to_artifact(model([mapper(self._record)])[0])

    def _detector(self, planned: PlannedStage, weights: Path | None) -> Callable[[], Arrays]:
        stage, cfg = planned.stage, _with_threshold(planned.cfg, self.min_score)
        assert isinstance(stage, TrainStage)
        mapper = build_mapper(cfg, stage.mapper, is_train=False, products={})
        trained = weights or ProductReader(planned.folder, planned.name).weights
        model = build_inference_model(cfg, trained)

        def detect() -> Arrays:
            found = model([mapper(self._record)])[0]["instances"].to("cpu")
            arrays = {
                "classes": found.pred_classes.numpy(),
                "scores": found.scores.numpy(),
                "boxes": found.pred_boxes.tensor.numpy(),
            }
            if found.has("pred_masks"):
                arrays["masks"] = found.pred_masks.numpy().astype(bool)
            if "image_labels" not in self._record:
                return arrays
            keep = np.isin(arrays["classes"], self._record["image_labels"])
            return {name: values[keep] for name, values in arrays.items()}

        return detect

    @torch.no_grad()
    def run(self, record: Record) -> dict[str, np.ndarray]:
        """The stage's artifact of a photograph, without instances that score too low.

        Args:
            record: ``file_name``, ``image_key``, ``height``, ``width`` and, where the classes in it
                are known, ``image_labels``.
        """
        self._record = record
        for fresh in self._fresh.values():
            fresh.forget()
        return _above({k: np.asarray(v) for k, v in self._make().items()}, self.min_score)

    def class_ids(self, names: Sequence[str]) -> list[int]:
        """Class ids of tags.

        Raises:
            UsageError: a class that the network does not know.
        """
        for name in names:
            if name not in self.classes:
                raise UsageError(f"there is no class {name!r}; it knows {', '.join(self.classes)}")
        return sorted({self.classes.index(name) for name in names})

    def save_picture(self, record: Record, arrays: Arrays, path: Path) -> None:
        """Draw what `run` made, as a PNG."""
        image = read_image(record["file_name"])
        if is_detector(self.planned.stage):
            labels = instance_labels(arrays["classes"], self.classes, arrays["scores"])
            drawn = draw_detections(image, arrays["boxes"], labels, masks=arrays.get("masks"))
            with atomic_write(path) as stream:
                Image.fromarray(drawn).save(stream, "PNG")
            return
        arrays = _strongest(arrays)
        scene = Scene(record, image, self.classes, None, stage=self.planned.name)
        shown = [picture for view in views_of(arrays) for picture in view.draw(scene, arrays)]
        save_figure([Picture(photo_panel(image), "photograph"), *shown], path)


def _with_threshold(cfg: CfgNode, min_score: float) -> CfgNode:
    """A detector makes what is shown, as in Detectron2's demo: no less, and no masks in vain."""
    cfg = cfg.clone()
    cfg.defrost()
    for node in (cfg.MODEL.ROI_HEADS, cfg.MODEL.RETINANET):
        node.SCORE_THRESH_TEST = min_score
    return cfg


def _above(arrays: dict[str, np.ndarray], min_score: float) -> dict[str, np.ndarray]:
    """An artifact without the instances that score less, where it has instances."""
    if not _has_instances(arrays):
        return arrays
    # a stage gives score 0 to what it rejects
    return _chosen(arrays, (arrays["scores"] >= min_score) & (arrays["scores"] > 0))


def _strongest(arrays: Arrays) -> Arrays:
    """An artifact with its best instances only, as many as a picture can show."""
    if not _has_instances(arrays) or len(arrays["scores"]) <= _MOST_DRAWN:
        return arrays
    return _chosen(arrays, np.sort(np.argsort(-arrays["scores"], kind="stable")[:_MOST_DRAWN]))


def _chosen(arrays: Arrays, keep: np.ndarray) -> dict[str, np.ndarray]:
    """An artifact with some of its instances: a mask or indices."""
    return {k: v[keep] if k in _OF_INSTANCES else v for k, v in arrays.items()}


def _has_instances(arrays: Arrays) -> bool:
    """Whether an artifact has instances; a detector of boxes alone has no masks."""
    return INSTANCE_ARRAYS - {"masks"} <= set(arrays)


def save_figure(pictures: Sequence[Picture], path: Path) -> None:
    """Panels with their titles, four in a row, as a PNG."""
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
    with atomic_write(path) as stream:
        figure.savefig(stream, format="png")


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
    records = []
    for number, (name, key) in enumerate(zip(names, keys, strict=True), start=1):
        height, width = read_image_size(name)
        record = {"file_name": name, "image_key": key, "image_id": number}
        records.append(record | {"height": height, "width": width})
    return records


def draw(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    device, _ = choose_devices(None, None)
    names = find_images(args.input)
    pipeline = load_pipeline(args.config_file, ["MODEL.DEVICE", device, *args.opts])
    planned = choose_stage(pipeline, args.stage)
    weights = Path(args.weights) if args.weights else None
    if weights is not None and not weights.is_file():
        raise DataError(f"--weights {weights} names no file")
    demo = Demo(pipeline, planned, weights=weights, min_score=args.confidence_threshold)
    tags = {} if args.tags is None else {"image_labels": demo.class_ids(args.tags)}
    folder, records = Path(args.output), _records(names)
    if args.json is not None and Path(args.json).is_dir():
        raise UsageError(f"--json {args.json} is a folder; name a file in it")
    folder.mkdir(parents=True, exist_ok=True)

    def show(record: Record) -> Mapping[str, Any]:
        arrays = demo.run(record | tags)
        target = folder / f"{record['image_key']}.{planned.name}.png"
        try:
            demo.save_picture(record, arrays, target)
        except OSError as error:
            reason = error.strerror or error
            raise WSISError(f"cannot write {target} ({reason}); choose --output") from None
        sys.stdout.write(f"{target}{_counted(arrays, demo, tagged=bool(tags))}\n")
        return arrays

    if args.json is None:
        for record in records:
            show(record)
        return
    _write_json(Path(args.json), records, show, demo)


def _counted(arrays: Arrays, demo: Demo, *, tagged: bool) -> str:
    """ ": 3 instances", nothing where the stage makes none."""
    if not _has_instances(arrays):
        return ""
    count = len(arrays["scores"])
    text = f": {count or 'no'} instance{'' if count == 1 else 's'}"
    if is_detector(demo.planned.stage):
        return text
    if count > _MOST_DRAWN:
        text += f", the best {_MOST_DRAWN} drawn (--confidence-threshold S shows fewer)"
    if not count and not tagged:
        text += " (--tags CLASS ... tells the stage which classes are there)"
    return text


def _write_json(
    path: Path, records: list[Record], show: Callable[[Record], Mapping[str, Any]], demo: Demo
) -> None:
    def instances(record: Record) -> Mapping[str, Any]:
        arrays = show(record)
        missing = INSTANCE_ARRAYS - set(arrays)
        if missing:
            raise UsageError(f"--json: stage {demo.planned.name} makes no {min(missing)}")
        # with a detector's boxes all that it finds is written, also what has no mask
        return {name: arrays[name] for name in (*INSTANCE_ARRAYS, "boxes") if name in arrays}

    info = {"description": f"made by stage {demo.planned.name}", "versions": package_versions()}
    try:
        counts = write_pseudo_labels(
            path,
            records,
            read_instances=instances,
            class_names=demo.classes,
            info=info,
            min_score=demo.min_score,
        )
    except OSError as error:
        raise WSISError(f"cannot write {path} ({error.strerror}); choose --json") from None
    root = os.path.relpath(image_root(records))
    sys.stdout.write(
        f"{path}: {counts['annotations']} instances in {counts['images']} images below {root}\n"
    )

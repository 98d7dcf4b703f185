"""``tools/demo.py``: a trained stage on photographs of the user's, as one figure each."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from wsis.data.artifacts import ProductReader
from wsis.data.builtin import class_names, image_keys
from wsis.data.images import read_image
from wsis.data.mappers import build_mapper
from wsis.data.proposals.store import proposals_from_artifact
from wsis.engine.launch import choose_devices
from wsis.engine.models import build_inference_model
from wsis.engine.pipeline import Pipeline, PlannedStage, load_pipeline
from wsis.errors import UsageError, run_command
from wsis.layers.regions import Regions
from wsis.report.products import Picture, Scene, views_of
from wsis.stage import DeriveStage, InferStage
from wsis.visualization.panels import photo_panel

_DESCRIPTION = """\
Run a trained pipeline's network on photographs and draw what it finds: the photograph, class
response maps with their peaks, peak response maps, instances (whatever the stage makes).

The photographs need no annotations and no data set. Stages that work on segment proposals make
them on the way.
"""
_COLUMNS = 4


def build_parser() -> argparse.ArgumentParser:
    """The argument parser of ``tools/demo.py``."""
    parser = argparse.ArgumentParser(
        "demo.py", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="photographs")
    add("--config-file", required=True, help="the pipeline that was trained")
    add("--stage", help="the stage to run; by default the one that makes instances")
    add("--weights", metavar="FILE", help="a checkpoint in place of the pipeline's own")
    add(
        "--output",
        default=".",
        metavar="FOLDER",
        help="where <image>.<stage>.png goes; default here",
    )
    add("--tags", nargs="*", metavar="CLASS", help="classes in the photographs, if known")
    add(
        "--set",
        nargs="*",
        default=[],
        metavar="KEY VALUE",
        help="config overrides, as OUTPUT_DIR or MODEL.PEAK_CLASSIFIER.PEAK_THRESHOLD",
    )
    return parser


def choose_stage(pipeline: Pipeline, name: str | None = None) -> PlannedStage:
    """The stage to show: ``name``, or the last one that infers instances.

    Raises:
        UsageError: it is not there, or runs no network over images.
    """
    if name is not None:
        (planned,) = pipeline.select(stage=name)
        if isinstance(planned.stage, InferStage):
            return planned
        raise UsageError(f"stage {name} runs no network over images")
    for planned in reversed(pipeline.stages):
        if isinstance(planned.stage, InferStage) and planned.stage.produces == "instances":
            return planned
    raise UsageError(f"pipeline {pipeline.name} has no stage that infers instances; use --stage")


class Demo:
    """A trained stage that takes any photograph.

    Args:
        pipeline: as it was trained.
        planned: one of its stages.
        weights: a checkpoint of the stage's network; by default the one that the pipeline trained.

    Raises:
        WSISError: it is not trained, or works on products that no single photograph has.
    """

    def __init__(
        self, pipeline: Pipeline, planned: PlannedStage, weights: Path | None = None
    ) -> None:
        stage = planned.stage
        assert isinstance(stage, InferStage)
        products = {
            product: ProductReader(pipeline.producer(product, planned)[1], product)
            for product in stage.consumes
            if product != "proposals"
        }
        self.pipeline, self.planned, self.stage = pipeline, planned, stage
        self.mapper = build_mapper(planned.cfg, stage.mapper, is_train=False, products=products)
        self.model = build_inference_model(
            planned.cfg, weights or products[stage.weights_from].weights
        )
        if stage.prepare_model is not None:
            stage.prepare_model(self.model, products)
        self.classes = tuple(class_names(planned.cfg.DATASETS.TRAIN[0]))

    @torch.no_grad()
    def run(self, path: Path, tags: Sequence[str] | None = None) -> list[Picture]:
        """What the stage makes of a photograph.

        Args:
            path: an image file.
            tags: names of the classes in it, if they are known.
        """
        image = read_image(path)
        record: dict[str, Any] = {
            "file_name": str(path),
            "image_key": path.stem,
            "image_id": 0,
            "height": image.shape[0],
            "width": image.shape[1],
        }
        if tags is not None:
            record["image_labels"] = [self._class_id(name) for name in tags]
        sample = self.mapper(record)
        if "proposals" in self.stage.consumes:
            sample["proposals"] = self._proposals(record)
        output = self.stage.to_artifact(self.model([sample])[0])
        arrays = {name: np.asarray(value) for name, value in output.items()}
        scene = Scene(record, image, self.classes, None, stage=self.planned.name)
        shown = [picture for view in views_of(arrays) for picture in view.draw(scene, arrays)]
        return [Picture(photo_panel(image), "photograph"), *shown]

    def _class_id(self, name: str) -> int:
        if name not in self.classes:
            raise UsageError(f"there is no class {name!r}; it knows {', '.join(self.classes)}")
        return self.classes.index(name)

    def _proposals(self, record: dict[str, Any]) -> Regions:
        """Segment proposals as the pipeline's own stage makes them."""
        makers = [p for p in self.pipeline.stages if p.stage.produces == "proposals"]
        if not makers or not isinstance(makers[-1].stage, DeriveStage):
            raise UsageError(f"pipeline {self.pipeline.name} has no stage that derives proposals")
        maker = makers[-1]
        return proposals_from_artifact(maker.stage.function(record, {}, maker.cfg)).regions


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
    figure.savefig(path)


def draw(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    device, _ = choose_devices(None, None)
    pipeline = load_pipeline(args.config_file, ["MODEL.DEVICE", device, *args.set])
    weights = Path(args.weights) if args.weights else None
    demo = Demo(pipeline, choose_stage(pipeline, args.stage), weights)
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    keys = image_keys([os.path.abspath(name) for name in args.images])
    for name, key in zip(args.images, keys, strict=True):
        target = folder / f"{key}.{demo.planned.name}.png"
        save_figure(demo.run(Path(name), args.tags), target)
        sys.stdout.write(f"{target}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0, 1 (failure) or 2 (usage)."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    return run_command(lambda: draw(args))

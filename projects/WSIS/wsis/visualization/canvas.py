"""What a view is, and the pictures that more than one tool shows: instances, truth, what was given.

A view draws the arrays of one artifact. Those of one method lie in ``methods/<m>/views.py``, shared
ones in `wsis.views`. n instances, K true objects, H x W pixels.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from wsis.data.ground_truth import GroundTruth
from wsis.evaluation.predictions import InstancePrediction
from wsis.layers.run_lengths import rle_iou
from wsis.visualization.instances import (
    instance_labels,
    instances_panel,
    matched_colors,
    weak_panel,
)
from wsis.visualization.panels import PANEL_WIDTH, heat_panel, photo_panel

Arrays = Mapping[str, np.ndarray]
TRUTH_EXPLANATION = "The true objects, for comparison; hatched pixels are void."
GIVEN_EXPLANATION = "What the stages were given, and nothing more: boxes or points with classes."


@dataclass(frozen=True)
class Picture:
    """A panel (P, Q, 3) uint8 RGB with its caption."""

    panel: np.ndarray
    title: str = ""  # which kind it is, "" for that of the view that drew it
    note: str = ""  # what there is to say of this one


@dataclass(frozen=True)
class Canvas:
    """The photograph and all else that the pictures of an image are drawn with."""

    record: Mapping[str, Any]  # dataset dict
    image: np.ndarray  # (H, W, 3) uint8 RGB
    classes: tuple[str, ...]  # their names
    truth: GroundTruth | None  # None where there is none
    width: int = PANEL_WIDTH  # of the panels, pixels
    stage: str = ""  # that made the arrays, for people
    # Masks of a confidence above this train masks: MODEL.ROI_MASK_HEAD.MIN_CONFIDENCE, as published
    # where no stage has one.
    min_confidence: float = 0.95

    @cached_property
    def photo(self) -> np.ndarray:
        """The photograph as a panel."""
        return photo_panel(self.image, self.width)

    @property
    def scale(self) -> np.ndarray:
        """(4,) by which XYXY boxes in the image become boxes in the panel."""
        (height, width), (rows, columns) = self.image.shape[:2], self.photo.shape[:2]
        return np.array([columns / width, rows / height] * 2)

    def heat(self, values: np.ndarray, *, highest: float = 1.0) -> np.ndarray:
        """`heat_panel` of a map (h, w)."""
        return heat_panel(self.photo, values, highest=highest)


@dataclass(frozen=True)
class View:
    """How arrays become pictures."""

    title: str  # what it is, in general
    needs: tuple[str, ...]  # names of arrays that an artifact must have for this view
    explanation: str  # one sentence for the reader
    function: Callable[[Canvas, Arrays], list[Picture]]

    def draw(self, canvas: Canvas, arrays: Arrays) -> list[Picture]:
        """The pictures of one artifact."""
        drawn = self.function(canvas, arrays)
        return [replace(picture, title=picture.title or self.title) for picture in drawn]


def view(title: str, *needs: str) -> Callable[[Callable[[Canvas, Arrays], list[Picture]]], View]:
    """Make a `View` of the function below; its docstring is what readers of a report see."""

    def declare(function: Callable[[Canvas, Arrays], list[Picture]]) -> View:
        return View(title, needs, " ".join((inspect.getdoc(function) or "").split()), function)

    return declare


def note_rest(pictures: list[Picture], left_out: int, what: str) -> list[Picture]:
    """The same pictures; where some are left out, the last one says how many: "(3 more peaks)"."""
    if left_out > 0:
        pictures[-1] = replace(pictures[-1], note=f"{pictures[-1].note} ({left_out} more {what})")
    return pictures


def highest_peaks(canvas: Canvas, arrays: Arrays) -> list[tuple[int, str]]:
    """The rows of the six highest peaks of an artifact, with class and height for people."""
    values, classes = arrays["peak_values"], arrays["peaks"][:, 0]
    rows = np.argsort(-values, kind="stable")[:6].tolist()
    return [(row, f"{canvas.classes[classes[row]]} {values[row]:.3g}") for row in rows]


def counted(number: int, what: str, *, none: str = "0") -> str:
    """ "1 object", "2 objects"; ``none`` stands for 0."""
    return f"{number or none} {what}{'' if number == 1 else 's'}"


def draw_found(canvas: Canvas, found: InstancePrediction, title: str = "") -> Picture:
    """Ranked instances on the photograph; where there is truth, coloured as what they found."""
    colors = None
    labels = instance_labels(found.classes, canvas.classes, found.scores)
    note = counted(len(found.classes), "instance", none="no")
    if found.masks is None:  # of a detector of boxes
        points = np.full((len(labels), 2), np.nan)
        return Picture(
            weak_panel(canvas.photo, found.boxes * canvas.scale, points, labels), title, note
        )
    if canvas.truth is not None:
        colors = matched_colors(rle_iou(found.rles, canvas.truth.rles))
    panel = instances_panel(canvas.photo, found.masks, labels, colors=colors, ignore=found.ignore)
    return Picture(panel, title, note)


def draw_truth(canvas: Canvas) -> list[Picture]:
    """The true objects, none if there is no ground truth."""
    truth = canvas.truth
    if truth is None:
        return []
    labels = instance_labels(truth.classes, canvas.classes)
    panel = instances_panel(canvas.photo, truth.masks, labels, ignore=truth.void)
    return [Picture(panel, "ground truth", counted(len(truth.classes), "object", none="no"))]


def draw_annotations(canvas: Canvas, kinds: Sequence[str] = ("bbox", "point")) -> Picture:
    """Boxes and points (or one kind) of an image, or, where it has no annotations, its tags."""
    annotations = [a for a in canvas.record.get("annotations", ()) if not a.get("iscrowd")]
    if not annotations:
        annotations = [{"category_id": i} for i in canvas.record.get("image_labels", ())]
    boxes = np.full((len(annotations), 4), np.nan)
    points = np.full((len(annotations), 2), np.nan)
    for row, annotation in enumerate(annotations):
        if "bbox" in kinds and "bbox" in annotation:
            mode = annotation["bbox_mode"]
            boxes[row] = BoxMode.convert(list(annotation["bbox"]), mode, BoxMode.XYXY_ABS)
        if "point" in kinds and "point" in annotation:
            points[row] = annotation["point"]
    names = [canvas.classes[a["category_id"]] for a in annotations]
    boxes, points = boxes * canvas.scale, points * canvas.scale[:2]
    return Picture(weak_panel(canvas.photo, boxes, points, names), "annotations")


def draw_given(canvas: Canvas, level: str) -> list[Picture]:
    """The boxes or points that a method was given (level "box" or "point").

    Nothing where the method had tags alone (""), or where the record has no such annotations, as in
    a folder of images.
    """
    key, title = {"box": ("bbox", "given boxes"), "point": ("point", "given points")}.get(
        level, ("", "")
    )
    if not any(key in annotation for annotation in canvas.record.get("annotations", ())):
        return []
    return [replace(draw_annotations(canvas, (key,)), title=title)]

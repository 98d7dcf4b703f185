"""Masks predicted inside given boxes: their IoU with the true mask of each box.

No matching and no scores: every annotation has its own prediction. Two baselines stand beside it,
the filled box and GrabCut started from the box. K boxes, H x W image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode

from wsis.data.annotations import annotated_boxes, boxed_annotations, rounded_boxes
from wsis.data.builtin import get_dataset_dicts
from wsis.data.ground_truth import GroundTruth
from wsis.data.images import read_dataset_image
from wsis.data.supervision import restrict_supervision
from wsis.data.working_size import AtWorkingSize
from wsis.errors import DataError
from wsis.evaluation.image_loop import Arrays, DatasetDicts, ImageLoop, Product, Results
from wsis.evaluation.streaming import Measure, Metrics, Record, column, percent, ratio
from wsis.layers.box_baselines import filled_boxes, grabcut_boxes
from wsis.layers.masks import box_iou, iou_of_areas, mask_boxes

IOU_LEVELS = (0.25, 0.5, 0.7, 0.75)
_FILLED, _GRABCUT = "baseline filled box", "baseline GrabCut"  # protocols
_SAME_BOX = 0.5  # a box and a mask are the same object if the IoU of their boxes reaches this


def class_mean_iou(
    ious: np.ndarray, classes: np.ndarray, *, num_classes: int
) -> tuple[np.ndarray, float]:
    """The original's mIoU*: mean of the classes' mean IoU (boxcaseg spec 6).

    ``ious`` and ``classes`` (ids) are (K,). Returns the mean of each class, (C,) float64, 0 for a
    class without instances, and the mean of these over all C classes.
    """
    sums = np.bincount(classes, weights=ious, minlength=num_classes)
    counts = np.bincount(classes, minlength=num_classes)
    means = sums / np.maximum(counts, 1)
    return means, float(means.sum() / num_classes)


def paired_iou(masks: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """(K,) float64 IoU of mask k with truth k, both (K, H, W) bool; 0 where both are empty."""
    shared, areas, others = (
        np.array(
            [np.count_nonzero(mask) for mask in stack], dtype=np.float64
        )  # far faster than sum
        for stack in (masks & truths, masks, truths)
    )
    return iou_of_areas(shared, areas, others)


def object_of_boxes(record: Mapping[str, Any], truth: GroundTruth) -> np.ndarray:
    """Which true object each annotated box encloses: (K,) int64, -1 where there is none.

    Crowds and annotations without a box do not count. In most data sets an annotation has box and
    mask. Elsewhere (VOC's XML beside its PNG) boxes and masks of a class are matched by the IoU of
    their boxes, best first.
    """
    if "instance_file_name" not in record:
        objects = [a for a in record.get("annotations", ()) if not a.get("iscrowd")]
        return np.flatnonzero(["bbox" in a for a in objects])
    classes = np.array([a["category_id"] for a in boxed_annotations(record)])
    return _matched(annotated_boxes(record), classes, truth)


def objects_of_product(
    record: Mapping[str, Any], truth: GroundTruth, boxes: np.ndarray, classes: np.ndarray
) -> np.ndarray:
    """Which true object each box (K, 4) of a product encloses: (K,) int64, -1 for none.

    If the product has the boxes of the evaluated data set, box k is that of annotation k. If it has
    others (a detector's, say), they are matched by class and overlap.
    """
    stated, boxes = annotated_boxes(record), np.asarray(boxes, dtype=np.float64)
    if len(stated) == len(boxes) and bool((box_iou(stated, boxes).diagonal() >= _SAME_BOX).all()):
        return object_of_boxes(record, truth)
    return _matched(boxes, np.asarray(classes), truth)


def _matched(boxes: np.ndarray, classes: np.ndarray, truth: GroundTruth) -> np.ndarray:
    """(K,) int64: objects of the boxes by class and the IoU of boxes, best first; -1 for none."""
    result = np.full(len(boxes), -1, dtype=np.int64)
    if not len(boxes) or not len(truth.classes):
        return result
    true_boxes = mask_boxes(torch.from_numpy(np.ascontiguousarray(truth.masks))).double()
    iou = box_iou(boxes, true_boxes).numpy()
    iou[classes[:, None] != truth.classes[None, :]] = 0
    while iou.max(initial=0) >= _SAME_BOX:
        row, column = np.unravel_index(iou.argmax(), iou.shape)
        result[row] = column
        iou[row], iou[:, column] = 0, 0
    return result


class BoxMaskMeasure(Measure):
    """mIoU of masks inside given boxes, named ``protocol``; there are C ``class_names``."""

    def measure(self, pair: tuple[Mapping[str, np.ndarray], np.ndarray]) -> Record:
        """``iou`` and ``classes`` (K,) of an image; ``pair`` is IoU by protocol, and classes."""
        return {"iou": pair[0][self.protocol], "classes": pair[1]}

    def summarise(self, records: Sequence[Record]) -> Metrics:
        """``mIoU`` over instances, the original's ``mIoU*`` over classes, shares above an IoU."""
        number = len(self.class_names)
        ious, classes = column(records, "iou", np.float64), column(records, "classes", np.int64)
        means, starred = class_mean_iou(ious, classes, num_classes=number)
        metrics: Metrics = {"mIoU": ratio(float(ious.sum()), len(ious))}
        metrics["mIoU*"] = percent(starred) if len(ious) else float("nan")
        for level in IOU_LEVELS:
            name = f"IoU@{100 * level:.0f}"
            metrics[name] = ratio(int((ious >= level).sum()), len(ious))
        present = np.bincount(classes, minlength=number) > 0
        for name, mean, there in zip(self.class_names, means, present, strict=True):
            metrics[f"mIoU/{name}"] = percent(mean) if there else float("nan")
        metrics["boxes"] = len(ious)
        return metrics


class BoxMaskStream:
    """The masks of a network, filled boxes and GrabCut, measured on the same boxes.

    ``title`` names the figures of the network's masks. Without ``baselines`` only these are
    measured; with ``grabcut_iterations`` 0 GrabCut is left out.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        *,
        title: str = "box masks",
        baselines: bool = True,
        grabcut_iterations: int = 5,
    ) -> None:
        self.title, self.grabcut_iterations = title, grabcut_iterations
        more = (_FILLED, _GRABCUT) if grabcut_iterations else (_FILLED,)
        self._titles = (title, *more) if baselines else (title,)
        self.measures = [BoxMaskMeasure(one, class_names) for one in self._titles]

    def take(
        self,
        record: Mapping[str, Any],
        truth: GroundTruth,
        found: Arrays | None,
        *,
        given: Mapping[str, Any] | None = None,
        chosen: np.ndarray | None = None,
    ) -> None:
        """Measure one image; a box without a true mask does not count.

        Args:
            record: dataset dict.
            truth: its true masks.
            found: ``masks`` (K, H, W) bool and ``boxes`` (K, 4) integers. Without ``classes`` (K,)
                the boxes are those of the annotations, in their order; with them see
                `objects_of_product`. None for an image that could not be read: its masks are empty.
            given: the dataset dict whose boxes the masks were made for, if that is another one.
            chosen: (K,) bool, the boxes that count; None for all.

        Raises:
            DataError: the numbers of masks and boxes differ.
        """
        if found is None or "classes" not in found:
            objects = object_of_boxes(record, truth)
        else:
            objects = objects_of_product(record, truth, found["boxes"], found["classes"])
        known = (objects >= 0) & (True if chosen is None else chosen)
        ious = dict.fromkeys(self._titles, np.zeros(int(known.sum())))
        if found is not None:
            size = truth.void.shape
            if found["masks"].shape != (len(objects), *size):
                raise DataError(
                    f"image {record['image_key']}: masks of shape {found['masks'].shape} for "
                    f"{len(objects)} boxes in an image of {size[0]} x {size[1]}; make them again"
                )
            made = {self.title: found["masks"][known]}
            # A network may have seen more, boxes that have grown outwards; the baselines do not.
            boxes = rounded_boxes(given or record, size)
            boxes = (boxes if len(boxes) == len(found["boxes"]) else found["boxes"])[known]
            if _FILLED in self._titles:
                made[_FILLED] = filled_boxes(boxes, size)
            if _GRABCUT in self._titles:
                image, iterations = read_dataset_image(dict(record)), self.grabcut_iterations
                made[_GRABCUT] = grabcut_boxes(image, boxes, iterations=iterations)
            truths = truth.masks[objects[known]]
            ious = {title: paired_iou(masks, truths) for title, masks in made.items()}
        for measure in self.measures:
            measure.add(record["image_key"], (ious, truth.classes[objects[known]]))


def check_box_masks(
    dataset_dicts: DatasetDicts,
    product: Product,
    class_names: Sequence[str],
    cfg: CfgNode,
    *,
    baselines: bool = True,
) -> Results:
    """Product with a mask and box for each annotation: mIoU of the masks and of the baselines.

    Without ``baselines`` only the masks are measured.
    """
    iterations = cfg.WSIS.EVALUATION.GRABCUT_ITERATIONS
    stream = BoxMaskStream(class_names, baselines=baselines, grabcut_iterations=iterations)
    slow = f" with GRABCUT_ITERATIONS {iterations}" if baselines and iterations else ""
    loop = ImageLoop(f"box masks{slow}", dataset_dicts, product)
    names = cfg.WSIS.IMAGES if cfg.WSIS.EVALUATION.IMAGES else ()  # else the boxes are at hand
    given = {
        record["image_key"]: record
        for name in names
        for record in AtWorkingSize(
            [restrict_supervision(r, "box") for r in get_dataset_dicts(name, cfg.WSIS.ON_ERROR)],
            cfg.INPUT.MAX_PIXELS,
        )
    }
    for record, truth, arrays in loop:
        stream.take(record, truth, arrays, given=given.get(record["image_key"]))
    return loop.results(stream.measures)

"""Masks predicted inside given boxes: their IoU with the true mask of each box.

No matching and no scores: every annotation has its own prediction. Two baselines stand beside it,
the filled box and GrabCut started from the box. K boxes, H x W image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode

from wsis.data.annotations import annotated_boxes, boxed_annotations, rounded_boxes
from wsis.data.builtin import class_names, get_dataset_dicts
from wsis.data.ground_truth import GroundTruth
from wsis.data.images import read_dataset_image
from wsis.data.supervision import restrict_supervision
from wsis.data.working_size import AtWorkingSize
from wsis.errors import DataError
from wsis.evaluation.evaluator import DatasetDict, Evaluator, Image, Part
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


def objects_of_image(image: Image) -> np.ndarray:
    """Which true object each box (K, 4) that was found encloses: (K,) int64, -1 for none.

    Boxes without ``classes`` (K,), and those that lie on the boxes of the evaluated data set, are
    those of the annotations, in their order. Others (a detector's, say) are matched by class and
    overlap.
    """
    if image.found is not None and "classes" in image.found:
        stated = annotated_boxes(image.record)
        boxes = np.asarray(image.found["boxes"], dtype=np.float64)
        same = len(stated) == len(boxes)
        if not same or not bool((box_iou(stated, boxes).diagonal() >= _SAME_BOX).all()):
            return _matched(boxes, np.asarray(image.found["classes"]), image.truth)
    return object_of_boxes(image.record, image.truth)


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

    def measure(self, pair: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Record:
        """``iou`` and ``classes`` (K,) of an image, from its `box_mask_pair`."""
        iou, classes = pair[self.protocol]
        return {"iou": iou, "classes": classes}

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


def box_mask_pair(
    image: Image,
    *,
    protocols: Sequence[str],
    grabcut_iterations: int = 0,
    given: Mapping[str, DatasetDict] | None = None,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """IoU of masks, and of baselines, with the true mask of each box that has one.

    Args:
        image: what was found has ``masks`` (K, H, W) bool and ``boxes`` (K, 4) integers, see
            `objects_of_image`.
        protocols: that of the masks first, then those of the baselines.
        grabcut_iterations: of that baseline.
        given: by image key the dataset dict whose boxes the masks were made for, if it is another.

    Returns:
        IoU, 0 if nothing was found, and class ids, (n,) each, by protocol.

    Raises:
        DataError: the numbers of masks and boxes differ.
    """
    (record, truth, found, _), objects = image, objects_of_image(image)
    known, size = objects >= 0, truth.void.shape
    if found is None:
        classes = truth.classes[objects[known]]
        return dict.fromkeys(protocols, (np.zeros(len(classes)), classes))
    if found["masks"].shape != (len(objects), *size):
        raise DataError(
            f"image {image.key}: masks of shape {found['masks'].shape} for "
            f"{len(objects)} boxes in an image of {size[0]} x {size[1]}; make them again"
        )
    # A network may have seen more, boxes that have grown outwards; the baselines do not.
    boxes = rounded_boxes((given or {}).get(image.key, record), size)
    boxes = (boxes if len(boxes) == len(found["boxes"]) else found["boxes"])[known]
    masks = {protocols[0]: found["masks"][known]}
    if _FILLED in protocols:
        masks[_FILLED] = filled_boxes(boxes, size)
    if _GRABCUT in protocols:
        picture = read_dataset_image(record)
        masks[_GRABCUT] = grabcut_boxes(picture, boxes, iterations=grabcut_iterations)
    truths, classes = truth.masks[objects[known]], truth.classes[objects[known]]
    return {name: (paired_iou(one, truths), classes) for name, one in masks.items()}


def box_mask_part(
    names: Sequence[str],
    cfg: CfgNode,
    *,
    baselines: bool = True,
    given: Mapping[str, DatasetDict] | None = None,
) -> Part:
    """A mask and a box for each annotation: mIoU of the masks and of the baselines, if wanted."""
    protocols, iterations = ["box masks"], cfg.WSIS.EVALUATION.GRABCUT_ITERATIONS
    if baselines:
        protocols += [_FILLED, _GRABCUT] if iterations else [_FILLED]
    options = {"protocols": protocols, "grabcut_iterations": iterations, "given": given}
    return partial(box_mask_pair, **options), [BoxMaskMeasure(p, names) for p in protocols]


def check_box_masks(name: str, cfg: CfgNode, *, baselines: bool = True) -> Evaluator:
    """Product ``box_masks``, see `box_mask_part`."""
    sources = cfg.WSIS.IMAGES if cfg.WSIS.EVALUATION.IMAGES else ()  # else the boxes are at hand
    given = {
        record["image_key"]: record
        for source in sources
        for record in AtWorkingSize(
            [restrict_supervision(r, "box") for r in get_dataset_dicts(source, cfg.WSIS.ON_ERROR)],
            cfg.INPUT.MAX_PIXELS,
        )
    }
    names = class_names(name)
    part = box_mask_part(names, cfg, baselines=baselines, given=given)
    iterations = cfg.WSIS.EVALUATION.GRABCUT_ITERATIONS  # which takes most of the time
    slow = f" with GRABCUT_ITERATIONS {iterations}" if baselines and iterations else ""
    return Evaluator(f"box masks{slow}", names, [part])

"""Ground truth for evaluation: an image without any is left out, a damaged one is an error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from wsis.data.ground_truth import GroundTruth, has_ground_truth, load_ground_truth


@dataclass(frozen=True, kw_only=True)
class EvaluationTruth(GroundTruth):
    """Ground truth with what COCO's own evaluation reads from annotations beyond the masks.

    Attributes:
        areas: (K,) float64, ``area`` of the annotation, NaN where it has none.
        boxes: (K, 4) float64, its ``bbox`` as x, y, width, height, NaN where it has none.
        crowd_masks: (M, H, W) bool, crowd regions apart by class.
        crowd_classes: (M,) int64.
        crowd_areas: (M,) float64, as ``areas``.
        crowd_boxes: (M, 4) float64, as ``boxes``.
    """

    areas: np.ndarray
    boxes: np.ndarray
    crowd_masks: np.ndarray
    crowd_classes: np.ndarray
    crowd_areas: np.ndarray
    crowd_boxes: np.ndarray


def _stated(annotations: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Areas (N,) and boxes (N, 4) that annotations state, NaN where they do not."""
    areas = [annotation.get("area", np.nan) for annotation in annotations]
    boxes = np.full((len(annotations), 4), np.nan)
    for row, annotation in enumerate(annotations):
        if "unclipped_bbox" in annotation:
            boxes[row] = annotation["unclipped_bbox"]
        elif "bbox" in annotation:
            mode = annotation.get("bbox_mode", BoxMode.XYWH_ABS)
            boxes[row] = BoxMode.convert(list(annotation["bbox"]), mode, BoxMode.XYWH_ABS)
    return np.array(areas, dtype=np.float64), boxes


def load_truth(dataset_dict: dict[str, Any]) -> GroundTruth | None:
    """The ground truth of an image, None if the data set has no masks for it.

    Areas and boxes come along where masks do so from annotations. Objects of a mask file (VOC) are
    measured by their masks, since the XML's boxes need not belong to the same objects.

    Raises:
        DataError: it has, but they cannot be read.
    """
    if not has_ground_truth(dataset_dict):
        return None
    truth = load_ground_truth(dataset_dict)
    if "instance_file_name" in dataset_dict:
        return truth
    annotations = dataset_dict.get("annotations", ())
    areas, boxes = _stated([a for a in annotations if not a.get("iscrowd")])
    crowds = [
        {**annotation, "iscrowd": 0}
        for annotation in annotations
        if annotation.get("iscrowd") and "segmentation" in annotation
    ]
    regions = load_ground_truth({**dataset_dict, "annotations": crowds, "image_labels": []})
    crowd_areas, crowd_boxes = _stated(crowds)
    return EvaluationTruth(
        **vars(truth),
        areas=areas,
        boxes=boxes,
        crowd_masks=regions.masks,
        crowd_classes=regions.classes,
        crowd_areas=crowd_areas,
        crowd_boxes=crowd_boxes,
    )


def load_box_truth(dataset_dict: dict[str, Any]) -> GroundTruth | None:
    """The true boxes of an image whose data set has no masks for it, for measures of boxes only.

    Masks are the filled boxes; boxes and areas are stated, so that measures of boxes do not look at
    them.

    Returns:
        None where an object has no box.
    """
    annotations = dataset_dict.get("annotations", ())
    if not annotations or not all("bbox" in a for a in annotations):
        return None
    size = int(dataset_dict["height"]), int(dataset_dict["width"])
    parts = [[a for a in annotations if bool(a.get("iscrowd")) == crowd] for crowd in (False, True)]
    (masks, areas, boxes), (crowd_masks, crowd_areas, crowd_boxes) = (
        _from_boxes(part, size) for part in parts
    )
    classes, crowd_classes = (
        np.array([a["category_id"] for a in part], dtype=np.int64) for part in parts
    )
    return EvaluationTruth(
        masks=masks,
        classes=classes,
        void=crowd_masks.any(axis=0) & ~masks.any(axis=0),
        difficult=np.array([bool(a.get("difficult", 0)) for a in parts[0]], dtype=bool),
        areas=areas,
        boxes=boxes,
        crowd_masks=crowd_masks,
        crowd_classes=crowd_classes,
        crowd_areas=crowd_areas,
        crowd_boxes=crowd_boxes,
    )


def _from_boxes(
    annotations: Sequence[dict[str, Any]], size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Filled boxes (N, H, W), their areas (the stated ones, if any) and boxes as `_stated`."""
    areas, boxes = _stated(annotations)
    masks = np.zeros((len(annotations), *size), dtype=bool)
    for mask, (x, y, width, height) in zip(masks, boxes.tolist(), strict=True):
        rows = slice(max(int(y), 0), max(int(np.ceil(y + height)), 0))
        mask[rows, max(int(x), 0) : max(int(np.ceil(x + width)), 0)] = True
    return masks, np.where(np.isnan(areas), boxes[:, 2] * boxes[:, 3], areas), boxes

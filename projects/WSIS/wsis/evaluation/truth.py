"""Ground truth for evaluation: an image without any is left out, a damaged one is an error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from wsis.data.ground_truth import GroundTruth, has_ground_truth, load_ground_truth
from wsis.layers.run_lengths import encode_mask


@dataclass(frozen=True, kw_only=True)
class EvaluationTruth(GroundTruth):
    """Ground truth with what COCO's own evaluation reads from annotations beyond the masks."""

    areas: np.ndarray  # (K,) float64, ``area`` of the annotation, NaN where it has none
    boxes: np.ndarray  # (K, 4) float64, its ``bbox`` as x, y, width, height, NaN likewise
    crowds: EvaluationTruth | None = None  # crowd regions apart by class, in the same form


def _stated(
    truth: GroundTruth,
    annotations: Sequence[dict[str, Any]],
    crowds: EvaluationTruth | None = None,
) -> EvaluationTruth:
    """Masks with the areas and boxes that their annotations state."""
    areas = np.array([a.get("area", np.nan) for a in annotations], dtype=np.float64)
    boxes = np.array([_box_of(a) for a in annotations], dtype=np.float64).reshape(-1, 4)
    given = {field.name: getattr(truth, field.name) for field in fields(truth)}
    return EvaluationTruth(**given, areas=areas, boxes=boxes, crowds=crowds)


def _box_of(annotation: dict[str, Any]) -> list[float]:
    """x, y, width and height as the annotation states them."""
    if "unclipped_bbox" in annotation:
        return list(annotation["unclipped_bbox"])
    mode = annotation.get("bbox_mode", BoxMode.XYWH_ABS)
    stated = list(annotation.get("bbox", (np.nan,) * 4))
    return list(BoxMode.convert(stated, mode, BoxMode.XYWH_ABS))


def load_truth(dataset_dict: dict[str, Any]) -> GroundTruth | None:
    """The ground truth of an image, None if the data set has no masks for it.

    Areas and boxes are read where the masks come from annotations. Objects of a mask file (VOC) are
    measured by their masks, since the XML's boxes need not belong to the same objects.

    Raises:
        DataError: the masks exist but cannot be read.
    """
    if not has_ground_truth(dataset_dict):
        return None
    truth = load_ground_truth(dataset_dict)
    if "instance_file_name" in dataset_dict:
        return truth
    annotations = dataset_dict.get("annotations", ())
    objects = [a for a in annotations if not a.get("iscrowd")]
    crowds = [{**a, "iscrowd": 0} for a in annotations if a.get("iscrowd") and "segmentation" in a]
    regions = load_ground_truth({**dataset_dict, "annotations": crowds, "image_labels": []})
    return _stated(truth, objects, _stated(regions, crowds))


def load_box_truth(dataset_dict: dict[str, Any]) -> GroundTruth | None:
    """The true boxes of an image whose data set has no masks for it, for measures of boxes only.

    Masks are the filled boxes. The area of an object is that of its box where it is not stated.

    Returns:
        None where an object has no box.
    """
    annotations = dataset_dict.get("annotations", ())
    if not annotations or not all("bbox" in a for a in annotations):
        return None
    filled = []
    for annotation in annotations:
        x, y, width, height = _box_of(annotation)
        mask = np.zeros((int(dataset_dict["height"]), int(dataset_dict["width"])), dtype=bool)
        rows = slice(max(int(y), 0), max(int(np.ceil(y + height)), 0))
        mask[rows, max(int(x), 0) : max(int(np.ceil(x + width)), 0)] = True
        filled.append({"area": width * height, **annotation, "segmentation": encode_mask(mask)})
    return load_truth({**dataset_dict, "annotations": filled})

"""Ground truth for evaluation: an image without any is left out, a damaged one is an error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from wsis.data.ground_truth import GroundTruth, has_ground_truth, load_ground_truth


@dataclass(frozen=True, kw_only=True)
class EvaluationTruth(GroundTruth):
    """Ground truth that also keeps crowd regions apart by class, as protocol ``coco`` needs them.

    Attributes:
        crowd_masks: (M, H, W) bool.
        crowd_classes: (M,) int64.
    """

    crowd_masks: np.ndarray
    crowd_classes: np.ndarray


def load_truth(dataset_dict: dict[str, Any]) -> GroundTruth | None:
    """The ground truth of an image, None if the data set has no masks for it.

    Raises:
        DataError: it has, but they cannot be read.
    """
    if not has_ground_truth(dataset_dict):
        return None
    truth = load_ground_truth(dataset_dict)
    crowds = [
        {**annotation, "iscrowd": 0}
        for annotation in dataset_dict.get("annotations", ())
        if annotation.get("iscrowd") and "segmentation" in annotation
    ]
    if not crowds or "instance_file_name" in dataset_dict:
        return truth
    regions = load_ground_truth({**dataset_dict, "annotations": crowds})
    return EvaluationTruth(**vars(truth), crowd_masks=regions.masks, crowd_classes=regions.classes)

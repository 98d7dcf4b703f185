"""What CAMs are worth by themselves: their semantic mIoU, and their components as instances.

K classes present, H x W pixels. CAMs are normalised to a maximum of 1 per class.
"""

from __future__ import annotations

import numpy as np

from wsis.evaluation.predictions import InstancePrediction
from wsis.layers.components import detect_components, winning_channels


def cam_label_map(keys: np.ndarray, cam: np.ndarray, *, threshold: float) -> np.ndarray:
    """Semantic label map by argmax over [threshold, CAMs].

    Args:
        keys: (K,) class ids, ascending.
        cam: (K, H, W) float.
        threshold: the background's score; a CAM has to exceed it.

    Returns:
        (H, W) int64, 0 background, class + 1.
    """
    winners = winning_channels(cam, threshold)
    return np.concatenate([[0], np.asarray(keys, dtype=np.int64) + 1])[winners + 1]


def cam_components(
    keys: np.ndarray, cam: np.ndarray, *, threshold: float, min_area: float = 0.01
) -> InstancePrediction:
    """The baseline: connected components of thresholded CAMs as instances.

    It differs from IRNet's instances (irnet spec 6.5) only in that the CAMs were neither
    split by the displacement field nor spread by the random walk: 4-connected components, the
    largest value in a component as its score, 0 if it is small. A pixel goes to the class with the
    largest CAM.

    Args:
        keys: (K,) class ids, ascending.
        cam: (K, H, W) float.
        threshold: a pixel belongs to a class only if its CAM exceeds this.
        min_area: components under this share of the image get score 0.
    """
    cam = np.asarray(cam, dtype=np.float32)
    smallest = min_area * cam.shape[1] * cam.shape[2]
    # No CAM (no label on the image) leaves everything to the background.
    scores = cam.max(axis=0, initial=0.0)
    found = detect_components(winning_channels(cam, threshold), scores, min_area=smallest)
    classes = np.asarray(keys, dtype=np.int64)[found.channels]
    return InstancePrediction(classes, found.scores, found.masks)

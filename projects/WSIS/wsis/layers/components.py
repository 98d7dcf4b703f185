"""Connected components and the detections that they make of score maps.

H x W pixels, n detections; label maps and masks are NumPy arrays, since the labelling is SciPy's.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage


def connected_components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Label the 4-connected components of a mask (H, W) in raster order of their first pixels.

    Returns:
        labels (H, W) int32, 0 outside, components numbered from 1; and their number.
    """
    labels, count = ndimage.label(mask)
    return labels, int(count)


class Detections(NamedTuple):
    """Components of a map of winning channels."""

    channels: np.ndarray  # (n,) int64
    scores: np.ndarray  # (n,) float32
    masks: np.ndarray  # (n, H, W) bool


def winning_channels(scores: np.ndarray, background: float) -> np.ndarray:
    """Channel with the largest score at each pixel, -1 where none exceeds ``background``.

    ``scores`` are (C, H, W), the result is (H, W) int64. Background wins ties, then the lower
    channel.
    """
    if len(scores) == 0:
        return np.full(scores.shape[1:], -1, dtype=np.int64)
    return np.where(scores.max(axis=0) > background, scores.argmax(axis=0), -1)


def detect_components(winners: np.ndarray, scores: np.ndarray, *, min_area: float) -> Detections:
    """One detection for each 4-connected component of each channel (irnet spec 6.5).

    Args:
        winners: (H, W) int, the winning channel of a pixel, -1 for background.
        scores: (H, W) float, the score of that channel there.
        min_area: components of fewer pixels get score 0; they stay in the result.

    Returns:
        detections by channel, then in raster order; n is 0 where everything is background.
    """
    channels, values, masks = [], [], []
    for channel, box in enumerate(ndimage.find_objects(winners.astype(np.int64) + 1)):
        if box is None:
            continue
        labels, count = connected_components(winners[box] == channel)
        numbers = np.arange(1, count + 1)
        areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
        largest = ndimage.maximum(scores[box], labels, numbers)
        channels += [channel] * count
        values += np.where(areas < min_area, 0, largest).tolist()
        for number in numbers:
            mask = np.zeros(winners.shape, dtype=bool)
            mask[box] = labels == number
            masks.append(mask)
    return Detections(
        np.array(channels, dtype=np.int64),
        np.array(values, dtype=np.float32),
        np.stack(masks) if masks else np.zeros((0, *winners.shape), dtype=bool),
    )

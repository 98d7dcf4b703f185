"""Connected components and the detections that they make of score maps.

H x W pixels, n detections; label maps and masks are NumPy arrays, since the labelling is SciPy's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from scipy import ndimage


def connected_components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Label the 4-connected components of a mask (H, W) in raster order of their first pixels.

    Returns:
        labels (H, W) int32, 0 outside, components numbered from 1; and their number.
    """
    labels, count = ndimage.label(mask)
    return labels, int(count)


def clean_mask(mask: np.ndarray, share: float) -> np.ndarray:
    """A mask (H, W) bool with its small holes filled, then without its small parts.

    A hole is small below ``share`` of the mask's pixels, a part below ``share`` of those of the
    largest part. Pixels that touch at a corner are of one part, as in outlines; what is open to the
    image's edge is no hole. Cleaning again may do more, since these are other areas then.
    """
    outside = np.pad(~mask, 1, constant_values=True).view(np.uint8)
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(outside, connectivity=4)
    small = statistics[:, cv2.CC_STAT_AREA] < share * np.count_nonzero(mask)
    small[[0, labels[0, 0]]] = False  # the mask itself, and what is around it
    filled = mask | small[labels[1:-1, 1:-1]]
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(filled.view(np.uint8))
    areas = statistics[:, cv2.CC_STAT_AREA]
    large = areas >= share * areas[1:].max(initial=0)
    large[0] = False
    return large[labels]


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


def detect_components(
    winners: np.ndarray,
    scores: np.ndarray,
    *,
    min_area: float,
    score: Callable[[np.ndarray, np.ndarray], float] = ndimage.maximum,
) -> Detections:
    """One detection for each 4-connected component of each channel (irnet spec 6.5).

    Args:
        winners: (H, W) int, the winning channel of a pixel, -1 for background.
        scores: (H, W) float, the score of that channel there.
        min_area: components of fewer pixels get score 0; they stay in the result.
        score: of a component, given the scores in its box and where it is in there, as SciPy's
            measurements take them.

    Returns:
        detections by channel, then in raster order; n is 0 where everything is background.
    """
    found = []
    for channel, box in enumerate(ndimage.find_objects(winners.astype(np.int64) + 1)):
        if box is None:
            continue
        labels, _ = connected_components(winners[box] == channel)
        for number, part in enumerate(ndimage.find_objects(labels), start=1):
            inside = labels[part] == number
            axes = zip(box, part, strict=True)
            place = tuple(slice(b.start + p.start, b.start + p.stop) for b, p in axes)
            large = np.count_nonzero(inside) >= min_area
            found.append((channel, score(scores[place], inside) if large else 0, place, inside))
    masks = np.zeros((len(found), *winners.shape), dtype=bool)
    for mask, (*_, place, inside) in zip(masks, found, strict=True):
        mask[place] = inside
    channels, values = ([one[i] for one in found] for i in (0, 1))
    return Detections(np.array(channels, np.int64), np.array(values, np.float32), masks)


def map_foreground(score_map: np.ndarray, threshold: float) -> np.ndarray:
    """Where a map (H, W) in [0, 1] is above ``threshold``, (H, W) bool.

    0 takes Otsu's threshold of the map itself, which parts its values into two groups that differ
    most from each other: neither true masks nor other images are needed.
    """
    if threshold > 0:
        return score_map > threshold
    levels = np.round(255 * np.asarray(score_map, dtype=np.float32)).astype(np.uint8)
    return cv2.threshold(levels, 0, 1, cv2.THRESH_OTSU)[1].astype(bool)


def _mean(values: np.ndarray, inside: np.ndarray) -> float:
    return ndimage.mean(values, inside, [1])[0]  # a list: summed in float64


def map_components(
    maps: np.ndarray, *, threshold: float = 0.0, min_area: float, largest_only: bool = False
) -> Detections:
    """Components of each of several maps by itself, so that those of two maps may overlap.

    Args:
        maps: (K, H, W) float in [0, 1], each with a maximum near 1.
        threshold: see `map_foreground`.
        min_area: components of fewer pixels are left out, except the largest of a map.
        largest_only: only the largest component of a map counts.

    Returns:
        detections by map, then in raster order; the score is the mean of the map inside.
    """
    found = []
    for channel, score_map in enumerate(np.asarray(maps, dtype=np.float32)):
        inside = np.where(map_foreground(score_map, threshold), channel, -1)
        parts = detect_components(inside, score_map, min_area=0, score=_mean)
        areas = parts.masks.sum(axis=(1, 2))
        largest = areas.max(initial=0)
        kept = np.flatnonzero(areas >= (largest if largest_only else min(min_area, largest)))
        found.append([column[kept[: 1 if largest_only else None]] for column in parts])
    if not found:
        return Detections(
            np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(maps.shape, dtype=bool)
        )
    return Detections(*map(np.concatenate, zip(*found, strict=True)))

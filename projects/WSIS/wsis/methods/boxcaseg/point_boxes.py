"""Boxes of the objects at given points, which the segmenter finds by itself.

A crop somewhat larger than a box shows which pixels around it are of the object. So a box is moved
to the box of these, again and again, until it stays. Several boxes start at each point, since a
sleeve, a jacket and a person all stay; the one is chosen that fits best.

Points are (x, y), boxes (x0, y0, x1, y1), in pixels, far edges exclusive. P points, S starts of
each, N boxes; H x W image, h x w map of a crop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from wsis.layers.components import connected_components
from wsis.layers.masks import paired_box_iou

_STAYS = 0.95  # IoU with the box before, from which a box is left alone


def start_boxes(
    points: np.ndarray, size: tuple[int, int], *, sides: Sequence[float], ratios: Sequence[float]
) -> np.ndarray:
    """(P, S, 4) float64: boxes around points (P, 2), cut at the image of ``size`` (H, W).

    A box for each side, the root of its area as a share of that of the image, and each ratio of
    width to height.
    """
    side, ratio = np.meshgrid(np.asarray(sides) * np.sqrt(size[0] * size[1]), np.sqrt(ratios))
    half = np.stack([side * ratio, side / ratio], axis=-1).reshape(-1, 2) / 2
    centres = points[:, None]
    boxes = np.concatenate([centres - half, centres + half], axis=-1)
    return np.clip(boxes, 0, [size[1], size[0]] * 2)


def widened(boxes: np.ndarray, margin: float, size: tuple[int, int]) -> np.ndarray:
    """(N, 4) int64: crops with ``margin`` times a box's sides around it, inside the image."""
    extent = np.tile(boxes[:, 2:] - boxes[:, :2], 2) * margin
    crops = boxes + extent * [-1, -1, 1, 1]
    crops = np.concatenate([np.floor(crops[:, :2]), np.ceil(crops[:, 2:])], axis=1)
    return np.clip(crops, 0, [size[1], size[0]] * 2).astype(np.int64)


def cells_of(points: np.ndarray, crop: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(P, 2) int64: in which row and column of the map (h, w) of a crop points (P, 2) lie.

    Points outside the crop are in rows or columns that the map does not have.
    """
    shares = (points - crop[:2]) / (crop[2:] - crop[:2])
    return np.floor(shares[:, ::-1] * shape).astype(np.int64)


def object_at(
    probabilities: np.ndarray, place: np.ndarray, *, threshold: float
) -> tuple[np.ndarray, bool]:
    """The object that a map shows at a cell, or else nearest to it.

    Args:
        probabilities: (h, w) of a crop.
        place: row and column of the cell.
        threshold: least value of the object's cells, as a share of the way from the map's lowest
            value to its highest.

    Returns:
        the object, (h, w) bool, a connected component; and whether it holds the cell.
    """
    low, high = probabilities.min(), probabilities.max()
    labels, _ = connected_components(probabilities - low >= threshold * (high - low))
    number = labels[tuple(place)]
    if number:
        return labels == number, True
    nearest = ndimage.distance_transform_edt(labels == 0, return_indices=True)[1]
    return labels == labels[tuple(nearest[(slice(None), *place)])], False


def box_of_object(mask: np.ndarray, crop: np.ndarray) -> np.ndarray:
    """(4,) float64: the box, in the image, of a mask (h, w) that a crop shows."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    cell = (crop[2:] - crop[:2]) / mask.shape[::-1]
    low = [columns[0], rows[0]] * cell
    return np.concatenate([crop[:2] + low, crop[:2] + [columns[-1] + 1, rows[-1] + 1] * cell])


@dataclass(frozen=True, kw_only=True)
class BoxSearch:
    """Finds a box for every point of an image.

    Attributes:
        sides, ratios: see `start_boxes`.
        margin: see `widened`.
        rounds: how often a box is moved at most.
        threshold: see `object_at`.
        side: of the crops that ``segment`` shows to the network, in pixels.
    """

    sides: Sequence[float]
    ratios: Sequence[float]
    margin: float
    rounds: int
    threshold: float
    side: int = 160

    def __call__(
        self,
        points: np.ndarray,
        size: tuple[int, int],
        segment: Callable[[np.ndarray], np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Move boxes from all starts, choose one for each point.

        Starts that hold a neighbour's point are left out, except the first, and a box whose object
        holds one is moved no more.

        Args:
            points: (P, 2).
            size: (H, W) of the image.
            segment: makes probabilities (N, h, w) of crops (N, 4) int64.

        Returns:
            boxes (P, 4) int64 in whole pixels, each with its point; and scores (P,) float64 in
            0..1: the IoU of the box with the one that it was moved from, times the certainty of the
            map, the mean of ``|2 p - 1|``, over the number of points on the object. 0 for an object
            beside its point.
        """
        points = np.clip(points, 0, np.array([size[1], size[0]]) - 1)
        starts = start_boxes(points, size, sides=self.sides, ratios=self.ratios)
        owners = np.arange(len(points)).repeat(starts.shape[1])
        boxes = _with_points(starts.reshape(-1, 4), points[owners])
        scores = np.zeros(len(boxes))
        first = np.arange(len(boxes)) % starts.shape[1] == 0
        moving = np.flatnonzero((_held(points, boxes) <= 1) | first)
        for _ in range(self.rounds):
            if not len(moving):
                break
            crops, of = widened(boxes[moving], self.margin, size), owners[moving]
            pairs = zip(segment(crops), crops, of, strict=True)
            seen = [self._look(values, crop, points, owner) for values, crop, owner in pairs]
            found = _with_points(np.array([one.box for one in seen]), points[of])
            overlap = paired_box_iou(boxes[moving], found)
            boxes[moving], scores[moving] = found, overlap * [one.score for one in seen]
            alone = np.array([one.held <= 1 for one in seen])
            moving = moving[alone & (overlap < _STAYS)]
        best = scores.reshape(starts.shape[:2]).argmax(axis=1)
        chosen = np.arange(len(points)) * starts.shape[1] + best
        return widened(boxes[chosen], 0, size), scores[chosen]

    def _look(
        self, probabilities: np.ndarray, crop: np.ndarray, points: np.ndarray, owner: int
    ) -> _Seen:
        """What a crop shows at the point ``owner``."""
        cells = cells_of(points, crop, probabilities.shape)
        mask, holds = object_at(probabilities, cells[owner], threshold=self.threshold)
        there = ((cells >= 0) & (cells < mask.shape)).all(axis=1)
        held = int(mask[tuple(cells[there].T)].sum())
        certainty = float(np.abs(2 * probabilities - 1).mean())
        return _Seen(box_of_object(mask, crop), held, certainty / held if holds else 0.0)


class _Seen(NamedTuple):
    """The object at a point in a crop."""

    box: np.ndarray  # (4,) float64
    held: int  # points on it
    score: float  # without the IoU


def _held(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(N,) int64: how many of the points (P, 2) lie in each of the boxes (N, 4)."""
    beyond = (points < boxes[:, None, :2]) | (points >= boxes[:, None, 2:])
    return (~beyond.any(axis=2)).sum(axis=1)


def _with_points(boxes: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Boxes (N, 4), enlarged where they lack the pixel of their point (N, 2)."""
    pixels = np.floor(points)
    low, high = np.minimum(boxes[:, :2], pixels), np.maximum(boxes[:, 2:], pixels + 1)
    return np.concatenate([low, high], axis=1)

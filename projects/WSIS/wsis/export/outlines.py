"""Masks as polygons: pixel edges traced, holes cut open, parts joined, points left out.

Points are (x, y) corners of pixels: a mask of one pixel at the upper left is 0,0 1,0 1,1 0,1.
pycocotools rasterises such outlines to exactly the same mask; outlines through pixel centres, as
OpenCV's ``findContours`` alone gives, lose a pixel at the right and at the bottom and cannot show
what is one pixel wide. Pixels that touch at a corner only belong to one part.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial import cKDTree

from wsis.layers.run_lengths import (
    RLE,
    check_outlines,
    polygons_to_rle,
    rle_box,
    rle_iou,
    runs_of_ones,
)

_CHANGE = 0.02  # of a mask's IoU with itself, for each pixel of tolerance
_LEAST = 0.1  # pixels; below that a tolerance has no effect
_LESS = 0.7  # of the tolerance, where it was too much


@dataclass(frozen=True)
class Outline:
    """A mask as polygons.

    Attributes:
        polygons: (n, 2) float64 each, (x, y) in pixels, n at least 3; the largest first.
        parts: of the mask.
        holes: of all parts, cut open: the polygon runs to the hole, around it and back.
    """

    polygons: list[np.ndarray]
    parts: int
    holes: int

    @property
    def flat(self) -> list[list[float]]:
        """The polygons as COCO has them, [x0, y0, x1, y1, ...]."""
        return [polygon.ravel().tolist() for polygon in self.polygons]


def _cut_out(rle: RLE, box: tuple[int, int, int, int]) -> np.ndarray:
    """The part of a mask in its box x, y, width, height, (height, width) bool.

    In a photograph of 12 megapixels a small object takes 1 ms, decoding all of it 20 ms.
    """
    x, y, width, height = box
    rows = rle["size"][0]
    start, stop = runs_of_ones(rle["counts"], (rows, rle["size"][1]))
    marks = np.zeros(width * rows + 1, dtype=np.int8)
    np.add.at(marks, start - x * rows, 1)
    np.add.at(marks, stop - x * rows, -1)
    columns = np.cumsum(marks[:-1], dtype=np.int8).reshape(width, rows)
    return columns[:, y : y + height].T.astype(bool)


def trace(mask: np.ndarray) -> list[list[np.ndarray]]:
    """Outlines of the parts of a mask (H, W) bool, the largest part first.

    OpenCV follows the centres of border pixels. In a mask of twice the size these lie half a pixel
    off the edges, inside, which rounding undoes.

    Returns:
        for each part its outer outline, clockwise as one sees it, then its holes, anticlockwise;
        (n, 2) int64 each.
    """
    doubled = mask.repeat(2, axis=0).repeat(2, axis=1).view(np.uint8)
    found, tree = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    parts: dict[int, list[np.ndarray]] = {}
    parents = [] if tree is None else tree[0, :, 3].tolist()
    for number, (points, parent) in enumerate(zip(found, parents, strict=True)):
        loop = _without_repeats((points[:, 0].astype(np.int64) + 1) // 2)
        turned = (_area(loop) > 0) == (parent >= 0)
        part = parts.setdefault(number if parent < 0 else parent, [])
        part.insert(len(part) if parent >= 0 else 0, loop[::-1] if turned else loop)
    return sorted(parts.values(), key=lambda part: -_area(part[0]))


def _area(points: np.ndarray) -> float:
    """Area of a polygon (n, 2); negative if it runs anticlockwise as one sees it."""
    return cv2.contourArea(points.astype(np.float32), oriented=True)


def _without_stairs(points: np.ndarray) -> np.ndarray:
    """An outline of pixel corners (n, 2) with each corner cut off, half a pixel from it.

    Stairs become slopes in their middle, so that a simpler outline lies on neither side of them: on
    photographs it has half the points at the same IoU.
    """
    following = np.concatenate([points[1:], points[:1]])
    half = np.sign(following - points) / 2
    cut = np.stack([points + half, following - half], axis=1).reshape(-1, 2)
    return _without_repeats(cut)


def _without_repeats(points: np.ndarray) -> np.ndarray:
    return points[(points != np.concatenate([points[-1:], points[:-1]])).any(axis=1)]


def simplify(points: np.ndarray, tolerance: float) -> np.ndarray:
    """Leave out points of a closed outline of pixel corners (n, 2), within ``tolerance`` pixels.

    Something with an area remains: where the tolerance is too much for that, it is less.

    Returns:
        (m, 2) float64, m at least 3.
    """
    while tolerance >= _LEAST:
        found = [
            cv2.approxPolyDP(curve.astype(np.float32), tolerance, True)[:, 0].astype(np.float64)
            for curve in (points, _without_stairs(points))
        ]
        kept = [curve for curve in found if _area(curve) * _area(points) > 0]
        if kept:
            return min(kept, key=len)
        tolerance *= _LESS
    return points.astype(np.float64)


def join(outlines: list[np.ndarray]) -> np.ndarray:
    """One polygon of several: it leaves the first, runs around each other one and comes back.

    Both ways lie on each other, from the nearest corners, and enclose nothing.
    """
    first, *others = outlines
    if not others:
        return first
    distances, nearest = cKDTree(first).query(np.concatenate(others))
    hanging: dict[int, list[np.ndarray]] = {}
    begin = 0
    for outline in others:
        turn = int(np.argmin(distances[begin : begin + len(outline)]))
        around = np.concatenate([outline[turn:], outline[: turn + 1]])
        hanging.setdefault(int(nearest[begin + turn]), []).append(around)
        begin += len(outline)
    pieces, done = [], 0
    for at, loops in sorted(hanging.items()):
        pieces.append(first[done:at])
        for around in loops:
            pieces += [first[at : at + 1], around]
        done = at
    return _without_repeats(np.concatenate([*pieces, first[done:]]))


def outline(rle: RLE, *, tolerance: float, single: bool = False) -> Outline:
    """The polygons of a mask that has pixels.

    Args:
        rle: the mask.
        tolerance: pixels by which an outline may move so that it has fewer points; 0 keeps the mask
            as it is. It is less where the mask would change too much: by more than 2 % (in IoU) for
            each pixel of tolerance. No part and no hole vanishes.
        single: join the parts to one polygon.

    Raises:
        ValueError: as `check_outlines`.
    """
    x, y, width, height = (int(v) for v in rle_box(rle))
    parts = trace(_cut_out(rle, (x, y, width, height)))
    holes = sum(len(part) - 1 for part in parts)
    while True:
        simple = [[simplify(loop, tolerance) for loop in part] for part in parts]
        polygons = [join(part) + (x, y) for part in simple]
        if single:
            polygons = [join(polygons)]
        found = Outline(polygons, len(parts), holes)
        check_outlines(found.flat)
        if tolerance < _LEAST:
            return found
        drawn = polygons_to_rle(found.flat, (rle["size"][0], rle["size"][1]))
        if rle_iou([drawn], [rle])[0, 0] > max(1 - _CHANGE * tolerance, 0.5):
            return found
        tolerance *= _LESS

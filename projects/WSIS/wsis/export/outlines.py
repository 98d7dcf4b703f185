"""Masks as polygons: pixel edges traced, holes cut open, parts joined, points left out.

Points are (x, y) corners of pixels: a mask of one pixel at the upper left is 0,0 1,0 1,1 0,1.
pycocotools rasterises such outlines to exactly the same mask; outlines through pixel centres, as
OpenCV's ``findContours`` gives, lose a pixel at the right and at the bottom and cannot show what is
one pixel wide. Pixels that touch at a corner only belong to one part.
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


def _corners(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners of the pixel edges around a mask (H, W) uint8 whose margin is 0.

    Returns:
        (n, 2) int64 corners (x, y) by row, so that 2i and 2i + 1 are the ends of a horizontal edge;
        (n,) int64, the other end of each corner's vertical edge. Where two pixels touch at a corner
        only, it is there twice.
    """
    a, b, c, d = mask[:-1, :-1], mask[:-1, 1:], mask[1:, :-1], mask[1:, 1:]
    diagonal = (a == d) & (b == c) & (a != b)
    count = ((a ^ b ^ c ^ d) | (diagonal << 1)).ravel()  # of corners at each place
    place = np.repeat(np.arange(count.size), count)
    y, x = np.divmod(place, mask.shape[1] - 1)
    # The left of the two comes first. Its vertical edge goes down if the pixels above left and
    # below right are in the mask: then the two outlines go around the other two pixels.
    second = np.zeros(len(place), dtype=bool)
    second[1:] = place[1:] == place[:-1]
    twice = second | np.append(second[1:], False)
    down = twice & (second ^ (a.ravel()[place] > 0))
    order = np.lexsort((down, y, x))
    other = np.empty_like(order)
    other[order[0::2]], other[order[1::2]] = order[1::2], order[0::2]
    return np.stack([x, y], axis=1), other


def trace(mask: np.ndarray) -> list[list[np.ndarray]]:
    """Outlines of the parts of a mask (H, W) bool, the largest part first.

    Returns:
        for each part its outer outline, clockwise as one sees it, then its holes, anticlockwise;
        (n, 2) int64 each.
    """
    padded = np.pad(mask.view(np.uint8), 1)
    points, other = _corners(padded)
    _, labels = cv2.connectedComponents(padded, connectivity=8)
    steps, seen = other.tolist(), bytearray(len(points))
    parts: dict[int, list[np.ndarray]] = {}
    for start in range(0, len(points), 2):
        if seen[start]:
            continue
        loop, at = [], start  # the first corner of a loop is its highest, and goes right
        while not seen[at]:
            seen[at] = seen[at ^ 1] = True
            loop += [at, at ^ 1]
            at = steps[at ^ 1]
        x, y = points[start]
        hole = padded[y + 1, x + 1] == 0  # that is below right; above right is then in the mask
        found = points[loop]
        part = parts.setdefault(int(labels[y + (not hole), x + 1]), [])
        part.append(found[::-1] if hole else found)
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

"""Hierarchies of regions: superpixels joined, two by two, until one is left.

All pairs of regions that like each other best are joined at once, in a few dozen rounds over
shrinking arrays; different costs give different hierarchies. The similarities follow Uijlings et
al., "Selective Search for Object Recognition", IJCV 2013, section 3.2.

n superpixels, m = up to 2 n - 1 nodes (the superpixels first), E neighbours, q pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from wsis.layers.regions import part_boxes
from wsis.layers.superpixels import (
    Neighbours,
    color_cost,
    color_sums,
    mutual_choices,
    rename_neighbours,
)

_COLOR_BINS, _TEXTURE_BINS, _DIRECTIONS = 20, 8, 8
_COLOR_RANGE = ((0.0, 100.0), (-60.0, 60.0), (-60.0, 60.0))
_TEXTURE_LIMIT = 5.0  # square root of L per pixel


@dataclass
class Parts:
    """Measurements of regions. Those of a union follow from those of its two parts."""

    size: np.ndarray  # (m,) float64 pixels
    color: np.ndarray  # (m, 3) float64 sums of Lab
    color_histogram: np.ndarray  # (m, 60) float32; a region's entries sum to its size
    texture_histogram: np.ndarray  # (m, 64) float32; likewise
    boxes: np.ndarray  # (m, 4) int64, x0 y0 x1 y1, x1 and y1 exclusive

    def extended(self, number: int) -> Parts:
        """A copy with room for ``number`` regions."""
        grown = []
        for values in vars(self).values():
            room = np.zeros((number - len(values), *values.shape[1:]), dtype=values.dtype)
            grown.append(np.concatenate([values, room]))
        return Parts(*grown)

    def join_(self, new: np.ndarray, one: np.ndarray, two: np.ndarray) -> None:
        """Fill the rows ``new`` with the unions of the rows ``one`` and ``two``."""
        for values in (self.size, self.color, self.color_histogram, self.texture_histogram):
            values[new] = values[one] + values[two]
        low = np.minimum(self.boxes[one, :2], self.boxes[two, :2])
        high = np.maximum(self.boxes[one, 2:], self.boxes[two, 2:])
        self.boxes[new] = np.concatenate([low, high], axis=1)


def _histograms(
    flat: np.ndarray, channels: list[np.ndarray], limits: list[tuple[float, float]], bins: int
) -> np.ndarray:
    """(n, channels * bins) float32 counts, divided by the number of channels."""
    number, counts = int(flat.max()) + 1, []
    for values, (low, high) in zip(channels, limits, strict=True):
        place = np.clip((values.ravel() - low) * (bins / (high - low)), 0, bins - 1)
        keys = flat * bins + place.astype(np.int64)
        counts.append(np.bincount(keys, minlength=number * bins).reshape(number, bins))
    return np.concatenate(counts, axis=1).astype(np.float32) / len(channels)


def describe_parts(labels: np.ndarray, lab: np.ndarray) -> Parts:
    """Superpixels ``labels`` (H, W) int32, from 0 without gaps, of a picture (H, W, 3) float32."""
    flat = labels.ravel().astype(np.int64)
    number = int(flat.max()) + 1
    smooth = cv2.GaussianBlur(lab[..., 0], (0, 0), 1.0)
    dx = cv2.Scharr(smooth, cv2.CV_32F, 1, 0, scale=1 / 32)
    dy = cv2.Scharr(smooth, cv2.CV_32F, 0, 1, scale=1 / 32)
    angles = np.arange(_DIRECTIONS) * (2 * np.pi / _DIRECTIONS)
    slopes = [np.sqrt(np.maximum(dx * np.cos(a) + dy * np.sin(a), 0)) for a in angles]
    return Parts(
        np.bincount(flat).astype(np.float64),
        color_sums(labels, lab),
        _histograms(flat, [lab[..., c] for c in range(3)], list(_COLOR_RANGE), _COLOR_BINS),
        _histograms(flat, slopes, [(0.0, _TEXTURE_LIMIT)] * _DIRECTIONS, _TEXTURE_BINS),
        part_boxes(labels, number),
    )


Cost = Callable[[Parts, Neighbours, float], np.ndarray]


def _shared(histogram: np.ndarray, size: np.ndarray, pairs: Neighbours) -> np.ndarray:
    """(E,) intersection of the histograms of neighbours, in 0..1."""
    one = histogram[pairs.one] / size[pairs.one, None].astype(np.float32)
    two = histogram[pairs.two] / size[pairs.two, None].astype(np.float32)
    return np.minimum(one, two).sum(axis=1)


def similarity_cost(
    parts: Parts, pairs: Neighbours, pixels: float, *, texture: bool = True
) -> np.ndarray:
    """(E,) cost of joining neighbours: low if they are alike in colour and texture, small, and fill
    their common box.
    """
    together = parts.size[pairs.one] + parts.size[pairs.two]
    total = together / pixels - _shared(parts.color_histogram, parts.size, pairs)
    if texture:
        total = total - _shared(parts.texture_histogram, parts.size, pairs)
    low = np.minimum(parts.boxes[pairs.one, :2], parts.boxes[pairs.two, :2])
    high = np.maximum(parts.boxes[pairs.one, 2:], parts.boxes[pairs.two, 2:])
    return total + ((high - low).prod(axis=1) - together) / pixels


def edge_cost(
    parts: Parts, pairs: Neighbours, pixels: float, *, power: float, edge_weight: float
) -> np.ndarray:
    """(E,) cost of joining neighbours: low if mean colours are alike and no edge is between them.

    See `color_cost`.
    """
    return color_cost(parts.size, parts.color, pairs, power=power, edge_weight=edge_weight)


class Tree(NamedTuple):
    """A hierarchy of regions, and all pairs of nodes that touched while it grew."""

    children: np.ndarray  # (m, 2) int64, -1 for superpixels
    size: np.ndarray  # (m,) float64, pixels
    outline: np.ndarray  # (m,) float64, touching pixel pairs along the outline inside the image
    strength: np.ndarray  # (m,) float64, sum of the last edge map along it
    pairs: np.ndarray  # (q, 2) int64, nodes that touched; one of them was new then
    pair_outline: np.ndarray  # (q,) float64, of their union
    pair_strength: np.ndarray  # (q,) float64, of their union

    def members(self, number: int) -> np.ndarray:
        """(m, n) bool, which of the ``number`` superpixels each node has."""
        table = np.zeros((len(self.children), number), dtype=bool)
        np.fill_diagonal(table, True)
        for node in range(number, len(table)):
            one, two = self.children[node]
            np.logical_or(table[one], table[two], out=table[node])
        return table


def _along(pairs: Neighbours, values: np.ndarray, number: int) -> np.ndarray:
    """(number,) for each region the sum of ``values`` (E,) over its pairs."""
    one, two = np.bincount(pairs.one, values, number), np.bincount(pairs.two, values, number)
    return one + two


def grow_tree(parts: Parts, pairs: Neighbours, cost: Cost) -> Tree:
    """Join superpixels until nothing touches any more.

    Args:
        parts: n superpixels.
        pairs: their neighbours, with S edge maps; the last one measures outlines.
        cost: of joining; called with the regions so far, the neighbours and the number of pixels.
    """
    number = len(parts.size)
    most, top, fresh = 2 * number - 1, number, 0
    pixels = float(parts.size.sum())
    parts = parts.extended(most)
    children = np.full((most, 2), -1, dtype=np.int64)
    outline, strength = np.zeros(most), np.zeros(most)
    seen: list[np.ndarray] = []
    while True:
        new = slice(fresh, top)
        outline[new] = _along(pairs, pairs.length, top)[new]
        strength[new] = _along(pairs, pairs.strength[:, -1], top)[new]
        if len(pairs.one) == 0:
            break
        recent = pairs.two >= fresh
        touching = np.stack([pairs.one, pairs.two, pairs.length, pairs.strength[:, -1]], axis=1)
        seen.append(touching[recent])
        costs = cost(parts, pairs, pixels)
        chosen = mutual_choices(pairs, costs, top)
        chosen = chosen[np.argsort(costs[chosen], kind="stable")]
        one, two = pairs.one[chosen], pairs.two[chosen]
        made = np.arange(top, top + len(chosen))
        children[made, 0], children[made, 1] = one, two
        parts.join_(made, one, two)
        names = np.arange(top + len(chosen))
        names[one] = names[two] = made
        fresh, top = top, top + len(chosen)
        pairs = rename_neighbours(pairs, names)
    found = np.concatenate([np.zeros((0, 4)), *seen])
    nodes = found[:, :2].astype(np.int64)
    one, two = nodes.T
    return Tree(
        children[:top],
        parts.size[:top],
        outline[:top],
        strength[:top],
        nodes,
        outline[one] + outline[two] - 2 * found[:, 2],
        strength[one] + strength[two] - 2 * found[:, 3],
    )

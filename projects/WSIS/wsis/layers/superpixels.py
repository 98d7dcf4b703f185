"""Superpixels without learning: watershed basins of the gradient, merged to a wanted number.

H x W pixels, n superpixels, E pairs of neighbours. Label maps and graphs are NumPy arrays, since
the watershed is OpenCV's. Everything is deterministic.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np
from scipy import ndimage

_SHARP = 0.7  # pixels; the gradient whose basins are the finest parts
_SMOOTH = ((1.0, 1.0), (2.0, 1.5), (4.0, 2.0))  # pixels and weight of the coarser gradient


def to_lab(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB as float32 CIE Lab: L 0..100, a and b about -100..100."""
    return cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def color_gradient(image: np.ndarray, sigma: float) -> np.ndarray:
    """How fast a colour image changes in the direction of the fastest change (Di Zenzo).

    ``image`` (H, W, C) float32 is first smoothed by a Gaussian of ``sigma`` pixels. The result is
    (H, W) float32, in units of the image per pixel.
    """
    smooth = cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    dx = cv2.Scharr(smooth, cv2.CV_32F, 1, 0, scale=1 / 32)
    dy = cv2.Scharr(smooth, cv2.CV_32F, 0, 1, scale=1 / 32)
    across, down, mixed = (
        np.einsum("hwc,hwc->hw", a, b) for a, b in ((dx, dx), (dy, dy), (dx, dy))
    )
    spread = np.sqrt((across - down) ** 2 + 4 * mixed**2)
    return np.sqrt(0.5 * (across + down + spread))


def edge_maps(lab: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(sharp, broad) gradients, (H, W) float32 each: one scale, and a weighted sum of three."""
    broad = np.sum([weight * color_gradient(lab, sigma) for sigma, weight in _SMOOTH], axis=0)
    return color_gradient(lab, _SHARP), broad


def _without_gaps(labels: np.ndarray) -> np.ndarray:
    """Labels renumbered from 0, in their order; int32."""
    used = np.bincount(labels.ravel()) > 0
    return (np.cumsum(used, dtype=np.int32) - 1)[labels]


def watershed_basins(edges: np.ndarray) -> np.ndarray:
    """One basin for each local minimum of a gradient (in 3 x 3; a connected plateau counts once).

    ``edges`` are (H, W) float32, not negative; the result is (H, W) int32, from 0 without gaps.
    """
    lowest = cv2.erode(edges, np.ones((3, 3), np.uint8))
    _, markers = cv2.connectedComponents((edges <= lowest).astype(np.uint8), connectivity=8)
    top = max(float(np.percentile(edges, 99)), 1e-6)
    levels = np.clip(edges * (255 / top), 0, 255).astype(np.uint8)
    # The watershed leaves the outermost pixels undecided: give it a margin.
    levels = np.pad(levels, 1, mode="edge")
    flooded = cv2.watershed(cv2.merge([levels] * 3), np.pad(markers, 1))[1:-1, 1:-1]
    undecided = flooded <= 0
    if undecided.all():
        return np.zeros(edges.shape, dtype=np.int32)
    if undecided.any():
        nearest = ndimage.distance_transform_edt(
            undecided, return_distances=False, return_indices=True
        )
        flooded = flooded[tuple(nearest)]
    return _without_gaps(flooded)


def color_sums(labels: np.ndarray, lab: np.ndarray) -> np.ndarray:
    """(n, 3) float64 sums of a picture (H, W, 3) over the regions of a label map."""
    return np.stack([np.bincount(labels.ravel(), c) for c in lab.reshape(-1, 3).T], axis=1)


def settle_borders(labels: np.ndarray, lab: np.ndarray) -> np.ndarray:
    """Give each pixel at a border to the touching basin whose mean colour is nearest to its own.

    The gradient is the same on both sides of a sharp step, so a watershed may lie one pixel off.
    ``labels`` and the result are (H, W) int32, from 0 without gaps; a basin that loses all its
    pixels is gone.
    """
    height, width = labels.shape
    size = np.maximum(np.bincount(labels.ravel()), 1)
    mean = (color_sums(labels, lab) / size[:, None]).astype(np.float32)
    border = np.zeros(labels.shape, dtype=bool)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    border[:, 1:] |= across
    border[:, :-1] |= across
    border[1:] |= down
    border[:-1] |= down
    ys, xs = np.nonzero(border)
    color = lab[ys, xs]
    best = labels[ys, xs]
    least = ((mean[best] - color) ** 2).sum(axis=1)
    for dy, dx in ((-1, 0), (0, -1), (0, 1), (1, 0)):
        y, x = np.clip(ys + dy, 0, height - 1), np.clip(xs + dx, 0, width - 1)
        other = labels[y, x]
        distance = ((mean[other] - color) ** 2).sum(axis=1)
        better = distance < least
        best, least = np.where(better, other, best), np.where(better, distance, least)
    settled = labels.copy()
    settled[ys, xs] = best
    return _without_gaps(settled)


class Neighbours(NamedTuple):
    """Pairs of regions that touch (4-neighbours)."""

    one: np.ndarray  # (E,) int64
    two: np.ndarray  # (E,) int64, above ``one``
    length: np.ndarray  # (E,) float64, pairs of touching pixels
    strength: np.ndarray  # (E, S) float64, sum of each edge map over these (its larger pixel)


def find_neighbours(labels: np.ndarray, edges: tuple[np.ndarray, ...]) -> Neighbours:
    """Which regions of a label map (H, W) touch, and how strong the edges are between them."""
    halves = (slice(None), slice(None, -1)), (slice(None), slice(1, None))
    found = []
    for near, far in (halves, tuple(half[::-1] for half in halves)):
        differ = labels[near] != labels[far]
        pair = [labels[side][differ].astype(np.int64) for side in (near, far)]
        found.append(pair + [np.maximum(e[near][differ], e[far][differ]) for e in edges])
    one, two, *strength = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return _joined(one, two, np.ones(len(one)), strength)


def rename_neighbours(pairs: Neighbours, names: np.ndarray) -> Neighbours:
    """The pairs after region i became ``names[i]``: equal pairs join, pairs inside a region go."""
    one, two = names[pairs.one], names[pairs.two]
    kept = one != two
    return _joined(one[kept], two[kept], pairs.length[kept], pairs.strength[kept].T)


def _joined(
    one: np.ndarray, two: np.ndarray, length: np.ndarray, strength: Iterable[np.ndarray]
) -> Neighbours:
    """Join all pairs of the same two regions, in either order, into one; sorted by region."""
    number = int(np.maximum(one, two).max(initial=0)) + 1
    keys = np.minimum(one, two) * number + np.maximum(one, two)
    found, place = np.unique(keys, return_inverse=True)
    total, *sums = (np.bincount(place, values, len(found)) for values in (length, *strength))
    return Neighbours(found // number, found % number, total, np.stack(sums, axis=1))


def mutual_choices(pairs: Neighbours, cost: np.ndarray, number: int) -> np.ndarray:
    """Pairs that cost least for both of their regions; on equality the first pair.

    ``cost`` is (E,), there are ``number`` regions. Returns (m,) int64, ascending, numbers of pairs;
    no region is in two of them.
    """
    best = np.full(number, np.inf)
    np.minimum.at(best, pairs.one, cost)
    np.minimum.at(best, pairs.two, cost)
    liked = np.flatnonzero((cost <= best[pairs.one]) & (cost <= best[pairs.two]))
    first = np.full(number, len(cost))
    np.minimum.at(first, pairs.one[liked], liked)
    np.minimum.at(first, pairs.two[liked], liked)
    return liked[(first[pairs.one[liked]] == liked) & (first[pairs.two[liked]] == liked)]


def color_cost(
    size: np.ndarray, color: np.ndarray, pairs: Neighbours, *, power: float, edge_weight: float
) -> np.ndarray:
    """(E,) cost of joining neighbours: difference of mean colours plus edge, times a power of size.

    Args:
        size: (n,) pixels.
        color: (n, 3) sums of Lab.
        pairs: the neighbours; the first edge map counts.
        power: exponent of the smaller region's size, in 0..1; a larger power joins small regions
            earlier.
        edge_weight: factor of the mean edge between the two.
    """
    mean = color / np.maximum(size, 1)[:, None]
    difference = np.sqrt(((mean[pairs.one] - mean[pairs.two]) ** 2).sum(axis=1))
    edge = pairs.strength[:, 0] / pairs.length
    smaller = np.minimum(size[pairs.one], size[pairs.two])
    return (difference + edge_weight * edge) * smaller**power


def superpixels(
    lab: np.ndarray, edges: tuple[np.ndarray, ...], count: int
) -> tuple[np.ndarray, Neighbours]:
    """Parts that follow the edges of a picture ``lab`` (H, W, 3) float32.

    Starts with the basins of the first (sharp) of S edge maps (H, W) and joins them, in rounds of
    mutual choices, until at most ``count`` (at least 1) are left. Returns labels (H, W) int32, from
    0 without gaps, and their neighbours.
    """
    labels = settle_borders(watershed_basins(edges[0]), lab)
    pairs = find_neighbours(labels, edges)
    size: np.ndarray = np.bincount(labels.ravel()).astype(np.float64)
    color = color_sums(labels, lab)
    names = np.arange(len(size))
    while len(size) > count and len(pairs.one):
        cost = color_cost(size, color, pairs, power=0.5, edge_weight=1.0)
        chosen = mutual_choices(pairs, cost, len(size))
        surplus = len(size) - count
        if len(chosen) > surplus:
            chosen = chosen[np.argsort(cost[chosen], kind="stable")[:surplus]]
        joined = np.arange(len(size))
        joined[pairs.two[chosen]] = pairs.one[chosen]
        _, joined = np.unique(joined, return_inverse=True)
        names = joined[names]
        size = np.bincount(joined, size)
        color = np.stack([np.bincount(joined, c) for c in color.T], axis=1)
        pairs = rename_neighbours(pairs, joined)
    return names[labels].astype(np.int32), pairs

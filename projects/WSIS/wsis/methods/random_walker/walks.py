"""Which points random walks reach first: a picture divided among its points and the background.

P points, H x W pixels, n superpixels. A walk steps between neighbouring superpixels, seldom where
their colours differ, and ends at a point or outside the picture. A superpixel belongs to the point
at which walks that start in it end most often, or to none. The shares solve a sparse linear system
(Grady, Random Walks for Image Segmentation, PAMI 2006).
"""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu

from wsis.layers.superpixels import (
    Neighbours,
    color_sums,
    edge_maps,
    find_neighbours,
    superpixels,
    to_lab,
)

_LEAST = 1e-4  # of a step's weight, so that every superpixel is reached
_OUTWARDS = 0.01  # weight of a pixel of the picture's border, as a share of the mean step's


def walk_from_points(
    image: np.ndarray, points_yx: np.ndarray, *, count: int, sharpness: float
) -> tuple[np.ndarray, np.ndarray]:
    """The masks of all points of a picture, and how sure they are.

    Args:
        image: (H, W, 3) uint8, RGB.
        points_yx: (P, 2) int64, pixels. Of points on one pixel the first has the mask.
        count: of superpixels, about.
        sharpness: see ``MODEL.RANDOM_WALKER.SHARPNESS``.

    Returns:
        masks (P, H, W) bool, which do not overlap and have their point in them, and scores (P,)
        float32: the mean share of walks in the mask that end at its point.
    """
    size = image.shape[:2]
    if len(points_yx) == 0:
        return np.zeros((0, *size), dtype=bool), np.zeros(0, dtype=np.float32)
    lab = to_lab(image)
    edges = edge_maps(lab)
    labels = _one_point_each(superpixels(lab, edges, count)[0], points_yx)
    pairs = find_neighbours(labels, edges)
    seeds, first = np.unique(labels[tuple(points_yx.T)], return_index=True)
    shares = _shares(labels, pairs, _weights(labels, pairs, lab, sharpness), seeds)
    owner = shares.argmax(axis=1)
    owner[shares.max(axis=1) <= 1 - shares.sum(axis=1)] = -1  # outside
    masks = np.zeros((len(points_yx), *size), dtype=bool)
    scores = np.zeros(len(points_yx), dtype=np.float32)
    owners, sizes = owner[labels], np.bincount(labels.ravel())
    for number, point in enumerate(first.tolist()):
        masks[point] = owners == number
        own = owner == number
        scores[point] = np.average(shares[own, number], weights=sizes[own])
    return masks, scores


def _one_point_each(labels: np.ndarray, points_yx: np.ndarray) -> np.ndarray:
    """Divide superpixels with several points among these: each pixel goes to the nearest."""
    labels, number = labels.copy(), int(labels.max()) + 1
    points = np.unique(points_yx, axis=0)
    homes = labels[tuple(points.T)]
    for home in np.flatnonzero(np.bincount(homes) > 1):
        own = points[homes == home]
        pixels = np.argwhere(labels == home)
        nearest = ((pixels[:, None] - own[None]) ** 2).sum(axis=2).argmin(axis=1)
        labels[tuple(pixels[nearest > 0].T)] = number + nearest[nearest > 0] - 1
        number += len(own) - 1
    return labels


def _weights(
    labels: np.ndarray, pairs: Neighbours, lab: np.ndarray, sharpness: float
) -> np.ndarray:
    """(E,) float64: how likely a step between neighbours is; longer borders are easier."""
    mean = color_sums(labels, lab) / np.bincount(labels.ravel())[:, None]
    differing = np.sqrt(((mean[pairs.one] - mean[pairs.two]) ** 2).sum(axis=1))
    differing = differing + pairs.strength[:, 0] / pairs.length
    scale = max(float(differing.mean()), 1e-6) if len(differing) else 1.0
    return np.exp(-sharpness * differing / scale) * pairs.length + _LEAST


def _shares(
    labels: np.ndarray, pairs: Neighbours, weights: np.ndarray, seeds: np.ndarray
) -> np.ndarray:
    """(n, K) float64: of the walks from a superpixel, the share that ends at each of K seeds."""
    number = int(labels.max()) + 1
    rows, columns = np.r_[pairs.one, pairs.two], np.r_[pairs.two, pairs.one]
    steps = sparse.csr_matrix((np.r_[weights, weights], (rows, columns)), shape=(number, number))
    border = np.r_[labels[0], labels[-1], labels[:, 0], labels[:, -1]]
    outwards = np.bincount(border, minlength=number) * _OUTWARDS
    outwards = outwards * (weights.mean() if len(weights) else 1.0)
    laplacian = sparse.diags(np.asarray(steps.sum(axis=1)).ravel() + outwards) - steps
    shares = np.zeros((number, len(seeds)))
    shares[seeds, np.arange(len(seeds))] = 1
    free = np.setdiff1d(np.arange(number), seeds)
    if len(free):
        known = steps[free][:, seeds].toarray()
        shares[free] = splu(laplacian.tocsr()[free][:, free].tocsc()).solve(known)
    return shares

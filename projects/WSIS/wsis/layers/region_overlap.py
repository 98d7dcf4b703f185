"""Overlaps of all pairs of the regions of one image.

Shared pixels of two regions are a product over atoms, or, where regions have little in common, a
sum over the runs of one of them of a running total of the other. Both are exact; the cheaper one
is taken. R regions, A atoms, S runs of one atom, T runs of one region.
"""

from __future__ import annotations

import numpy as np

from wsis.layers.masks import iou_of_areas
from wsis.layers.partition import segments
from wsis.layers.regions import Regions

_EXACT_IN_FLOAT32 = 1 << 24  # pixels
_PIECE_BYTES = 64 << 20
# Nanoseconds on one core of an AVX2 machine: of a product's multiply-add, of a run's look-up.
_MULTIPLY_NS, _LOOKUP_NS = 0.04, 5.0
_FEW_ATOMS = 4096  # fewer never pay the search for runs


def region_intersection(regions: Regions, other: Regions | None = None) -> np.ndarray:
    """Pixels that two regions share, for all pairs.

    Args:
        regions: R regions.
        other: K regions over the same atoms (made from ``regions`` by indexing); default the same.

    Returns:
        (R, K) float64 of whole numbers.

    Raises:
        ValueError: the two have different atoms.
    """
    if other is not None and (
        other.num_atoms != regions.num_atoms or other.labels is not regions.labels
    ):
        raise ValueError("the regions do not share their atoms")
    target = regions if other is None else other
    if len(regions) == 0 or len(target) == 0:
        return np.zeros((len(regions), len(target)))
    product = len(regions) * regions.num_atoms * _MULTIPLY_NS
    if regions.num_atoms > _FEW_ATOMS and product > _LOOKUP_NS * _typical_runs(regions):
        return _by_runs(regions, target)
    return _by_product(regions, target)


def _typical_runs(regions: Regions) -> float:
    """Estimate of the number of runs of all regions, from a few of them."""
    step = max(1, len(regions) // 16)
    sample = regions[::step]
    return len(sample.runs()[0]) * len(regions) / len(sample)


def _by_product(regions: Regions, other: Regions) -> np.ndarray:
    """A diag(pixels) A^T over the atoms."""
    exact = regions.labels.size <= _EXACT_IN_FLOAT32
    kind = np.float32 if exact else np.float64
    shared = np.zeros((len(regions), len(other)))
    bytes_each = (len(regions) + len(other)) * (1 + np.dtype(kind).itemsize)
    step = max(64, _PIECE_BYTES // bytes_each)
    one, two = regions.member_table(), None if other is regions else other.member_table()
    for start in range(0, regions.num_atoms, step):
        piece = slice(start, start + step)
        left = one[:, piece].astype(kind)
        right = left if two is None else two[:, piece].astype(kind)
        shared += (left * regions.atom_areas[piece].astype(kind)) @ right.T
    return shared


def _by_runs(regions: Regions, other: Regions) -> np.ndarray:
    """Running totals of each of ``other`` at the ends of the runs of ``regions``."""
    first, stop, owners = regions.runs()
    cuts, atoms = segments(regions.labels.ravel())
    lengths = np.diff(cuts)
    begin, end = np.searchsorted(cuts, first), np.searchsorted(cuts, stop)
    shared = np.zeros((len(regions), len(other)))
    filled, bounds = np.unique(owners, return_index=True)
    table = np.zeros(regions.num_atoms, dtype=np.int64)
    total = np.zeros(len(cuts), dtype=np.int64)
    same = other is regions
    for index in range(len(other)):
        place = np.searchsorted(filled, index) if same else 0  # above the diagonal only
        if place == len(filled):
            break
        mine = other.atoms[other.starts[index] : other.starts[index + 1]]
        table[mine] = 1
        np.cumsum(lengths * table[atoms], out=total[1:])
        table[mine] = 0
        low = bounds[place]
        pixels = total[end[low:]]
        pixels -= total[begin[low:]]
        shared[filled[place:], index] = np.add.reduceat(pixels, bounds[place:] - low)
    if same:
        shared = np.maximum(shared, shared.T)
    return shared


def overlap_with_masks(regions: Regions, masks: np.ndarray) -> np.ndarray:
    """Mask IoU of regions with masks from elsewhere, such as the ground truth.

    Args:
        regions: R regions of (H, W).
        masks: (K, H, W) bool.

    Returns:
        (R, K) float64 in [0, 1]; 0 where both are empty.

    Raises:
        ValueError: the masks have another size.
    """
    masks = np.asarray(masks)
    if masks.ndim != 3 or masks.shape[1:] != regions.size:
        raise ValueError(f"masks of shape {masks.shape}, regions of an image of {regions.size}")
    if len(masks) == 0 or len(regions) == 0:
        return np.zeros((len(regions), len(masks)))
    areas = masks.reshape(len(masks), -1).sum(axis=1)
    return iou_of_areas(regions.sums(masks), regions.areas[:, None], areas[None, :])

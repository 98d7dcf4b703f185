"""Overlaps of all pairs of the regions of one image, and of regions with other masks.

R regions, A atoms. Two regions share the pixels of the atoms that both have, so all counts are one
matrix product. For 2000 proposals made of 3000 superpixels a dense product takes 0.2 s on one core,
a sparse one (SciPy) 0.9 s. Where there are many atoms pycocotools compares the masks: for 2000
discs of 109,000 atoms it takes 3 s, a sparse product 7 s. Both ways are exact.
"""

from __future__ import annotations

import numpy as np

from wsis.layers.masks import iou_of_areas
from wsis.layers.regions import Regions
from wsis.layers.run_lengths import RLE, encode_mask, rle_intersection

_EXACT_IN_FLOAT32 = 1 << 24  # pixels
_PIECE_BYTES = 64 << 20
_MANY_ATOMS = 8192


def region_intersection(regions: Regions, other: Regions | None = None) -> np.ndarray:
    """Number of common pixels of all pairs of regions: (R, K) float64.

    ``other`` are K regions over the same atoms (``regions`` indexed); None: ``regions`` again.

    Raises:
        ValueError: the two have different atoms.
    """
    if other is not None and (
        other.num_atoms != regions.num_atoms or other.labels is not regions.labels
    ):
        raise ValueError("the regions do not share their atoms")
    if regions.num_atoms > _MANY_ATOMS:
        runs = _run_lengths(regions)
        return rle_intersection(runs, runs if other is None else _run_lengths(other))
    kind = np.float32 if regions.labels.size <= _EXACT_IN_FLOAT32 else np.float64
    one = regions.member_table()
    two = one if other is None else other.member_table()
    shared = np.zeros((len(one), len(two)))
    step = max(64, _PIECE_BYTES // ((len(one) + len(two)) * (1 + np.dtype(kind).itemsize) or 1))
    for start in range(0, regions.num_atoms, step):
        piece = slice(start, start + step)
        left = one[:, piece].astype(kind)
        right = left if two is one else two[:, piece].astype(kind)
        shared += (left * regions.atom_areas[piece].astype(kind)) @ right.T
    return shared


def _run_lengths(regions: Regions) -> list[RLE]:
    return [encode_mask(regions.decode([index])[0]) for index in range(len(regions))]


def overlap_with_masks(regions: Regions, masks: np.ndarray) -> np.ndarray:
    """Mask IoU of R regions with masks (K, H, W) bool from elsewhere, such as the ground truth.

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

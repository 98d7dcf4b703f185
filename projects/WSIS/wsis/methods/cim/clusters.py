"""Clusters of proposals around class peaks or points: attention-guided pseudo labels (spec 1.4).

R proposals, P peaks, C classes, H x W image, h x w peak map.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wsis.layers.masks import iou_of_areas
from wsis.layers.peaks import confident_peaks, find_peaks, peak_values
from wsis.layers.regions import Regions


class Clusters(NamedTuple):
    """Which cluster each proposal of an image belongs to.

    Attributes:
        ids: (R,) int32, 1, 2, ... in the order in which they were made, 0 for none.
        classes: (R,) int32, 0 background, class id + 1; 0 where there is no cluster.
    """

    ids: np.ndarray
    classes: np.ndarray


def class_peaks(
    maps: Tensor,
    classes: Tensor,
    *,
    window: int = 3,
    peak_filter: str | float = "median",
    threshold: float = 10.0,
) -> tuple[Tensor, Tensor]:
    """Peaks of the classes that are present, weakest first.

    A class keeps its peaks above the threshold, or its highest if none is above: PRM's rule for the
    tags of an image. ``maps`` are the class response maps (C, h, w), already upsampled, ``classes``
    the ids (K,) int64. Window and filter: see `wsis.layers.peaks.find_peaks`.

    Returns:
        peaks (P, 3) int64, rows (class, y, x), and their values (P,). Peaks of equal value stay in
        the order of class, y, x.
    """
    present = maps.new_full((1, len(maps)), torch.nan).index_fill_(1, classes, torch.inf)
    found = find_peaks(maps[None], window=window, peak_filter=peak_filter).nonzero()
    peaks = confident_peaks(maps[None], present, found, peak_threshold=threshold)
    heights, order = torch.sort(peak_values(maps[None], peaks), stable=True)
    return peaks[order, 1:], heights


def peaks_to_pixels(
    peaks_yx: np.ndarray, grid: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
    """The pixel (y, x) int64 of each cell (P, 2), for maps of ``grid`` (h, w) on an image (H, W).

    This is the original's rule (spec 1.4); which proposals make a cluster depends on it. The places
    in the report come from `MapFrame.places`, which knows the network's padding: the two may differ
    by up to a cell of the network.
    """
    return np.asarray(peaks_yx, dtype=np.int64) * np.array(size) // np.array(grid)


def cluster_proposals(
    regions: Regions,
    points_yx: np.ndarray,
    point_classes: np.ndarray,
    *,
    mean_threshold: float = 0.7,
    iou_threshold: float = 0.5,
) -> Clusters:
    """Cluster R proposals around points (P, 2), int pixels, of classes (P,): one for each point.

    Average the masks of the proposals over a point. Pixels above ``mean_threshold`` are the rough
    shape. Proposals whose IoU with it is above ``iou_threshold`` form the cluster. A proposal in
    two clusters keeps the later one.

    Proposals that overlap a rough shape but are in no cluster form the last one, background.
    Without any point all proposals are background, cluster 1. A point outside the image, or that no
    proposal covers, makes an empty cluster.
    """
    count = len(regions)
    if len(points_yx) == 0:
        return Clusters(np.ones(count, dtype=np.int32), np.zeros(count, dtype=np.int32))
    ids, classes = np.zeros(count, dtype=np.int32), np.zeros(count, dtype=np.int32)
    near = np.zeros(count, dtype=bool)
    members, areas = regions.membership, regions.atom_areas
    by_atom = members.tocsc()
    height, width = regions.size
    for number, ((y, x), class_id) in enumerate(zip(points_yx, point_classes, strict=True), 1):
        if not (0 <= y < height and 0 <= x < width):
            continue
        atom = int(regions.labels[y, x])
        covering = by_atom.indices[by_atom.indptr[atom] : by_atom.indptr[atom + 1]]
        if len(covering) == 0:
            continue
        agree = np.asarray(members[covering].sum(axis=0)).ravel() / len(covering)
        shape = agree > mean_threshold
        shared = members @ (areas * shape)
        iou = iou_of_areas(shared, regions.areas, areas[shape].sum()).astype(np.float32)
        inside = iou > iou_threshold
        ids[inside], classes[inside] = number, int(class_id) + 1
        near |= (iou > 0) & ~inside
    ids[near & (ids == 0)] = len(points_yx) + 1
    return Clusters(ids, classes)

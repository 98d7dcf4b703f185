"""Segment proposals without learning: hierarchies of superpixels, ranked by their outlines.

Several hierarchies are grown over the same superpixels. Their nodes, and pairs of nodes that
touched while they grew, are candidates; those whose outline runs along strong edges come first, and
near duplicates are dropped. H x W pixels, n superpixels, R proposals.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from wsis.layers.grouping import Cost, Tree, describe_parts, edge_cost, grow_tree, similarity_cost
from wsis.layers.masks import droppers, stays
from wsis.layers.regions import Regions
from wsis.layers.superpixels import edge_maps, superpixels, to_lab

_COSTS: tuple[Cost, ...] = (
    similarity_cost,
    partial(similarity_cost, texture=False),
    partial(edge_cost, power=0.35, edge_weight=4.0),
    partial(edge_cost, power=0.5, edge_weight=1.0),
)
_SIZE_POWER = 0.1  # of the area in the score
_PAIR_PENALTY = 0.8  # factor on the score of a pair of nodes against that of a node
_CANDIDATES = 3  # of each hierarchy, times the wanted number
_BLOCK = 512  # candidates that are compared at once


@dataclass(frozen=True, kw_only=True)
class ProposalSettings:
    """How proposals are made."""

    max_count: int = 1000  # of the best that are kept; 0 keeps all
    pixels_per_superpixel: int = 40  # one superpixel for so many pixels,
    max_superpixels: int = 1200  # but at most so many
    min_area: int = 40  # smaller regions are no proposals, pixels
    nms_threshold: float = 0.9  # of two that overlap more (mask IoU) the better one stays

    def __post_init__(self) -> None:
        least = {"max_count": 0, "pixels_per_superpixel": 1, "max_superpixels": 1, "min_area": 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {bound} or more")
        if not 0 < self.nms_threshold <= 1:
            raise ValueError(f"nms_threshold is {self.nms_threshold}; it must be in 0..1")


def _candidates(tree: Tree, number: int, settings: ProposalSettings) -> tuple[np.ndarray, ...]:
    """The candidates of a tree: (k,) scores, (k, 2) nodes; the second node is -1 for one alone."""
    pixels = tree.size[:number].sum()
    pair_size = tree.size[tree.pairs].sum(axis=1)
    size = np.concatenate([tree.size, pair_size])
    outline = np.concatenate([tree.outline, tree.pair_outline])
    strength = np.concatenate([tree.strength, tree.pair_strength])
    scores = strength / np.maximum(outline, 1) * (size / pixels) ** _SIZE_POWER
    scores[len(tree.size) :] *= _PAIR_PENALTY
    nodes = np.full((len(size), 2), -1, dtype=np.int64)
    nodes[: len(tree.size), 0] = np.arange(len(tree.size))
    nodes[len(tree.size) :] = tree.pairs
    good = (size >= settings.min_area) & (outline > 0)  # the whole image has no outline
    return scores[good], nodes[good]


def suppress(table: np.ndarray, size: np.ndarray, threshold: float, count: int) -> np.ndarray:
    """Greedy suppression of regions made of the same parts: the rows that stay, ascending.

    ``table`` (k, n) bool says which parts each region has, the best region first; parts have
    ``size`` (n,) pixels. A region is dropped if its IoU with a better one exceeds the threshold. At
    most ``count`` rows are returned; 0 for all.
    """
    weights = size.astype(np.float32)
    areas = table @ weights
    kept = np.zeros(0, dtype=np.int64)
    for start in range(0, len(table), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(table)))
        weighted = table[block] * weights
        close = _close(weighted, areas[block], table[kept], areas[kept], threshold)
        block = block[~close.any(axis=1)]
        weighted = table[block] * weights
        close = _close(weighted, areas[block], table[block], areas[block], threshold)
        kept = np.concatenate([kept, block[stays(droppers(close))]])
        if 0 < count <= len(kept):
            return kept[:count]
    return kept


def _close(
    weighted: np.ndarray, areas: np.ndarray, table: np.ndarray, others: np.ndarray, limit: float
) -> np.ndarray:
    """Whether the IoU of regions (rows) with other regions (columns) exceeds a limit."""
    shared = weighted @ table.T.astype(np.float32)
    return shared > limit * (areas[:, None] + others[None, :] - shared)


def propose_segments(
    image: np.ndarray, *, settings: ProposalSettings | None = None
) -> tuple[Regions, np.ndarray]:
    """Segment proposals of a picture (H, W, 3) uint8 RGB.

    Returns R regions, best first, and their scores (R,) float32. If nothing else is found the whole
    picture is the one region.

    Raises:
        ValueError: not such an image.
    """
    settings = settings or ProposalSettings()
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"image must be uint8 (H, W, 3), got {image.dtype} {image.shape}")
    lab = to_lab(image)
    wanted = image.shape[0] * image.shape[1] // settings.pixels_per_superpixel
    labels, pairs = superpixels(lab, edge_maps(lab), min(max(wanted, 1), settings.max_superpixels))
    parts = describe_parts(labels, lab)
    number = len(parts.size)
    scores, tables = [], []
    limit = _CANDIDATES * settings.max_count or None
    for cost in _COSTS:
        tree = grow_tree(parts, pairs, cost)
        values, nodes = _candidates(tree, number, settings)
        best = np.argsort(-values, kind="stable")[:limit]
        members = tree.members(number)
        table = members[nodes[best, 0]]
        paired = nodes[best, 1] >= 0
        table[paired] |= members[nodes[best[paired], 1]]
        scores.append(values[best])
        tables.append(table)
    values, table = np.concatenate(scores), np.concatenate(tables)
    order = np.argsort(-values, kind="stable")
    first: dict[bytes, int] = {}  # of equal regions the best
    for place, row in enumerate(np.packbits(table[order], axis=1)):
        first.setdefault(row.tobytes(), place)
    order = order[list(first.values())]
    order = order[suppress(table[order], parts.size, settings.nms_threshold, settings.max_count)]
    if len(order) == 0:
        return Regions.from_membership(labels, np.ones((1, number), bool)), np.ones(1, np.float32)
    return Regions.from_membership(labels, table[order]), values[order].astype(np.float32)

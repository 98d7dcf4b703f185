"""How well proposals cover the true objects: average best overlap and recall, by their number.

R proposals and K objects of one image. Classes play no part; crowds are no objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wsis.data.artifacts import ProductReader
from wsis.data.proposals.store import Proposals, proposals_of_image
from wsis.evaluation.pseudo_labels import SIZES, size_index
from wsis.evaluation.records import RecordTable
from wsis.evaluation.streaming import Metrics, StreamingEvaluation, Truth, percent, ratio
from wsis.evaluation.walk import CheckOptions, Results, Walk
from wsis.layers.region_overlap import overlap_with_masks

COUNTS = (100, 300, 1000)
_THRESHOLDS = (0.5, 0.7)


@dataclass(frozen=True)
class CoverRecord:
    """What is kept of an image.

    Attributes:
        best: (K, len(COUNTS) + 1) float64, best IoU among the first so many proposals, then all.
        sizes: (K,) int64, index into `wsis.evaluation.pseudo_labels.SIZES`.
        count: (1,) int64, R.
    """

    best: np.ndarray
    sizes: np.ndarray
    count: np.ndarray


class CoverMeasure:
    """Average best overlap (ABO) and recall of proposals."""

    protocol = "proposals"

    def measure(self, pair: tuple[Proposals | None, Truth]) -> CoverRecord:
        """The record of one image; no proposals find nothing."""
        proposals, truth = pair
        masks = np.asarray(truth.masks, dtype=bool)
        best = np.zeros((len(masks), len(COUNTS) + 1))
        if proposals is not None and len(proposals) and len(masks):
            iou = overlap_with_masks(proposals.regions, masks)
            for column, count in enumerate((*COUNTS, len(iou))):
                best[:, column] = iou[:count].max(axis=0)
        sizes = size_index(masks.sum(axis=(1, 2)))
        return CoverRecord(best, sizes, np.array([0 if proposals is None else len(proposals)]))

    def summarise(self, records: RecordTable | Sequence[CoverRecord]) -> Metrics:
        """Per cent over objects; ``objects`` and ``proposals`` (mean of an image) are numbers."""
        table = RecordTable.of(records)
        best = table.column("best", np.float64).reshape(-1, len(COUNTS) + 1)
        sizes, counts = table.column("sizes", np.int64), table.column("count", np.int64)
        metrics = _cover(best[:, -1], "")
        for column, count in enumerate(COUNTS):
            metrics |= _cover(best[:, column], f"@{count}")
        for index, name in enumerate(SIZES):
            metrics |= _cover(best[sizes == index, -1], f"/size {name}")
        metrics["proposals"] = float(counts.mean()) if len(counts) else float("nan")
        metrics["objects"] = len(best)
        return metrics


def _cover(best: np.ndarray, suffix: str) -> Metrics:
    found: Metrics = {f"ABO{suffix}": percent(best.mean()) if best.size else float("nan")}
    for threshold in _THRESHOLDS:
        name = f"recall{round(100 * threshold)}{suffix}"
        found[name] = ratio(int((best >= threshold).sum()), best.size)
    return found


def check_proposals(
    dataset_dicts: Sequence[dict[str, Any]], product: ProductReader, options: CheckOptions
) -> Results:
    """Product ``proposals``: ABO and recall at IoU 0.5 and 0.7, of all and of the first ones."""
    stream, walk = StreamingEvaluation([CoverMeasure()]), Walk("proposals", options)
    for record, truth, arrays in walk.over(dataset_dicts, product):
        key, found = record["image_key"], None
        if arrays is not None:
            found = proposals_of_image(arrays, key, size=truth.void.shape)
        stream.add(key, (found, truth))
    return walk.entries(stream.finish())

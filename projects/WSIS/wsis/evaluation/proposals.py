"""How well proposals cover the true objects: average best overlap and recall, by their number.

R proposals and K objects of one image. Classes play no part; crowds are no objects.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from detectron2.config import CfgNode

from wsis.data.builtin import class_names
from wsis.data.ground_truth import GroundTruth
from wsis.data.proposals.store import Proposals, proposals_of_image
from wsis.evaluation.evaluator import Evaluator, Image
from wsis.evaluation.predictions import SIZES, size_index
from wsis.evaluation.streaming import Measure, Metrics, Record, column, percent, ratio
from wsis.layers.region_overlap import overlap_with_masks

COUNTS = (100, 300, 1000)
_THRESHOLDS = (0.5, 0.7)


class CoverMeasure(Measure):
    """Average best overlap (ABO) and recall of proposals."""

    def __init__(self) -> None:
        super().__init__("proposals")

    def measure(self, pair: tuple[Proposals | None, GroundTruth]) -> Record:
        """What is kept of one image; no proposals find nothing.

        Returns:
            ``best`` (K, len(COUNTS) + 1) float64: best IoU among the first proposals, for each of
            `COUNTS`, then among all; ``sizes`` (K,), index into `SIZES`; ``count`` (1,), R.
        """
        proposals, truth = pair
        masks = np.asarray(truth.masks, dtype=bool)
        best = np.zeros((len(masks), len(COUNTS) + 1))
        if proposals is not None and len(proposals) and len(masks):
            iou = overlap_with_masks(proposals.regions, masks)
            for index, count in enumerate((*COUNTS, len(iou))):
                best[:, index] = iou[:count].max(axis=0)
        sizes = size_index(masks.sum(axis=(1, 2)))
        found = np.array([0 if proposals is None else len(proposals)])
        return {"best": best, "sizes": sizes, "count": found}

    def summarise(self, records: Sequence[Record]) -> Metrics:
        """Per cent over objects; ``objects`` and ``proposals`` (mean of an image) are numbers."""
        best = column(records, "best", np.float64, len(COUNTS) + 1)
        sizes, counts = (column(records, name, np.int64) for name in ("sizes", "count"))
        metrics = _cover(best[:, -1], "")
        for index, count in enumerate(COUNTS):
            metrics |= _cover(best[:, index], f"@{count}")
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


def check_proposals(name: str, cfg: CfgNode) -> Evaluator:
    """Product ``proposals``: ABO and recall at IoU 0.5 and 0.7, of all and of the first ones."""

    def pair_of(image: Image) -> tuple[Proposals | None, GroundTruth]:
        found = image.found
        if found is not None:
            found = proposals_of_image(found, image.key, size=image.truth.void.shape)
        return found, image.truth

    return Evaluator("proposals", class_names(name), [(pair_of, [CoverMeasure()])])

"""Inter-pixel labels against true semantic label maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from detectron2.config import CfgNode

from wsis.evaluation.checks import check_labels
from wsis.evaluation.image_loop import DatasetDicts, Product, Results
from wsis.evaluation.semantic import VOID, LabelPair
from wsis.evaluation.streaming import Measure, Metrics, Record, column, ratio


class InterPixelLabelMeasure(Measure):
    """How much of an inter-pixel label map is known, and how much of that is right.

    Void pixels of the ground truth are left out of precision and recall. A foreground pixel is
    right if its class is right.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        super().__init__("inter-pixel label")
        self.num_labels = len(class_names) + 1

    def measure(self, pair: LabelPair) -> Record:
        """``counts`` (1, 8) int64: pixels of one image."""
        pair.check(self.num_labels)
        predicted, true = pair.predicted, pair.true
        certain = true != VOID
        foreground = (predicted != 0) & (predicted != VOID) & certain
        background = (predicted == 0) & certain
        right = predicted == true
        counts = (
            predicted == VOID,
            np.ones_like(certain),
            foreground & right,
            foreground,
            certain & (true != 0),
            background & right,
            background,
            true == 0,
        )
        return {"counts": np.array([[count.sum() for count in counts]], dtype=np.int64)}

    def summarise(self, records: Sequence[Record]) -> Metrics:
        """Share unknown, precision and recall of foreground and background, in per cent."""
        totals = column(records, "counts", np.int64, 8).sum(axis=0)
        unknown, pixels, fg_hit, fg, fg_true, bg_hit, bg, bg_true = totals.tolist()
        return {
            "unknown": ratio(unknown, pixels),
            "foreground_precision": ratio(fg_hit, fg),
            "foreground_recall": ratio(fg_hit, fg_true),
            "background_precision": ratio(bg_hit, bg),
            "background_recall": ratio(bg_hit, bg_true),
        }


def check_inter_pixel_label(
    dataset_dicts: DatasetDicts, product: Product, class_names: Sequence[str], cfg: CfgNode
) -> Results:
    """Product ``inter_pixel_label``: share unknown, precision of the rest."""
    measure = InterPixelLabelMeasure(class_names)
    return check_labels(
        "inter-pixel labels", measure, dataset_dicts, product, class_names, missing=VOID
    )

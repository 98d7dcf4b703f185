"""Inter-pixel labels and semantic labels against true semantic label maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from detectron2.config import CfgNode

from wsis.data.builtin import class_names
from wsis.data.ground_truth import VOID
from wsis.evaluation.checks import label_pair
from wsis.evaluation.evaluator import Evaluator, Image
from wsis.evaluation.semantic import LabelPair, SemanticMeasure
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


def _evaluator(title: str, measure: Measure, name: str, *, missing: int) -> Evaluator:
    """Of label maps, ``label`` (H, W); without one every pixel counts as ``missing``."""

    def pair_of(image: Image) -> LabelPair:
        found, size = image.found, image.truth.void.shape
        label = np.full(size, missing) if found is None else found["label"]
        return label_pair(image._replace(found=label))

    return Evaluator(title, class_names(name), [(pair_of, [measure])])


def check_inter_pixel_label(name: str, cfg: CfgNode) -> Evaluator:
    """Product ``inter_pixel_label``: share unknown, precision of the rest."""
    measure = InterPixelLabelMeasure(class_names(name))
    return _evaluator("inter-pixel labels", measure, name, missing=VOID)


def check_semantic(name: str, cfg: CfgNode) -> Evaluator:
    """Product ``semantic``: mIoU over the background and C classes."""
    return _evaluator("semantic labels", SemanticMeasure(class_names(name)), name, missing=0)

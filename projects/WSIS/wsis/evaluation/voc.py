"""Protocol ``voc``: mask AP at fixed IoU thresholds as chainercv measures it, and ABO.

Pixels that the ground truth leaves void belong to no object but stay in the predictions, hence in
the unions, unless the options say otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsis.evaluation.average_precision import average_precision
from wsis.evaluation.matching import ImageMatches, best_overlaps, join_matches, rank_matches
from wsis.evaluation.records import RecordTable
from wsis.evaluation.streaming import InstancePair, Metrics, mean_of_defined, percent

THRESHOLDS = (0.25, 0.5, 0.7, 0.75)


@dataclass(frozen=True, kw_only=True)
class ProtocolOptions:
    """Departures from a protocol; each changes its printed name.

    Attributes:
        eleven_point: VOC 2007's 11-point AP (``voc`` only).
        use_difficult: count difficult objects like others. Otherwise ``voc`` neither asks for them
            nor punishes finding them, and ``coco`` treats them as crowds.
        ignore_void: cut void pixels out of the predictions and drop those with nothing left
            (``voc``), or treat the void region as a crowd of every class (``coco``).
        absent_is_zero: a class without any object has AP 0, as CIM counts it, and not none
            (``coco`` only).
    """

    eleven_point: bool = False
    use_difficult: bool = True
    ignore_void: bool = False
    absent_is_zero: bool = False

    def name(self, protocol: str) -> str:
        """``protocol`` with the departures that apply to it, ``"voc, 11-point"``."""
        parts = [protocol]
        if self.eleven_point and protocol == "voc":
            parts.append("11-point")
        if not self.use_difficult:
            parts.append("without difficult")
        if self.ignore_void:
            parts.append("void ignored")
        if self.absent_is_zero and protocol.startswith("coco"):
            parts.append("absent classes 0")
        return ", ".join(parts)


def threshold_name(threshold: float) -> str:
    """``AP50`` for 0.5."""
    return f"AP{round(100 * threshold)}"


def add_by_class(metrics: Metrics, name: str, shares: np.ndarray, classes: Sequence[str]) -> None:
    """Put the mean over classes and the value of each class into ``metrics``, in per cent."""
    metrics[name] = percent(mean_of_defined(shares))
    for class_name, share in zip(classes, shares, strict=True):
        metrics[f"{name}/{class_name}"] = percent(share)


class VocMeasure:
    """AP25, AP50, AP70, AP75 and ABO, mean over classes with ground truth and per class.

    ABO (average best overlap, PRM and IAM): for each object the largest IoU of any prediction of
    its class, whatever its score, 0 if there is none; mean over the objects of a class.

    Args:
        class_names: C names.
        thresholds: IoU thresholds.
        options: departures from chainercv's rule.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        *,
        thresholds: Sequence[float] = THRESHOLDS,
        options: ProtocolOptions | None = None,
    ) -> None:
        self.class_names = tuple(class_names)
        self.thresholds = tuple(thresholds)
        self.options = options or ProtocolOptions()
        self.protocol = self.options.name("voc")

    def measure(self, pair: InstancePair) -> ImageMatches:
        """Best overlaps of one image."""
        if self.options.ignore_void:
            pair = pair.without_void()
        prediction, truth = pair.prediction, pair.truth
        return best_overlaps(
            pair.iou,
            prediction.scores,
            prediction.classes,
            truth.classes,
            difficult=truth.difficult,
        )

    def average_precisions(
        self, records: RecordTable | Sequence[ImageMatches], threshold: float
    ) -> np.ndarray:
        """AP of each class at one IoU threshold, (C,) shares, NaN for classes without objects."""
        ranked = rank_matches(records, threshold, use_difficult=self.options.use_difficult)
        shares = []
        for index in range(len(self.class_names)):
            of_class = ranked.classes == index
            shares.append(
                average_precision(
                    ranked.scores[of_class],
                    ranked.true[of_class],
                    positives=int((ranked.object_classes == index).sum()),
                    ignored=ranked.ignored[of_class],
                    eleven_point=self.options.eleven_point,
                )
            )
        return np.array(shares)

    def average_best_overlaps(self, records: RecordTable | Sequence[ImageMatches]) -> np.ndarray:
        """ABO of each class, (C,) shares, NaN for classes without objects."""
        joined = join_matches(records)
        classes, overlaps = joined.object_classes, joined.object_iou
        if not self.options.use_difficult:
            counted = ~joined.difficult
            classes, overlaps = classes[counted], overlaps[counted]
        number = len(self.class_names)
        counts = np.bincount(classes, minlength=number).astype(np.float64)
        sums = np.bincount(classes, weights=overlaps, minlength=number)
        return np.divide(sums, counts, out=np.full(number, np.nan), where=counts > 0)

    def summarise(self, records: RecordTable | Sequence[ImageMatches]) -> Metrics:
        """AP at every threshold and ABO, means first within each, in per cent."""
        records = RecordTable.of(records)
        metrics: Metrics = {}
        for threshold in self.thresholds:
            shares = self.average_precisions(records, threshold)
            add_by_class(metrics, threshold_name(threshold), shares, self.class_names)
        add_by_class(metrics, "ABO", self.average_best_overlaps(records), self.class_names)
        return metrics

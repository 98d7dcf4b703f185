"""Protocol ``voc``: mask AP at fixed IoU thresholds as chainercv measures it, and ABO.

Pixels that the ground truth leaves void belong to no object but stay in the predictions and so
in the unions, unless the options say otherwise. Matches are kept so that any threshold applies
later. n predictions and K objects of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from wsis.evaluation.predictions import InstancePair, ProtocolOptions, rank_by_score
from wsis.evaluation.streaming import Measure, Metrics, Record, add_by_class, column

THRESHOLDS = (0.25, 0.5, 0.7, 0.75)
# The recall levels as chainercv (and VOC's kit) generate them: 0.30000000000000004 for 0.3.
_ELEVEN_LEVELS = np.arange(0.0, 1.1, 0.1)


def average_precision(
    scores: np.ndarray,
    true: np.ndarray,
    *,
    positives: int,
    ignored: np.ndarray | None = None,
    eleven_point: bool = False,
) -> float:
    """Area under the monotone precision-recall curve of the P predictions of one class.

    Ties are broken by position. chainercv sorts unstably there; everything else agrees with its
    ``calc_instance_segmentation_voc_prec_rec``.

    Args:
        scores: (P,) float, in any order.
        true: (P,) bool, whether the prediction found one of the ``positives`` objects.
        positives: number of objects.
        ignored: (P,) bool, predictions that count neither way.
        eleven_point: VOC 2007's mean over recall 0, 0.1, ..., 1 instead of all points.

    Returns:
        a share in [0, 1]; NaN without objects, 0 with objects but no predictions.
    """
    if not positives:
        return float("nan")
    order = rank_by_score(scores)
    if ignored is not None:
        order = order[~np.asarray(ignored, dtype=bool)[order]]
    hits = np.cumsum(np.asarray(true, dtype=bool)[order])
    precision, recall = hits / np.arange(1, len(hits) + 1), hits / positives
    if eleven_point:
        reached = recall[None, :] >= _ELEVEN_LEVELS[:, None]  # (11, P)
        best = np.where(reached, precision[None, :], 0.0).max(axis=1, initial=0.0)
        return float(best.sum() / 11)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * envelope).sum())


class Matches(NamedTuple):
    """What average precision at any IoU and ABO need to know of one image or of many."""

    scores: np.ndarray  # (n,) float, highest first within an image
    classes: np.ndarray  # (n,) int64
    best_iou: np.ndarray  # (n,) float64, largest IoU with an object of the class; -1 if none
    best_object: np.ndarray  # (n,) int64, that object (the first of equals); -1 if none
    object_classes: np.ndarray  # (K,) int64
    object_iou: np.ndarray  # (K,) float64, largest IoU with a prediction of the class, 0 if none
    difficult: np.ndarray  # (K,) bool

    @classmethod
    def join(cls, images: Sequence[Record]) -> Matches:
        """The matches of all images as if of one image; objects are numbered through."""
        kinds = (np.float64, np.int64, np.float64, np.int64, np.int64, np.float64, bool)
        columns = (column(images, *both) for both in zip(cls._fields, kinds, strict=True))
        found = cls(*columns)
        objects = np.array([len(image["object_classes"]) for image in images], dtype=np.int64)
        predictions = [len(image["best_object"]) for image in images]
        first = np.repeat(np.cumsum(objects) - objects, predictions)
        best = found.best_object
        return found._replace(best_object=np.where(best < 0, -1, best + first))

    def true_at(self, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        """VOC's greedy rule at one IoU threshold.

        Best score first, a prediction takes its best object if their IoU reaches the threshold; it
        is true if that object was still free. It never turns to its second best (unlike COCO).

        Returns:
            true (n,) bool; difficult (n,) bool, whether the object that it reached is difficult.
        """
        reached = np.flatnonzero(self.best_iou >= threshold)
        true = np.zeros(len(self.scores), dtype=bool)
        _, first = np.unique(self.best_object[reached], return_index=True)
        true[reached[first]] = True
        difficult = np.zeros(len(true), dtype=bool)
        difficult[reached] = self.difficult[self.best_object[reached]]
        return true, difficult


def match_instances(pair: InstancePair) -> Matches:
    """The best overlaps of one image."""
    order = rank_by_score(pair.prediction.scores)
    classes = np.asarray(pair.prediction.classes, dtype=np.int64)[order]
    object_classes = np.asarray(pair.truth.classes, dtype=np.int64)
    of_class = np.where(pair.same_class, pair.iou, -1.0)[order]  # (n, K)
    best_iou = of_class.max(axis=1, initial=-1.0)
    best_object = of_class.argmax(axis=1) if len(object_classes) else np.zeros(len(order), int)
    return Matches(
        scores=np.asarray(pair.prediction.scores)[order],
        classes=classes,
        best_iou=best_iou,
        best_object=np.where(best_iou < 0, -1, best_object),
        object_classes=object_classes,
        object_iou=of_class.max(axis=0, initial=0.0),
        difficult=np.asarray(pair.truth.difficult, dtype=bool),
    )


class VocMeasure(Measure):
    """AP25, AP50, AP70, AP75 and ABO, mean over classes with ground truth and per class.

    ABO (average best overlap, PRM and IAM): for each object the largest IoU of any prediction of
    its class, whatever its score, 0 if there is none; mean over the objects of a class.
    """

    def __init__(
        self, class_names: Sequence[str], *, options: ProtocolOptions | None = None
    ) -> None:
        self.options = options or ProtocolOptions()
        super().__init__(self.options.name("voc"), class_names)

    def measure(self, pair: InstancePair) -> Record:
        """The fields of `Matches` of one image."""
        pair = pair.without_void() if self.options.ignore_void else pair
        return match_instances(pair)._asdict()

    def average_precisions(self, matches: Matches, threshold: float) -> np.ndarray:
        """AP of each class at one IoU threshold, (C,) shares, NaN for classes without objects."""
        true, difficult = matches.true_at(threshold)
        ignored = difficult & (not self.options.use_difficult)
        counted = ~matches.difficult | self.options.use_difficult
        shares = []
        for index in range(len(self.class_names)):
            of_class = matches.classes == index
            shares.append(
                average_precision(
                    matches.scores[of_class],
                    true[of_class],
                    positives=int((matches.object_classes[counted] == index).sum()),
                    ignored=ignored[of_class],
                    eleven_point=self.options.eleven_point,
                )
            )
        return np.array(shares)

    def average_best_overlaps(self, matches: Matches) -> np.ndarray:
        """ABO of each class, (C,) shares, NaN for classes without objects."""
        counted = ~matches.difficult | self.options.use_difficult
        classes, overlaps = matches.object_classes[counted], matches.object_iou[counted]
        number = len(self.class_names)
        counts = np.bincount(classes, minlength=number).astype(np.float64)
        sums = np.bincount(classes, weights=overlaps, minlength=number)
        return np.divide(sums, counts, out=np.full(number, np.nan), where=counts > 0)

    def summarise(self, records: Sequence[Record]) -> Metrics:
        """AP at every threshold and ABO, means first within each, in per cent."""
        matches = Matches.join(records)
        metrics: Metrics = {}
        for threshold in THRESHOLDS:
            shares = self.average_precisions(matches, threshold)
            add_by_class(metrics, f"AP{round(100 * threshold)}", shares, self.class_names)
        add_by_class(metrics, "ABO", self.average_best_overlaps(matches), self.class_names)
        return metrics

"""Which prediction finds which object: VOC's rule, kept so that any threshold applies later.

n predictions and K objects of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsis.evaluation.average_precision import rank_by_score
from wsis.evaluation.records import RecordTable


@dataclass(frozen=True)
class ImageMatches:
    """All that average precision at any IoU and ABO need to know of one image.

    Attributes:
        scores: (n,) float, highest first.
        classes: (n,) int64.
        best_iou: (n,) float64, largest IoU with an object of the prediction's class; -1 if none.
        best_object: (n,) int64, that object (the first of equals); -1 if none.
        object_classes: (K,) int64.
        object_iou: (K,) float64, largest IoU with a prediction of the object's class, 0 if none.
        difficult: (K,) bool.
    """

    scores: np.ndarray
    classes: np.ndarray
    best_iou: np.ndarray
    best_object: np.ndarray
    object_classes: np.ndarray
    object_iou: np.ndarray
    difficult: np.ndarray


def best_overlaps(
    iou: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray,
    object_classes: np.ndarray,
    *,
    difficult: np.ndarray | None = None,
) -> ImageMatches:
    """Reduce an image to its best overlaps.

    Args:
        iou: (n, K) float.
        scores: (n,) float.
        classes: (n,) int.
        object_classes: (K,) int.
        difficult: (K,) bool; None if no object is.
    """
    order = rank_by_score(scores)
    iou, classes = iou[order], np.asarray(classes, dtype=np.int64)[order]
    object_classes = np.asarray(object_classes, dtype=np.int64)
    same = classes[:, None] == object_classes[None, :]
    of_class = np.where(same, iou, -1.0)  # (n, K)
    count = len(object_classes)
    best_object = of_class.argmax(axis=1) if count else np.zeros(len(order), dtype=np.int64)
    best_iou = of_class.max(axis=1, initial=-1.0)
    return ImageMatches(
        scores=np.asarray(scores)[order],
        classes=classes,
        best_iou=best_iou,
        best_object=np.where(best_iou < 0, -1, best_object),
        object_classes=object_classes,
        object_iou=of_class.max(axis=0, initial=0.0),
        difficult=np.zeros(count, dtype=bool) if difficult is None else np.asarray(difficult, bool),
    )


def true_at(matches: ImageMatches, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """VOC's greedy rule at one IoU threshold.

    Best score first, a prediction takes its best object if their IoU reaches the threshold; it is
    true if that object was still free. It never turns to its second best (unlike COCO).

    Returns:
        true (n,) bool; difficult (n,) bool, whether the object that it reached is difficult.
    """
    reached = np.flatnonzero(matches.best_iou >= threshold)
    true = np.zeros(len(matches.scores), dtype=bool)
    _, first = np.unique(matches.best_object[reached], return_index=True)
    true[reached[first]] = True
    difficult = np.zeros(len(true), dtype=bool)
    difficult[reached] = matches.difficult[matches.best_object[reached]]
    return true, difficult


@dataclass(frozen=True)
class RankedMatches:
    """`ImageMatches` of a data set, one after another, at one threshold.

    Attributes:
        scores: (P,) float.
        classes: (P,) int64.
        true: (P,) bool.
        ignored: (P,) bool, reached a difficult object that does not count.
        object_classes: (sum of K,) int64, objects that count.
    """

    scores: np.ndarray
    classes: np.ndarray
    true: np.ndarray
    ignored: np.ndarray
    object_classes: np.ndarray


def join_matches(images: RecordTable | Sequence[ImageMatches]) -> ImageMatches:
    """The matches of all images as though they were one: `true_at` then treats them together.

    Objects are numbered through; an image's predictions stay together, best score first.
    """
    table = RecordTable.of(images)
    objects = table.counts("object_classes")
    first = np.repeat(np.cumsum(objects) - objects, table.counts("best_object"))
    best = table.column("best_object", np.int64)
    return ImageMatches(
        scores=table.column("scores", np.float64),
        classes=table.column("classes", np.int64),
        best_iou=table.column("best_iou", np.float64),
        best_object=np.where(best < 0, -1, best + first),
        object_classes=table.column("object_classes", np.int64),
        object_iou=table.column("object_iou", np.float64),
        difficult=table.column("difficult", bool),
    )


def rank_matches(
    images: RecordTable | Sequence[ImageMatches], threshold: float, *, use_difficult: bool = True
) -> RankedMatches:
    """Match every image at one IoU threshold.

    Args:
        images: in the order that breaks ties.
        threshold: IoU in [0, 1].
        use_difficult: count difficult objects like others; otherwise they are no positives and a
            prediction that reaches one counts neither way.
    """
    joined = join_matches(images)
    true, difficult = true_at(joined, threshold)
    return RankedMatches(
        scores=joined.scores,
        classes=joined.classes,
        true=true,
        ignored=np.zeros_like(difficult) if use_difficult else difficult,
        object_classes=joined.object_classes[use_difficult | ~joined.difficult],
    )

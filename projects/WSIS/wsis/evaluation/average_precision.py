"""Average precision of ranked, matched predictions, as PASCAL VOC defines it.

P predictions of one class over all images.
"""

from __future__ import annotations

import numpy as np

# The recall levels as chainercv (and VOC's kit) generate them: 0.30000000000000004 for 0.3.
_ELEVEN_LEVELS = np.arange(0.0, 1.1, 0.1)


def rank_by_score(scores: np.ndarray) -> np.ndarray:
    """Indices of (P,) scores from highest to lowest; equal scores keep their order."""
    return np.argsort(-np.asarray(scores), kind="stable")


def precision_recall(
    scores: np.ndarray,
    true: np.ndarray,
    *,
    positives: int,
    ignored: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall after each prediction, best score first.

    Ties are broken by position. chainercv sorts unstably there; everything else agrees with its
    ``calc_instance_segmentation_voc_prec_rec``.

    Args:
        scores: (P,) float.
        true: (P,) bool, whether the prediction found an object.
        positives: number of objects.
        ignored: (P,) bool, predictions that count neither way.

    Returns:
        precision and recall, (number not ignored,) float64; recall is NaN without objects.
    """
    order = rank_by_score(scores)
    if ignored is not None:
        order = order[~np.asarray(ignored, dtype=bool)[order]]
    hits = np.cumsum(np.asarray(true, dtype=bool)[order])
    precision = hits / np.arange(1, len(hits) + 1)
    recall = hits / positives if positives else np.full(len(hits), np.nan)
    return precision, recall


def area_under_curve(
    precision: np.ndarray, recall: np.ndarray, *, eleven_point: bool = False
) -> float:
    """Area under the monotone precision-recall curve.

    Args:
        precision: (P,) float.
        recall: (P,) float, ascending.
        eleven_point: VOC 2007's mean over recall 0, 0.1, ..., 1 instead of all points.

    Returns:
        a share in [0, 1].
    """
    if eleven_point:
        reached = recall[None, :] >= _ELEVEN_LEVELS[:, None]  # (11, P)
        best = np.where(reached, precision[None, :], 0.0).max(axis=1, initial=0.0)
        return float(best.sum() / 11)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * envelope).sum())


def average_precision(
    scores: np.ndarray,
    true: np.ndarray,
    *,
    positives: int,
    ignored: np.ndarray | None = None,
    eleven_point: bool = False,
) -> float:
    """Average precision of one class.

    Args are those of `precision_recall` and `area_under_curve`.

    Returns:
        a share in [0, 1]; NaN without objects, 0 with objects but no predictions.
    """
    if not positives:
        return float("nan")
    precision, recall = precision_recall(scores, true, positives=positives, ignored=ignored)
    return area_under_curve(precision, recall, eleven_point=eleven_point)

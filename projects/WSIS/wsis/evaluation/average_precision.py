"""Average precision of ranked, matched predictions, as PASCAL VOC defines it."""

from __future__ import annotations

import numpy as np

from wsis.evaluation.predictions import rank_by_score

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

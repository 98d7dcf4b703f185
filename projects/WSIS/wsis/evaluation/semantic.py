"""Semantic label maps: confusion matrix and mIoU over the background and C classes.

Label maps are (H, W): 0 background, class + 1, 255 void or unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from wsis.data.ground_truth import VOID
from wsis.errors import DataError
from wsis.evaluation.predictions import InstancePrediction, rank_by_score
from wsis.evaluation.streaming import (
    Measure,
    Metrics,
    Record,
    column,
    mean_of_defined,
    percent,
    ratio,
)


class LabelPair(NamedTuple):
    """Predicted and true label map (H, W) int of one image, whose key is for messages."""

    key: str
    predicted: np.ndarray
    true: np.ndarray

    def check(self, num_labels: int) -> None:
        """Raise `DataError` for unequal sizes or unknown labels."""
        if self.predicted.shape != self.true.shape:
            raise DataError(
                f"label map of image {self.key}: expected {self.true.shape} pixels, got "
                f"{self.predicted.shape}; make it again at the size of the ground truth"
            )
        for name, label in (("predicted", self.predicted), ("true", self.true)):
            known = label[label != VOID]
            if known.size and not 0 <= int(known.min()) <= int(known.max()) < num_labels:
                raise DataError(
                    f"{name} label map of image {self.key}: expected 0..{num_labels - 1} or 255, "
                    f"got {int(known.min())}..{int(known.max())}; check the number of classes"
                )


def confusion_matrix(true: np.ndarray, predicted: np.ndarray, *, num_labels: int) -> np.ndarray:
    """Pixels by ``[true, predicted]`` label, without those whose true label is 255.

    Both maps are (H, W) int, 0..num_labels-1, the true one also 255; num_labels is C + 1.
    """
    known = np.asarray(true) != VOID
    codes = true[known].astype(np.int64) * num_labels + predicted[known].astype(np.int64)
    return np.bincount(codes, minlength=num_labels**2).reshape(num_labels, num_labels)


def iou_of_classes(confusion: np.ndarray) -> np.ndarray:
    """IoU of each label from a confusion matrix, shares; NaN for labels that occur nowhere."""
    hits = np.diag(confusion).astype(np.float64)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - hits
    return np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)


def paint_instances(prediction: InstancePrediction) -> np.ndarray:
    """The semantic union of instances, (H, W) int64: 0 background, class + 1.

    The best-scoring instance lies on top, of equal scores the first.
    """
    assert prediction.masks is not None
    label = np.zeros(prediction.masks.shape[1:], dtype=np.int64)
    for index in rank_by_score(prediction.scores)[::-1]:
        label[prediction.masks[index]] = prediction.classes[index] + 1
    return label


class SemanticMeasure(Measure):
    """mIoU, IoU per class and pixel accuracy; 255 in a prediction is background (IRNet's rule)."""

    def __init__(self, class_names: Sequence[str], *, protocol: str = "semantic") -> None:
        super().__init__(protocol)
        self.labels = ("background", *class_names)

    def measure(self, pair: LabelPair) -> Record:
        """The filled cells of the image's confusion matrix.

        Returns:
            ``cells`` (m,) int64, positions in the flattened matrix; ``pixels`` (m,), contents.
        """
        number = len(self.labels)
        pair.check(number)
        predicted = np.where(pair.predicted == VOID, 0, pair.predicted)
        flat = confusion_matrix(pair.true, predicted, num_labels=number).ravel()
        cells = np.flatnonzero(flat)
        return {"cells": cells, "pixels": flat[cells]}

    def total(self, records: Sequence[Record]) -> np.ndarray:
        """The confusion matrix of all images."""
        confusion = np.zeros((len(self.labels),) * 2, dtype=np.int64)
        cells, pixels = (column(records, name, np.int64) for name in ("cells", "pixels"))
        np.add.at(confusion.reshape(-1), cells, pixels)
        return confusion

    def summarise(self, records: Sequence[Record]) -> Metrics:
        """mIoU over labels that occur, each label's IoU, pixel accuracy, in per cent."""
        confusion = self.total(records)
        shares = iou_of_classes(confusion)
        metrics: Metrics = {"mIoU": percent(mean_of_defined(shares))}
        metrics["pixel_accuracy"] = ratio(int(np.trace(confusion)), int(confusion.sum()))
        for name, share in zip(self.labels, shares, strict=True):
            metrics[f"IoU/{name}"] = percent(share)
        return metrics

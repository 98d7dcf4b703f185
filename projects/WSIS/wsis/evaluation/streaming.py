"""The core that every evaluation shares: one image in, a small record kept, one answer at the end.

A measure turns an image (prediction and ground truth) into a record of a few numbers; masks are
never kept, and records are packed into arrays (`wsis.evaluation.records`). At the end those of all
processes come together on the main process, ordered by image key with duplicates dropped, so that
the figures do not depend on how many processes there were. K ground-truth objects, n predictions,
H x W pixels.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from wsis.errors import DataError
from wsis.evaluation.records import KeyedRecords, RecordTable
from wsis.layers.masks import iou_of_areas, mask_intersection

Metrics = dict[str, float]


class Truth(Protocol):
    """What is known of an image; `wsis.data.ground_truth.GroundTruth` is one.

    Attributes:
        masks: (K, H, W) bool.
        classes: (K,) int64, 0..C-1.
        void: (H, W) bool, pixels about which nothing is known.
        difficult: (K,) bool.
    """

    masks: np.ndarray
    classes: np.ndarray
    void: np.ndarray
    difficult: np.ndarray

    def semantic(self, num_classes: int) -> np.ndarray:
        """Label map (H, W): 0 background, class + 1, 255 void."""


@dataclass(frozen=True)
class InstancePrediction:
    """Predicted instances of one image, in any order.

    Attributes:
        classes: (n,) int64, 0..C-1.
        scores: (n,) float, finite.
        masks: (n, H, W) bool; None where only boxes were predicted.
        boxes: (n, 4) float XYXY in pixels; None for the boxes of the masks.
    """

    classes: np.ndarray
    scores: np.ndarray
    masks: np.ndarray | None
    boxes: np.ndarray | None = None

    def check(self, key: str, *, size: tuple[int, int], num_classes: int) -> None:
        """Raise `DataError` unless the fields agree with each other and with the image."""
        count = len(self.classes)
        expected = {"scores": (count,), "masks": (count, *size), "boxes": (count, 4)}
        for name, shape in expected.items():
            value = getattr(self, name)
            if value is not None and value.shape != shape:
                raise DataError(
                    f"predictions for image {key}: expected {name} of shape {shape}, got "
                    f"{value.shape}; make them again at the size of the ground truth"
                )
        if not np.isfinite(self.scores).all():
            raise DataError(f"predictions for image {key}: a score is not finite; train again")
        if count and not 0 <= int(self.classes.min()) <= int(self.classes.max()) < num_classes:
            raise DataError(
                f"predictions for image {key}: expected classes 0..{num_classes - 1}, got "
                f"{sorted(set(self.classes.tolist()))}; check MODEL.*.NUM_CLASSES"
            )

    def above(self, min_score: float) -> InstancePrediction:
        """Those that score strictly more than ``min_score``."""
        keep = self.scores > min_score
        return InstancePrediction(
            self.classes[keep],
            self.scores[keep],
            None if self.masks is None else self.masks[keep],
            None if self.boxes is None else self.boxes[keep],
        )


@dataclass(frozen=True)
class InstancePair:
    """Predicted and true instances of one image, with what several measures compute from them.

    Attributes:
        key: image key.
        prediction: what was predicted.
        truth: what is there.
    """

    key: str
    prediction: InstancePrediction
    truth: Truth

    @cached_property
    def shared(self) -> np.ndarray:
        """(n, K) float64: pixels common to prediction and object."""
        return mask_intersection(self.prediction.masks, self.truth.masks)

    @cached_property
    def predicted_areas(self) -> np.ndarray:
        """(n,) int64: pixels of each prediction."""
        return self.prediction.masks.sum(axis=(1, 2))

    @cached_property
    def true_areas(self) -> np.ndarray:
        """(K,) int64: pixels of each object."""
        return self.truth.masks.sum(axis=(1, 2))

    @cached_property
    def iou(self) -> np.ndarray:
        """(n, K) float64 mask IoU; 0 for two empty masks."""
        return iou_of_areas(self.shared, self.predicted_areas[:, None], self.true_areas[None, :])

    def above(self, min_score: float) -> InstancePair:
        """The same image with only the predictions that score more than ``min_score``."""
        return InstancePair(self.key, self.prediction.above(min_score), self.truth)

    def without_void(self) -> InstancePair:
        """The same image with void cut out of every prediction; those with nothing left go."""
        inside = self.prediction.masks & ~self.truth.void
        keep = inside.any(axis=(1, 2)) | ~self.prediction.masks.any(axis=(1, 2))
        left = InstancePrediction(
            self.prediction.classes[keep], self.prediction.scores[keep], inside[keep]
        )
        return InstancePair(self.key, left, self.truth)


class Measure(Protocol):
    """One way of measuring, under the name of its protocol."""

    protocol: str

    def measure(self, pair: Any) -> Any:
        """A small record of one image: a dataclass of arrays, the first axis counting rows."""

    def summarise(self, records: RecordTable | Sequence[Any]) -> Metrics:
        """Metrics in per cent, NaN where undefined, from the records in the order of image keys."""


class StreamingEvaluation:
    """Measures a stream of images and gathers over processes.

    Args:
        measures: what to measure; protocols must differ.
    """

    def __init__(self, measures: Sequence[Measure]) -> None:
        names = [measure.protocol for measure in measures]
        if len(set(names)) != len(names):
            raise ValueError(f"protocols must differ, got {names}")
        self.measures = tuple(measures)
        self.reset()

    def reset(self) -> None:
        """Forget every image."""
        self._records = KeyedRecords(len(self.measures))

    def add(self, key: str, pair: Any) -> None:
        """Measure one image; a key seen before is measured again and replaces its record."""
        self._records.add(key, [measure.measure(pair) for measure in self.measures])

    def finish(self) -> OrderedDict[str, Metrics]:
        """``{protocol: metrics}`` on the main process, empty on the others."""
        tables = self._records.gather()
        results: OrderedDict[str, Metrics] = OrderedDict()
        if tables is not None:
            for measure, table in zip(self.measures, tables, strict=True):
                results[measure.protocol] = measure.summarise(table)
        return results


def percent(value: float) -> float:
    """A share as per cent; NaN stays NaN."""
    return 100.0 * float(value)


def mean_of_defined(values: Sequence[float] | np.ndarray) -> float:
    """Mean of the values that are not NaN; NaN if there are none."""
    values = np.asarray(values, dtype=np.float64)
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def ratio(part: float, whole: float) -> float:
    """``part / whole`` in per cent, NaN where ``whole`` is 0."""
    return percent(part / whole) if whole else float("nan")

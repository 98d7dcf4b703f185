"""Multi-label classification: mean average precision over classes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator

from wsis.errors import DataError
from wsis.evaluation.streaming import Measure, Metrics, Record, add_by_class, column, results_of
from wsis.evaluation.voc import average_precision


class ClassificationEvaluator(Measure, DatasetEvaluator):
    """Average precision of each class over images (all points), mean over classes that occur.

    Images that were not classified are in no ranking, but their labels count as missed.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        super().__init__("classification", class_names)

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Take a batch: inputs have ``image_key`` and ``image_labels``, outputs ``logits`` (C,)."""
        for given, output in zip(inputs, outputs, strict=True):
            scores = np.asarray(output["logits"].detach().cpu(), dtype=np.float64)
            if scores.shape != (len(self.class_names),) or not np.isfinite(scores).all():
                raise DataError(
                    f"image {given['image_key']}: expected {len(self.class_names)} finite scores, "
                    f"got shape {scores.shape}; check the number of classes or train again"
                )
            self._add(given, scores)

    def miss(self, dataset_dict: Mapping[str, Any]) -> None:
        """Count an image that could not be read: none of its labels was found."""
        self._add(dataset_dict, np.full(len(self.class_names), -np.inf))

    def _add(self, given: Mapping[str, Any], scores: np.ndarray) -> None:
        present = np.zeros(len(self.class_names), dtype=bool)
        present[list(given.get("image_labels", ()))] = True
        self.add(given["image_key"], {"scores": scores[None], "present": present[None]})

    def measure(self, pair: Record) -> Record:
        """The pair itself: ``scores`` (1, C), -inf if not classified, and ``present`` (1, C)."""
        return pair

    def summarise(self, records: Sequence[Record]) -> Metrics:
        """``mAP`` and ``mAP/<class>`` in per cent."""
        number = len(self.class_names)
        scores = column(records, "scores", np.float64, number).T
        present = column(records, "present", bool, number).T
        shares = [
            average_precision(s, p, positives=int(p.sum()), ignored=np.isneginf(s))
            for s, p in zip(scores, present, strict=True)
        ]
        metrics: Metrics = {}
        add_by_class(metrics, "mAP", np.array(shares), self.class_names)
        return metrics

    def evaluate(self) -> OrderedDict[str, Metrics]:
        """``{"classification": metrics}`` on the main process, empty on the others."""
        return results_of([self])

"""Multi-label classification: mean average precision over classes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator

from wsis.errors import DataError
from wsis.evaluation.average_precision import average_precision
from wsis.evaluation.records import RecordTable
from wsis.evaluation.streaming import Metrics, StreamingEvaluation
from wsis.evaluation.voc import add_by_class


@dataclass(frozen=True)
class ImageScores:
    """What a classifier says of an image, and what is in it.

    Attributes:
        scores: (1, C) float64; -inf where the image was not classified.
        present: (1, C) bool.
    """

    scores: np.ndarray
    present: np.ndarray


class ClassificationMeasure:
    """Average precision of each class over images (all points), mean over classes that occur.

    Images that were not classified are in no ranking, but what is in them counts as missed.

    Args:
        class_names: C names.
    """

    protocol = "classification"

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = tuple(class_names)

    def measure(self, pair: ImageScores) -> ImageScores:
        """The pair itself."""
        return pair

    def summarise(self, records: RecordTable | Sequence[ImageScores]) -> Metrics:
        """``mAP`` and ``mAP/<class>`` in per cent."""
        table, number = RecordTable.of(records), len(self.class_names)
        scores = table.column("scores", np.float64).reshape(-1, number)
        present = table.column("present", bool).reshape(-1, number)
        shares = [
            average_precision(
                scores[:, i],
                present[:, i],
                positives=int(present[:, i].sum()),
                ignored=np.isneginf(scores[:, i]),
            )
            for i in range(number)
        ]
        metrics: Metrics = {}
        add_by_class(metrics, "mAP", np.array(shares), self.class_names)
        return metrics


class ClassificationEvaluator(DatasetEvaluator):
    """Multi-label mAP of an image classifier.

    Args:
        class_names: C names.
        output_key: where a model's output holds its logits or scores, (C,).
    """

    def __init__(self, class_names: Sequence[str], *, output_key: str = "logits") -> None:
        self.class_names = tuple(class_names)
        self.output_key = output_key
        self._stream = StreamingEvaluation([ClassificationMeasure(class_names)])

    def reset(self) -> None:
        """Forget every image."""
        self._stream.reset()

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Take a batch: inputs have ``image_key`` and ``image_labels``, outputs scores (C,)."""
        for given, output in zip(inputs, outputs, strict=True):
            scores = np.asarray(output[self.output_key].detach().cpu(), dtype=np.float64)
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
        self._stream.add(given["image_key"], ImageScores(scores[None], present[None]))

    def evaluate(self) -> OrderedDict[str, Metrics]:
        """``{"classification": metrics}`` on the main process, empty on the others."""
        return self._stream.finish()

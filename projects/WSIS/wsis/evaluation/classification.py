"""Multi-label classification: mean average precision over classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from detectron2.config import CfgNode

from wsis.data.builtin import class_names
from wsis.errors import DataError
from wsis.evaluation.evaluator import Evaluator, Image
from wsis.evaluation.streaming import Measure, Metrics, Record, add_by_class, column
from wsis.evaluation.voc import average_precision


class ClassificationMeasure(Measure):
    """Average precision of each class over images (all points), mean over classes that occur.

    Images that were not classified are in no ranking, but their labels count as missed.
    """

    def measure(self, pair: Image) -> Record:
        """``scores`` (1, C) from ``logits`` (C,), -inf if not classified; ``present`` (1, C)."""
        number = len(self.class_names)
        scores, present = np.full(number, -np.inf), np.zeros((1, number), dtype=bool)
        present[0, list(pair.truth.classes)] = True
        if pair.found is not None:
            scores = np.asarray(pair.found["logits"].detach().cpu(), dtype=np.float64)
            if scores.shape != (number,) or not np.isfinite(scores).all():
                raise DataError(
                    f"image {pair.key}: expected {number} finite scores, got shape "
                    f"{scores.shape}; check the number of classes or train again"
                )
        return {"scores": scores[None], "present": present}

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


def classification_evaluator(name: str, cfg: CfgNode, folder: Path) -> Evaluator:
    """The evaluator of an image classifier; it needs no masks and writes no predictions."""
    names = class_names(name)
    parts = [(lambda image: image, [ClassificationMeasure("classification", names)])]
    return Evaluator(
        "tags", names, parts, lambda record: SimpleNamespace(classes=record.get("image_labels", ()))
    )

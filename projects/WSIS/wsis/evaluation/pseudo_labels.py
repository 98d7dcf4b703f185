"""Quality of pseudo labels on the training set, beyond average precision.

n predictions and K objects of one image; only predictions above a score count here, since pseudo
labels are used without a ranking.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wsis.evaluation.predictions import SIZES, InstancePair, rank_by_score, size_index
from wsis.evaluation.semantic import LabelPair, SemanticMeasure, paint_instances
from wsis.evaluation.streaming import Measure, Metrics, Record, column, ratio
from wsis.evaluation.voc import match_instances
from wsis.layers.masks import droppers, stays
from wsis.layers.run_lengths import rle_intersection

_COVERED = 0.5  # share that makes "mostly covered" and "mostly inside"
_FRAGMENT = 0.1  # smallest share of an object that makes a fragment of it


def merged_objects(pair: InstancePair) -> np.ndarray:
    """Under-segmentation: (K,) bool, objects that share a prediction with another of their class.

    A prediction covers an object of its class if it holds at least half of the object's pixels.
    Objects are merged if one prediction covers two or more of them.
    """
    covers = pair.same_class & (pair.shared >= _COVERED * np.maximum(pair.areas[1], 1))
    return covers[covers.sum(axis=1) >= 2].any(axis=0)


def split_objects(pair: InstancePair) -> np.ndarray:
    """Over-segmentation: (K,) bool, objects broken into two or more fragments.

    A fragment of an object is a prediction of its class: at least half of it lies in the object,
    and it holds at least a tenth of the object. Duplicates are no fragments: going down from the
    best score, a fragment that shares half of itself with an earlier one is passed over.
    """
    prediction, truth = pair.prediction, pair.truth
    areas, true_areas = pair.areas
    inside = pair.shared >= _COVERED * np.maximum(areas, 1)[:, None]
    enough = pair.shared >= _FRAGMENT * np.maximum(true_areas, 1)[None, :]
    fragments = pair.same_class & inside & enough  # (n, K)
    split = np.zeros(len(truth.classes), dtype=bool)
    order = rank_by_score(prediction.scores)
    for index in np.flatnonzero(fragments.sum(axis=0) >= 2):
        rows = order[fragments[order, index]]
        rles = [prediction.rles[row] for row in rows]
        common = rle_intersection(rles, rles)
        duplicate = common >= _COVERED * areas[rows][None, :]  # [i, j]: j in i
        split[index] = len(stays(droppers(duplicate))) >= 2
    return split


class QualityMeasure(Measure):
    """Precision and recall at IoU 0.5 (VOC's matching), merged and split objects, semantic mIoU.

    Predictions that score no more than ``min_score`` do not count.
    """

    def __init__(self, class_names: Sequence[str], *, min_score: float = 0.0) -> None:
        self.min_score = min_score
        super().__init__(f"quality, score > {min_score:g}", class_names)
        self._semantic = SemanticMeasure(class_names)

    def measure(self, pair: InstancePair) -> Record:
        """What is kept of one image.

        Returns:
            of the objects, (K,): ``found`` at IoU 0.5, ``merged``, ``split``, ``object_classes``,
            ``object_sizes`` (index into `SIZES`); of the predictions, (n,): ``true`` (found an
            object), ``classes``, ``sizes``; and what `SemanticMeasure` keeps of their union.
        """
        truth, counting = pair.truth, pair.prediction.scores > self.min_score
        if not counting.all():
            pair = InstancePair(pair.key, pair.prediction.take(counting), truth)
        prediction = pair.prediction
        matches = match_instances(pair)
        true, _ = matches.true_at(0.5)
        found = np.zeros(len(truth.classes), dtype=bool)
        found[matches.best_object[true]] = True
        labels = LabelPair(
            pair.key, paint_instances(prediction), truth.semantic(len(self.class_names))
        )
        return {
            "found": found,
            "merged": merged_objects(pair),
            "split": split_objects(pair),
            "object_classes": np.asarray(truth.classes, dtype=np.int64),
            "object_sizes": size_index(pair.areas[1]),
            "true": true,
            "classes": matches.classes,
            "sizes": size_index(pair.areas[0][rank_by_score(prediction.scores)]),
            **self._semantic.measure(labels),
        }

    def summarise(self, records: Sequence[Record]) -> Metrics:
        """Per cent; ``images``, ``objects`` and ``instances`` are counts."""
        joined = {name: column(records, name, bool) for name in _FLAGS}
        joined |= {name: column(records, name, np.int64) for name in _NUMBERS}
        semantic = self._semantic.summarise(records)
        metrics: Metrics = {"mIoU": semantic["mIoU"], **_shares(joined, "")}
        metrics["images"] = len(records)
        metrics["objects"] = len(joined["found"])
        metrics["instances"] = len(joined["true"])
        groups = {name: (i, "classes") for i, name in enumerate(self.class_names)}
        groups |= {f"size {name}": (i, "sizes") for i, name in enumerate(SIZES)}
        for name, (index, field) in groups.items():
            predicted, objects = joined[field] == index, joined[f"object_{field}"] == index
            chosen = {key: joined[key][predicted if key == "true" else objects] for key in _FLAGS}
            metrics |= _shares(chosen, f"/{name}")
        metrics |= {name: value for name, value in semantic.items() if name.startswith("IoU/")}
        return metrics


_FLAGS = ("found", "merged", "split", "true")
_NUMBERS = ("object_classes", "object_sizes", "classes", "sizes")


def _shares(joined: dict[str, np.ndarray], suffix: str) -> Metrics:
    found, true = joined["found"], joined["true"]
    return {
        f"precision50{suffix}": ratio(true.sum(), len(true)),
        f"recall50{suffix}": ratio(found.sum(), len(found)),
        f"merged{suffix}": ratio(joined["merged"].sum(), len(found)),
        f"split{suffix}": ratio(joined["split"].sum(), len(found)),
    }

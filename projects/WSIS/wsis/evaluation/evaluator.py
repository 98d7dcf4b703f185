"""The one form of evaluation: what was found in an image beside its truth, given to measures.

A stage names in ``evaluation`` what makes its `Evaluator`: ``(data set's name, cfg)``, for a
training stage ``(data set's name, cfg, folder for predictions)``.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from detectron2.utils import comm

from wsis.data.artifacts import ArtifactFolder
from wsis.data.ground_truth import has_ground_truth
from wsis.evaluation.streaming import Measure, Metrics, results_of
from wsis.evaluation.truth import load_truth
from wsis.progress import progress

logger = logging.getLogger(__name__)

DatasetDict = dict[str, Any]
Results = list[dict[str, Any]]
_COUNTED = ("images", "images_without_ground_truth", "images_without_product")


class Image(NamedTuple):
    """An image that is measured."""

    record: DatasetDict  # at the size at which it is measured
    truth: Any  # GroundTruth, or what else has the classes of objects
    found: Any  # its product, or a network's output for it; None: nothing, all objects are missed
    class_names: Sequence[str]

    @property
    def key(self) -> str:
        """Its image key."""
        return self.record["image_key"]


# What makes of an image the pair that some measures take; None leaves it out.
Part = tuple[Callable[[Image], Any], Sequence[Measure]]


@dataclass(eq=False)
class Evaluator:
    """Measures images one by one; each process has a share of them."""

    title: str  # of what is measured, for progress bars and messages
    class_names: Sequence[str]
    parts: Sequence[Part]
    truth_of: Callable[[DatasetDict], Any] = load_truth  # None leaves an image out
    distributed: bool = True  # else every process has the figures of its own images
    counts: Counter[str] = field(default_factory=Counter)  # this process's images, ``objects``

    @property
    def measures(self) -> list[Measure]:
        """Those of all parts."""
        return [one for _, measures in self.parts for one in measures]

    def order(self, record: DatasetDict) -> Any:
        """The key by which images are ordered, which tells between equal scores."""
        return record["image_key"]

    def add(self, record: DatasetDict, found: Any) -> None:
        """Measure what was found in an image; see `Image`.

        Raises:
            DataError: it does not fit the image, or the true masks cannot be read.
        """
        truth = self.truth_of(record)
        if truth is None:
            self.counts["images_without_ground_truth"] += 1
            return
        self.counts["images"] += 1
        self.counts["objects"] += len(truth.classes)
        self.counts["images_without_product"] += found is None
        for pair_of, measures in self.parts:
            pair = pair_of(Image(record, truth, found, self.class_names))
            for one in measures if pair is not None else ():
                one.add(self.order(record), pair)

    def total(self) -> Counter[str]:
        """The counts of all processes on the main process, none on the others."""
        shares = comm.gather(self.counts, dst=0) if self.distributed else [self.counts]
        return sum(shares, Counter[str]())

    def evaluate(self) -> OrderedDict[str, Metrics]:
        """``{protocol: {metric: per cent}}`` on the main process, empty on the others."""
        return results_of(self.measures, distributed=self.distributed)


def evaluate_product(
    evaluator: Evaluator, dataset_dicts: Sequence[DatasetDict], product: ArtifactFolder
) -> Results:
    """``[{"protocol": name, "metrics": figures and counts}]`` of this process's share of images.

    Empty except on the main process, without images, or if some lack ground truth and the others
    hold no objects.
    """
    title = f"evaluate {evaluator.title}"
    with progress(dataset_dicts, title, total=len(dataset_dicts)) as bar:
        for record in bar:
            key = record["image_key"]
            there = has_ground_truth(record) and key in product  # nothing is read in vain
            evaluator.add(record, product[key] if there else None)
    figures, total = evaluator.evaluate(), evaluator.total()
    if lacking := total["images_without_product"]:
        logger.warning("evaluation of %s: %d images without product", evaluator.title, lacking)
    if not total["images"] or (total["images_without_ground_truth"] and not total["objects"]):
        return []
    counts = {name: total[name] for name in _COUNTED}
    return [{"protocol": name, "metrics": found | counts} for name, found in figures.items()]

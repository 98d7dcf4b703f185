"""Images, and where their instances come from: files, artifacts, predictions; how good they are."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wsis.data.builtin import class_names, get_dataset_dicts
from wsis.data.ground_truth import GroundTruth
from wsis.data.label_files import CocoResults, load_pseudo_labels
from wsis.data.working_size import MAX_PIXELS, at_working_size, file_size, resize_annotation
from wsis.errors import DataError, UsageError, WSISError
from wsis.evaluation.predictions import InstancePair, InstancePrediction
from wsis.evaluation.truth import load_truth
from wsis.evaluation.voc import match_instances
from wsis.report.run_folders import RunFolder
from wsis.views import accepted, instances, views_of

Record = dict[str, Any]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageSet:
    """The images of one or more data sets with the same classes."""

    names: tuple[str, ...]  # of the data sets
    classes: tuple[str, ...]  # class names by class id
    records: list[Record]  # dataset dicts
    max_pixels: int = MAX_PIXELS  # INPUT.MAX_PIXELS of what was made of them

    def shown(self, record: Record) -> Record:
        """A dataset dict at the size at which it is drawn and measured, that of the products."""
        return at_working_size(record, self.max_pixels)

    @property
    def title(self) -> str:
        """The data sets' names for people."""
        return ", ".join(self.names)


def read_images(names: tuple[str, ...], max_pixels: int = MAX_PIXELS) -> ImageSet:
    """Read data sets, one after another.

    Raises:
        WSISError: no name, an unknown one, or a data set that cannot be read.
    """
    if not names:
        raise UsageError("no data set is named (WSIS.IMAGES, DATASETS.TEST); look at config.yaml")
    records = [record for name in names for record in get_dataset_dicts(name, "skip")]
    return ImageSet(names, class_names(names[0]), records, max_pixels)


def choose(items: Sequence[Any], number: int, *, seed: int = 0) -> list[Any]:
    """At most ``number`` items spread evenly over a sequence, in its order.

    Seed 0 takes the middle of each of ``number`` equal parts, other seeds a random place in it.
    """
    count, number = len(items), min(len(items), number)
    edges = np.linspace(0, count, number + 1)
    places = (edges[:-1] + edges[1:]) / 2
    if seed:
        places = np.random.default_rng(seed).uniform(edges[:-1], edges[1:])
    return [items[min(int(place), count - 1)] for place in places.tolist()]


def true_objects(record: Record) -> GroundTruth | None:
    """The ground truth of an image; None where there is none or it cannot be read."""
    try:
        return load_truth(record)
    except WSISError as error:
        logger.warning("no ground truth for %s: %s", record["image_key"], error)
        return None


@dataclass(frozen=True)
class Source:
    """Instances of the images of a data set."""

    key: str  # for ids in the page
    title: str  # for people, "pseudo labels"
    images: ImageSet  # those of the data set that may have a product
    # dataset dict (`ImageSet.shown`) to its instances, best first, None without a product
    find: Callable[[Record], InstancePrediction | None]


def artifact_source(folder: RunFolder, images: ImageSet) -> Source:
    """Product ``instances`` of an infer or derive stage."""
    reader = folder.reader

    def find(record: Record) -> InstancePrediction | None:
        key = record["image_key"]
        if key not in reader:
            return None
        arrays = reader[key]
        if instances not in views_of(arrays):
            raise DataError(
                f"{folder.folder} holds no instances but {', '.join(sorted(arrays))}; "
                "tools/report.py shows those"
            )
        return accepted(arrays)

    return Source(folder.folder.name, folder.title, images, find)


def pseudo_label_source(path: Path, images: ImageSet) -> Source:
    """An exported pseudo-label file of a data set, and the images that have labels there."""
    records = load_pseudo_labels(path, images.records, class_names=images.classes)
    labels = {record["image_key"]: record["annotations"] for record in records}
    labelled = [record for record in images.records if record["image_key"] in labels]
    return label_source(replace(images, records=labelled), labels)


def label_source(images: ImageSet, labels: Mapping[str, Sequence[Record]]) -> Source:
    """Pseudo labels as annotations with RLE masks by image key."""

    def find(record: Record) -> InstancePrediction:
        size = (int(record["height"]), int(record["width"]))
        given = file_size(record)
        found = [resize_annotation(a, given, size) for a in labels[record["image_key"]]]
        return InstancePrediction.of_annotations(found).decoded(size).ranked()

    return Source("pseudo_labels", "pseudo labels", images, find)


def prediction_source(folder: RunFolder, images: ImageSet) -> Source:
    """Predictions for one data set of ``folder.predictions``, in COCO's result format."""
    (name,) = images.names
    path = folder.predictions[name]
    try:
        predicted = CocoResults(path, name)
    except DataError as error:
        raise DataError(
            f"{path} is not in COCO's result format or not of {name} ({error}); evaluate again"
        ) from None

    def find(record: Record) -> InstancePrediction:
        found = InstancePrediction.of_annotations(predicted.find(record))
        return found.decoded((record["height"], record["width"])).ranked()

    several = len(folder.predictions) > 1
    key = f"{folder.folder.name}-{name}" if several else folder.folder.name
    return Source(key, f"{folder.title} on {name}" if several else folder.title, images, find)


class Match(NamedTuple):
    """An instance of an image and the object of its class with which it overlaps most."""

    record: Record
    index: int  # of the instance, best score first
    object_index: int  # -1 if the class is not there
    class_id: int
    score: float
    iou: float  # 0 if there is no object
    true: bool  # it found an object at IoU 0.5 (VOC's rule)


@dataclass
class Quality:
    """How good the instances of a source are; grows image by image."""

    matches: list[Match] = field(default_factory=list)  # of instances on images with truth
    areas: list[int] = field(default_factory=list)  # of all instances, pixels
    true_areas: list[int] = field(default_factory=list)  # of all true objects, pixels
    with_truth: int = 0  # images that have ground truth
    min_score: float = 0.0  # of what ``counts`` counts
    counts: Counter[int] = field(default_factory=Counter)  # instances by class id

    def add(self, record: Record, found: InstancePrediction, truth: GroundTruth | None) -> None:
        """Take in one image, whose instances come best first."""
        self.counts.update(found.classes[found.scores >= self.min_score].tolist())
        if found.masks is None:
            return
        if truth is None:
            self.areas += found.masks.sum(axis=(1, 2)).tolist()
            return
        self.with_truth += 1
        pair = InstancePair(record["image_key"], found, truth)
        for known, areas in zip((self.areas, self.true_areas), pair.areas, strict=True):
            known += areas.tolist()
        best = match_instances(pair)
        overlaps, true = np.maximum(best.best_iou, 0.0), best.true_at(0.5)[0]
        columns = (best.best_object, found.classes, found.scores, overlaps, true)
        rows = zip(*(values.tolist() for values in columns), strict=True)
        self.matches += [Match(record, index, *row) for index, row in enumerate(rows)]

    def extremes(self, number: int) -> tuple[list[Match], list[Match]]:
        """The worst and the best instances by IoU, at most one of an image in each list.

        Where IoUs are equal, the higher score comes first in both lists.
        """

        def lowest(sign: int) -> list[Match]:
            chosen: dict[str, Match] = {}
            for match in sorted(self.matches, key=lambda m: (sign * m.iou, -m.score)):
                chosen.setdefault(match.record["image_key"], match)
            return list(chosen.values())[:number]

        return lowest(1), lowest(-1)

"""Where instances come from: pseudo-label files, artifacts, predictions; and how good they are.

n instances, K true objects, H x W pixels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wsis.data.pseudo_labels import load_pseudo_labels
from wsis.errors import DataError
from wsis.evaluation.average_precision import rank_by_score
from wsis.evaluation.predictions import InstancePair, InstancePrediction, Truth
from wsis.evaluation.voc import match_instances
from wsis.layers.run_lengths import check_rle, decode_rles
from wsis.report.runs import RunFolder, read_json
from wsis.report.samples import Images

Record = dict[str, Any]
INSTANCE_ARRAYS = {"classes", "scores", "masks"}


@dataclass(frozen=True)
class Found:
    """Instances of one image, best score first.

    Attributes:
        classes: (n,) int64.
        scores: (n,) float.
        masks: (n, H, W) bool.
        ignore: (H, W) bool, pixels that train nothing; None where the source knows of none.
    """

    classes: np.ndarray
    scores: np.ndarray
    masks: np.ndarray
    ignore: np.ndarray | None = None

    def above(self, min_score: float) -> Found:
        """Those that score at least ``min_score``."""
        keep = self.scores >= min_score
        return Found(self.classes[keep], self.scores[keep], self.masks[keep], self.ignore)


def sort_found(found: Found) -> Found:
    """The same instances, best score first, ties in the order given."""
    order = rank_by_score(found.scores)
    return Found(found.classes[order], found.scores[order], found.masks[order], found.ignore)


def found_in_annotations(annotations: Sequence[Record], size: tuple[int, int]) -> Found:
    """Instances of annotations with RLE masks; a missing score counts as 1."""
    masks = decode_rles([a["segmentation"] for a in annotations], size)
    ignore = decode_rles([a["ignore"] for a in annotations if "ignore" in a], size).any(axis=0)
    classes = np.array([a["category_id"] for a in annotations], dtype=np.int64)
    scores = np.array([a.get("score", 1.0) for a in annotations], dtype=np.float64)
    return sort_found(Found(classes, scores, masks, ignore))


@dataclass(frozen=True)
class Source:
    """Instances of the images of a data set.

    Attributes:
        key: short name for ids in the page.
        title: for people, "pseudo labels".
        images: the data set.
        find: dataset dict to its instances, None for an image without a product.
        keys: of the images that have a product, where that is known beforehand.
    """

    key: str
    title: str
    images: Images
    find: Callable[[Record], Found | None]
    keys: Collection[str] | None = None


def artifact_source(run: RunFolder, images: Images) -> Source:
    """Product ``instances`` of an infer or derive stage; score 0 is what the stage rejected."""
    reader = run.reader

    def find(record: Record) -> Found | None:
        key = record["image_key"]
        if key not in reader:
            return None
        arrays = reader[key]
        if not arrays.keys() >= INSTANCE_ARRAYS:
            raise DataError(
                f"{run.folder} holds no instances but {', '.join(sorted(arrays))}; "
                "tools/report.py shows those"
            )
        found = Found(arrays["classes"], arrays["scores"].astype(np.float64), arrays["masks"])
        return sort_found(found).above(np.nextafter(0, 1))

    return Source(run.folder.name, run.title, images, find)


def pseudo_label_source(run: RunFolder, images: Images) -> Source:
    """The pseudo-label file that an export stage wrote."""
    return pseudo_label_file_source(run.pseudo_labels, images)


def pseudo_label_file_source(path: Path, images: Images) -> Source:
    """An exported pseudo-label file of a data set."""
    records = load_pseudo_labels(path, images.records, class_names=images.classes)
    by_key = {record["image_key"]: record for record in records}

    def find(record: Record) -> Found | None:
        labelled = by_key.get(record["image_key"])
        if labelled is None:
            return None
        size = (int(record["height"]), int(record["width"]))
        return found_in_annotations(labelled["annotations"], size)

    return Source("pseudo_labels", "pseudo labels", images, find, by_key.keys())


def prediction_source(run: RunFolder, images: Images) -> Source:
    """Predictions in COCO's result format, as `wsis.evaluation.coco` writes them."""
    path, content = run.predictions, read_json(run.predictions)
    by_image: defaultdict[Any, list[Record]] = defaultdict(list)
    try:
        for entry in content:
            by_image[entry["image_id"]].append(entry | {"category_id": entry["category_id"] - 1})
    except (TypeError, KeyError) as error:
        raise DataError(
            f"{path} is not in COCO's result format ({error!r}); evaluate again"
        ) from None

    def find(record: Record) -> Found:
        size = (int(record["height"]), int(record["width"]))
        entries = by_image.get(record["image_id"], [])
        try:
            checked = [
                entry | {"segmentation": check_rle(entry["segmentation"], size)}
                for entry in entries
                if 0 <= entry["category_id"] < len(images.classes)
            ]
        except (KeyError, ValueError) as error:
            raise DataError(f"{path}: image {record['image_id']}: segmentation {error}") from None
        return found_in_annotations(checked, size)

    return Source(run.folder.name, run.title, images, find)


@dataclass(frozen=True)
class Match:
    """An instance and the object of its class with which it overlaps most.

    Attributes:
        record: dataset dict of the image.
        index: of the instance in the image, best score first.
        object_index: of the object, -1 if the class is not there.
        class_id: of the instance.
        score: of the instance.
        iou: with the object, 0 if there is none.
    """

    record: Record
    index: int
    object_index: int
    class_id: int
    score: float
    iou: float


@dataclass
class Quality:
    """How good the instances of a source are; grows image by image.

    Attributes:
        matches: of every instance on an image with ground truth.
        true: whether each of them found an object at IoU 0.5 (VOC's rule).
        areas: of all instances, pixels.
        true_areas: of all true objects, pixels.
        images: images looked at.
        with_truth: those of them that have ground truth.
    """

    matches: list[Match] = field(default_factory=list)
    true: list[bool] = field(default_factory=list)
    areas: list[int] = field(default_factory=list)
    true_areas: list[int] = field(default_factory=list)
    images: int = 0
    with_truth: int = 0

    def add(self, record: Record, found: Found, truth: Truth | None) -> None:
        """Take in one image."""
        self.images += 1
        self.areas += found.masks.sum(axis=(1, 2)).tolist()
        if truth is None:
            return
        self.with_truth += 1
        pair = InstancePair(
            record["image_key"], InstancePrediction(found.classes, found.scores, found.masks), truth
        )
        self.true_areas += pair.true_areas.tolist()
        matches = match_instances(pair)
        self.true += matches.true_at(0.5)[0].tolist()
        self.matches += [
            Match(
                record,
                index,
                int(matches.best_object[index]),
                int(found.classes[index]),
                float(found.scores[index]),
                max(float(matches.best_iou[index]), 0.0),
            )
            for index in range(len(found.scores))
        ]

    def extremes(self, number: int) -> tuple[list[Match], list[Match]]:
        """The worst and the best instances by IoU, at most one of an image in each list.

        Among equals the better score is the worse mistake, and the greater success.
        """
        worst = sorted(self.matches, key=lambda m: (m.iou, -m.score))
        best = sorted(self.matches, key=lambda m: (-m.iou, -m.score))
        return _one_per_image(worst, number), _one_per_image(best, number)


def _one_per_image(matches: Iterable[Match], number: int) -> list[Match]:
    chosen: dict[str, Match] = {}
    for match in matches:
        if len(chosen) == number:
            break
        chosen.setdefault(match.record["image_key"], match)
    return list(chosen.values())

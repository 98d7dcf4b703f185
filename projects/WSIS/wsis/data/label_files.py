"""Reads labels and predictions of any origin, and gives images their instances in one form.

They become annotations with ``category_id`` (a class id), ``score``, ``bbox`` (XYWH) and
``segmentation`` (a checked RLE): of pseudo labels, which are a COCO file, and of predictions in
COCO's result format. A result has 1 kB as a dict, and there are a hundred for each image: numbers
and run lengths are put aside as they are read.
"""

from __future__ import annotations

import logging
import os
from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from wsis.data.builtin import category_ids, class_names, get_dataset_dicts, given_name
from wsis.data.checks import field, identity, load_json, naming, number, numbers, short
from wsis.data.coco import CocoFile, ImageIndex, read_coco
from wsis.data.images import check_size
from wsis.data.supervision import restrict_supervision
from wsis.data.working_size import file_size, resize_annotation
from wsis.data.written_forms import Stated, require_xywh
from wsis.errors import DataError
from wsis.layers.run_lengths import check_rles, polygons_to_rle, rle_boxes

logger = logging.getLogger(__name__)
Record = dict[str, Any]

_TAKEN = object()  # stands in the place of a result that was put aside
_NO_BOX = (float("nan"),) * 4
_NOTHING: tuple[Any, ...] = (None, [])
_LOOKED_AT = 10_000  # boxes, which tell how all are written
_FORM = (
    "is neither in COCO's result format, a list of objects with image_id, category_id, score and "
    "segmentation or bbox, nor a COCO file with annotations"
)
_OF_A_RUN = "; name the OUTPUT_DIR of a run, or its file of pseudo labels"


def read_pseudo_labels(path: str | os.PathLike[str]) -> CocoFile:
    """Read a file of pseudo labels, whose annotations all have a mask as RLE and a score.

    The original BoxCaseg's files have a confidence, which becomes the score, and crowds, which are
    left out.

    Raises:
        DataError: what is wrong, with the file, the image and annotation id, and the field.
    """
    file = read_coco(path)
    for record in file.images:
        if any("confidence" in a and "score" not in a for a in record["annotations"]):
            record["annotations"] = [a for a in record["annotations"] if not a["iscrowd"]]
            for annotation in record["annotations"]:
                if "confidence" in annotation:
                    annotation.setdefault("score", annotation["confidence"])
        for annotation in record["annotations"]:
            with naming(f"{path}: image {record['image_id']}, annotation {annotation['id']}"):
                if not isinstance(annotation.get("segmentation"), dict):
                    raise ValueError(f"segmentation is not an RLE{_OF_A_RUN}")
                if "score" not in annotation:
                    raise ValueError(f"score is missing{_OF_A_RUN}")
                if annotation["iscrowd"]:
                    raise ValueError("iscrowd is 1; a pseudo label is one object")
    return file


def load_pseudo_labels(
    path: str | os.PathLike[str],
    dataset_dicts: Sequence[Record],
    *,
    class_names: Sequence[str] | None = None,
) -> list[Record]:
    """New dataset dicts with pseudo labels in place of all true annotations and masks.

    Images are matched with those of the file by key and id, in files without keys by name
    (`ImageIndex`), classes by name if ``class_names`` are given: these must be the file's.

    Returns:
        The images that are in the file, in the given order; ``annotations`` have ``bbox``
        (XYWH_ABS), ``segmentation`` (RLE), ``category_id`` (class id), ``score``, ``iscrowd`` 0,
        and, if the file has them, ``confidence`` and ``ignore_mask``.

    Raises:
        DataError: damaged file (with the annotation's id and the field), other classes or image
            sizes, or no image in common.
    """
    file = read_pseudo_labels(path)
    if class_names is not None:
        if sorted(class_names) != sorted(file.class_names):
            raise DataError(
                f"{path} has the classes {', '.join(file.class_names)}, the data set has "
                f"{', '.join(class_names)}"
            )
        # the file's go by category id, those of a data set in an order of its own, perhaps
        class_ids = [class_names.index(name) for name in file.class_names]
        for annotation in (a for image in file.images for a in image["annotations"]):
            annotation["category_id"] = class_ids[annotation["category_id"]]
    index, result = ImageIndex(file.path, file.images), []
    for record in dataset_dicts:
        image = index.find(record)
        if image is None:
            continue
        size = (int(record["height"]), int(record["width"]))
        where = f"{path}: image {image['image_id']}"
        source = f"{record['file_name']} is"
        check_size((image["height"], image["width"]), size, where, source)
        labelled = restrict_supervision(record, "image")
        result.append(labelled | {"annotations": image["annotations"]})
    if dataset_dicts and not result:
        raise DataError(
            f"{path} has none of the {len(dataset_dicts)} images of the data set, among them "
            f"{dataset_dicts[0]['file_name']}; export pseudo labels of this data set first"
        )
    count, absent = len(dataset_dicts), len(dataset_dicts) - len(result)
    if absent:
        logger.warning("%d of %d images have no entry in %s and are left out", absent, count, path)
    return result


class _Rows:
    """The results of one image: category ids, scores, boxes XYWH, and segmentations."""

    __slots__ = ("boxes", "categories", "masks", "scores")

    def __init__(self) -> None:
        self.categories: list[Any] = []
        self.scores, self.boxes = array("d"), array("d")
        self.masks: list[Any] = []


def _as_rle(value: Any, size: tuple[int, int]) -> Any:
    """What `_Rows` keep of a mask as an RLE, not checked; polygons are drawn."""
    if isinstance(value, tuple):
        return dict(zip(("size", "counts"), value, strict=True))
    if not isinstance(value, list):
        return value
    polygons = [numbers(polygon) for polygon in value]
    if not all(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in polygons):
        raise ValueError("has a polygon that is not x, y of three points or more")
    return polygons_to_rle(polygons, size)


class CocoResults:
    """Predictions for a registered data set.

    Args:
        path: a list of ``{"image_id", "category_id", "score", "segmentation" and/or "bbox"}``;
            image and category ids are the data set's own, masks are run lengths, boxes are XYWH.
            Or a COCO file, such as pseudo labels: its images are found by key or name, its
            categories by name; polygons serve, a missing score counts as 1, crowds are left out.
        name: of the data set.
        records: its dataset dicts, where the caller has them.

    Attributes:
        has_masks: whether every instance has a mask, else every one has a box alone.
        has_scores: whether every instance has a score of its own.

    Raises:
        DataError: the file is missing or damaged, or names an image (in a COCO file: nothing but
            such images) or a category that the data set does not have, or holds boxes
            alone that are no XYWH.
    """

    def __init__(self, path: Path, name: str, records: Sequence[Any] | None = None) -> None:
        self.path, self.name = path, name
        # A JSON knows its category ids now. Whoever needs its annotations tells what is broken.
        self._records = get_dataset_dicts(name, "skip") if records is None else records
        self._rows: defaultdict[Any, _Rows] = defaultdict(_Rows)
        self._masks: bool | None = None
        self._first: dict[tuple[str, Any], int] = {}  # entry that first has an id
        self._sizes: dict[Any, Any] = {}
        self._count = 0
        self._unscored: int | None = None
        content = load_json(path, hook=self._put_aside)
        self._is_file = isinstance(content, dict)
        entries = content.get("annotations") if isinstance(content, dict) else content
        if not isinstance(entries, list) or any(entry is not _TAKEN for entry in entries):
            raise DataError(f"{path} {_FORM}")
        if self._unscored is not None and not self._is_file:
            raise DataError(f"{path}: entry {self._unscored}: score is missing")
        self._class_ids = self._classes(content)
        self._ids = self._images(content)
        self.has_masks = self._masks is not False
        self.has_scores = self._unscored is None
        if not self.has_masks:
            stated = (
                Stated(record["image_id"], place, one["bbox"], (record["height"], record["width"]))
                for record in self._records
                for place, one in enumerate(self.find(record), start=1)
            )
            require_xywh(islice(stated, _LOOKED_AT), path)

    def _put_aside(self, entry: dict[str, Any]) -> Any:
        """Keep a result in few bytes; other objects of the file stay as they are."""
        if "image_id" not in entry:
            return entry
        self._count += 1
        if entry.get("iscrowd"):
            return _TAKEN
        with naming(f"{self.path}: entry {self._count - 1}"):
            image, category = (field(entry, key, identity) for key in ("image_id", "category_id"))
            score = 1.0
            if "score" in entry or "id" not in entry:  # the annotations of a file have ids
                score = field(entry, "score", number)
            elif self._unscored is None:
                self._unscored = self._count - 1
            mask, box = (entry.get(key) for key in ("segmentation", "bbox"))
            if mask in _NOTHING and box in _NOTHING:
                raise ValueError("has neither segmentation nor bbox")
            if self._masks is None:
                self._masks = mask not in _NOTHING
            elif self._masks is (mask in _NOTHING):
                raise ValueError("segmentation is in some entries and not in others")
            box = _NO_BOX if box in _NOTHING else field(entry, "bbox", numbers, 4)
        for key in (("image_id", image), ("category_id", category)):
            self._first.setdefault(key, self._count - 1)
        rows = self._rows[image]
        rows.categories.append(category)
        rows.scores.append(score)
        rows.boxes.extend(box)
        if self._masks:
            rows.masks.append(self._slim(mask))
        return _TAKEN

    def _slim(self, mask: Any) -> Any:
        """A dict of run lengths as (size, counts); images of a size share it."""
        if not isinstance(mask, dict) or mask.keys() != {"size", "counts"}:
            return mask
        size = mask["size"]
        if isinstance(size, list) and all(type(side) is int for side in size):
            size = self._sizes.setdefault(tuple(size), size)
        return size, mask["counts"]

    def _classes(self, content: Any) -> dict[Any, int]:
        """Class ids by category id; in a COCO file by the names of the categories."""
        known: dict[Any, int] = {c: i for i, c in enumerate(category_ids(self.name))}
        named: dict[Any, Any] = {}
        if self._is_file and "categories" in content:
            ids = {name: i for i, name in enumerate(class_names(self.name))}
            try:
                named = {identity(c["id"]): c["name"] for c in content["categories"]}
                known = {c: ids[n] for c, n in named.items() if n in ids}
            except (TypeError, KeyError, ValueError):
                raise DataError(f"{self.path}: categories is no list of id and name") from None
        for category in {c for rows in self._rows.values() for c in rows.categories} - set(known):
            entry = self._first["category_id", category]
            what = f"category {short(category)}"
            if category in named:  # its number may be that of another class there
                what = f"class {short(named[category])}"
            raise DataError(
                f"{self.path}: entry {entry}: {given_name(self.name)} has no {what}; its classes "
                f"are {', '.join(class_names(self.name))}"
            )
        return known

    def _images(self, content: Any) -> dict[Any, Any]:
        """Image ids of the file by those of the data set."""
        ids = {record["image_id"]: record["image_id"] for record in self._records}
        if self._is_file and "images" in content:
            try:
                images = [i | {"image_id": identity(i["id"])} for i in content["images"]]
                index = ImageIndex(self.path, images)
            except (TypeError, KeyError, ValueError):
                raise DataError(f"{self.path}: images is no list with id and file_name") from None
            found = ((record["image_id"], index.find(record)) for record in self._records)
            ids = {own: image["image_id"] for own, image in found if image is not None}
        known = set(ids.values())
        strange = [image for image in self._rows if image not in known]
        if strange and (not self._is_file or len(strange) == len(self._rows)):
            entry = self._first["image_id", strange[0]]
            raise DataError(
                f"{self.path}: entry {entry}: {given_name(self.name)} has no image with the id "
                f"{short(strange[0])}"
            )
        if strange:
            said = "%s: %d of its images are not in %s and do not count"
            logger.warning(said, self.path, len(strange), given_name(self.name))
        return ids

    def find(self, record: Mapping[str, Any]) -> list[Record]:
        """The instances predicted for a dataset dict, as annotations at the dict's size.

        Where there are boxes alone, they have no ``segmentation``.
        """
        size, given = (int(record["height"]), int(record["width"])), file_size(record)
        rows = self._rows.get(self._ids.get(record["image_id"]), _Rows())
        boxes = np.array(rows.boxes).reshape(-1, 4)
        try:
            masks = check_rles([_as_rle(mask, given) for mask in rows.masks], given)
            unknown = np.flatnonzero(np.isnan(boxes[:, 0]))
            boxes[unknown] = rle_boxes([masks[place] for place in unknown])
            values = zip(rows.categories, rows.scores, boxes.tolist(), strict=True)
            found: list[Record] = [
                {"category_id": self._class_ids[category], "score": score, "bbox": box}
                for category, score, box in values
            ]
            for annotation, mask in zip(found, masks, strict=False):  # or none has a mask
                annotation["segmentation"] = mask
            return [resize_annotation(one, given, size) for one in found]
        except ValueError as error:
            raise DataError(
                f"{self.path}: image {record['image_id']}: segmentation {error}"
            ) from None

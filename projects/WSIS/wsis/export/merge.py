"""Puts masks on the annotations of the COCO file that they were made from."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from wsis.data.checks import clip_box, load_json, numbers, short
from wsis.data.coco import ImageIndex
from wsis.data.coco_fields import rings
from wsis.errors import DataError
from wsis.export.read_labels import Labels
from wsis.layers.masks import box_iou
from wsis.layers.run_lengths import decode_rle, rle_area

Record = dict[str, Any]
_SAME = 0.5  # a mask belongs to an annotation if the IoU of their boxes is above this
_LISTS = ("images", "categories", "annotations")


def _read(path: Path) -> Record:
    content = load_json(path)
    if not isinstance(content, dict) or not all(key in content for key in _LISTS[:2]):
        raise DataError(
            f"--merge {path} is no COCO file with images and categories; export without --merge "
            "and import that into the tool that wrote it"
        )
    for key in _LISTS:
        entries = content.get(key) or []
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            raise DataError(f"{path}: {key} is {short(entries)}, not a list of objects")
    return content


def _key(identity: Any) -> str:
    """An id as files write it: 7, 7.0 and "7" are the same."""
    whole = isinstance(identity, float) and identity.is_integer()
    return str(int(identity) if whole else identity)


def _small(name: str) -> str:
    """A file name as images are found by: in any letter case."""
    return name.replace("\\", "/").lower()


def _box(entry: Record, size: tuple[int, int]) -> list[float] | None:
    """The box x0, y0, x1, y1 of an annotation inside its image, or None."""
    try:
        x, y, width, height = numbers(entry.get("bbox"), 4)
        return clip_box((x, y, x + width, y + height), size)
    except ValueError:
        return None


def _point(entry: Record) -> list[float] | None:
    try:
        return numbers(entry.get("point"), 2)
    except ValueError:
        return None


def _is_mask(value: Any) -> bool:
    """Whether a ``segmentation`` is more than nothing, or than the box as a polygon."""
    if not isinstance(value, list) or not value:
        return bool(value)
    try:
        polygons = [p for p in rings(value) if not isinstance(p, list) or len(numbers(p)) >= 6]
    except ValueError:
        return True
    if len(polygons) != 1 or not isinstance(polygons[0], list):
        return bool(polygons)
    columns, rows = set(polygons[0][0::2]), set(polygons[0][1::2])
    return not (len(columns) == len(rows) == 2 and len(polygons[0]) in (8, 10))


def _has_place(entry: Record, size: tuple[int, int]) -> bool:
    """Whether an annotation says where its object is."""
    return bool(_box(entry, size) or _point(entry) or _is_mask(entry.get("segmentation")))


def _likeness(
    labels: Sequence[Record], entries: Sequence[Record], size: tuple[int, int]
) -> np.ndarray:
    """How well labels and annotations of an image fit, (labels, annotations) float64.

    That is the IoU of their boxes. Where there is only a point, it is 1 if it lies in the mask (a
    trifle more for a higher score), else 0.
    """
    corners = [(x, y, x + width, y + height) for x, y, width, height in (a["bbox"] for a in labels)]
    boxes = [_box(entry, size) for entry in entries]
    like = box_iou(
        np.array(corners, dtype=np.float64),
        np.array([box or [0.0] * 4 for box in boxes], dtype=np.float64).reshape(-1, 4),
    ).numpy()
    alone = [(j, p) for j, e in enumerate(entries) if not boxes[j] and (p := _point(e)) is not None]
    if alone:
        columns, rows = (
            np.clip([p[axis] for _, p in alone], 0, size[1 - axis] - 1).astype(int)
            for axis in (0, 1)
        )
        for i, label in enumerate(labels):
            inside = decode_rle(label["segmentation"])[rows, columns]
            like[i, [j for j, _ in alone]] = inside * (1 + 1e-6 * np.tanh(label["score"]))
    return like


class Merged:
    """A COCO file with the masks of labels on its annotations.

    The annotation of a label is in the same image and of the same class name, one to one. It has
    nearly the same box (IoU above 0.5) or, where it has a point and no box, the point lies in the
    mask. A mask of its own stays: polygons or run lengths that are not just the box. In an image
    without boxes, points and masks, which had tags only, each label becomes a new annotation.

    Args:
        path: the COCO file.
        labels: what is merged into it.

    Attributes:
        content: the file's, untouched; ``annotations`` may be missing.
        annotations: those of the file, untouched, then new ones, which lack ``segmentation``.
        masks: the label whose mask an annotation gets, by its place in ``annotations``.
        counts: labels that are "new" annotations, "empty" (no pixels), "unknown" (of an image or
            class that the file lacks), "unmatched" (no such annotation); annotations that "keep"
            their own mask, or are left "bare".
        bare: how many are, by the file name of their image.

    Raises:
        DataError: the file is no COCO file, or two of its images may be the same.
    """

    def __init__(self, path: Path, labels: Labels) -> None:
        self.content = _read(path)
        entries = self.content.get("annotations") or []
        self.annotations: list[Record] = list(entries)
        self.masks: dict[int, Record] = {}
        self.counts: Counter[str] = Counter()
        self._places: defaultdict[str, list[int]] = defaultdict(list)
        for place, entry in enumerate(entries):
            self._places[_key(entry.get("image_id"))].append(place)
        known = [_key(entry.get("id")) for entry in entries]
        self._next_id = 1 + max((int(key) for key in known if key.isdecimal()), default=0)
        self._classes: dict[str, int] = {}  # class ids of the labels by category id of the file
        self._categories: dict[int, Any] = {}  # and back: with two of one name, the labels' own id
        self._read_categories(labels)
        images = [
            {"file_name": _small(entry["file_name"]), "image_id": entry.get("id")}
            for entry in self.content["images"]
            if isinstance(entry.get("file_name"), str)
        ]
        index = ImageIndex(path, images)
        for image in labels.file.images:
            self._add(image, index.find(image | {"file_name": _small(image["file_name"])}))
        names = {_key(image.get("id")): image.get("file_name") for image in self.content["images"]}
        self.bare: Counter[str] = Counter()
        for place, entry in enumerate(entries):
            crowd, own = bool(entry.get("iscrowd")), _is_mask(entry.get("segmentation"))
            if not crowd and not own and place not in self.masks:
                self.bare[str(names.get(_key(entry.get("image_id"))))] += 1
        self.counts["bare"] = self.bare.total()

    def _read_categories(self, labels: Labels) -> None:
        names = {name: class_id for class_id, name in enumerate(labels.file.class_names)}
        for category in self.content["categories"]:
            class_id, identity = names.get(str(category.get("name"))), category.get("id")
            if class_id is None:
                continue
            self._classes[_key(identity)] = class_id
            if class_id not in self._categories or identity == labels.category_ids[class_id]:
                self._categories[class_id] = identity

    def _add(self, image: Record, target: Record | None) -> None:
        """Merge the labels of one image; ``target`` is the image in the file."""
        found = [a for a in image["annotations"] if rle_area(a["segmentation"])]
        self.counts["empty"] += len(image["annotations"]) - len(found)
        labels = [a for a in found if target is not None and a["category_id"] in self._categories]
        self.counts["unknown"] += len(found) - len(labels)
        if target is None or not labels:
            return
        size = (int(image["height"]), int(image["width"]))
        places = self._places[_key(target["image_id"])]
        if any(_has_place(self.annotations[place], size) for place in places):
            self._match(labels, places, size)
        else:
            self._append(labels, target["image_id"])

    def _append(self, labels: Sequence[Record], image_id: Any) -> None:
        for label in labels:
            self.masks[len(self.annotations)] = label
            category = self._categories[label["category_id"]]
            entry = {"id": self._next_id, "image_id": image_id, "category_id": category}
            self.annotations.append(entry | {"iscrowd": 0})
            self._next_id += 1
        self.counts["new"] += len(labels)

    def _match(
        self, labels: Sequence[Record], places: Sequence[int], size: tuple[int, int]
    ) -> None:
        entries = [self.annotations[place] for place in places]
        like = _likeness(labels, entries, size)
        classes = [self._classes.get(_key(entry.get("category_id"))) for entry in entries]
        same = np.array([[label["category_id"] == c for c in classes] for label in labels])
        like *= same & ~np.array([bool(entry.get("iscrowd")) for entry in entries])
        like[like <= _SAME] = 0  # what is no match may not outweigh a better one
        pairs = zip(*(found.tolist() for found in linear_sum_assignment(-like)), strict=True)
        matched = [(i, places[j]) for i, j in pairs if like[i, j]]
        self.counts["unmatched"] += len(labels) - len(matched)
        for i, place in matched:
            if _is_mask(self.annotations[place].get("segmentation")):
                self.counts["keep"] += 1
            else:
                self.masks[place] = labels[i]

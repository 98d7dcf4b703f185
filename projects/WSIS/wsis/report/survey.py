"""What a data set holds, counted, and what only a look at every one of its files can tell."""

from __future__ import annotations

import os
import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from detectron2.structures import BoxMode

from wsis.data.files import sha256_of_file
from wsis.data.ground_truth import load_ground_truth
from wsis.data.images import read_image
from wsis.data.inspect_data import inspect_masks, inspect_pictures, tell_missing_pictures
from wsis.data.problems import Problems
from wsis.data.salient import SALIENT_KEY, read_salient_mask
from wsis.layers.masks import box_iou, mask_boxes
from wsis.progress import progress
from wsis.reading import open_file

Record = dict[str, Any]
_KINDS = {"boxes": "bbox", "points": "point", "masks": "segmentation"}
_ALIKE = 0.3  # IoU of an object's box and the box of its mask
_TAIL = 4096  # bytes at the end of a file, by which copies are suspected


@dataclass
class Survey:
    """What serves of a data set.

    Attributes:
        records: dataset dicts whose image is there and has the stated size.
        counts: for each column of the table how many there are of each class id: "images" with the
            class as a tag, "objects" (no crowds), "masks", "boxes", "points". A salient image
            counts under class id 0.
        crowds: regions with ``iscrowd``, which are no objects.
        sides: square roots of the areas of boxes, in pixels of the file.
        copies: groups of equal image files.
    """

    records: list[Record] = field(default_factory=list)
    counts: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    crowds: int = 0
    sides: list[float] = field(default_factory=list)
    copies: list[list[Record]] = field(default_factory=list)

    def total(self, column: str) -> int:
        """The sum of a column over all classes."""
        return self.counts[column].total()

    @property
    def examples(self) -> Counter[int]:
        """By class id: objects, or images with the tag where there is no object at all."""
        return self.counts["objects" if self.total("objects") else "images"]

    @property
    def usable(self) -> bool:
        """Whether there is anything to train on."""
        return bool(self.total("images") or self.total("objects"))

    def add(self, record: Record, masks: list[int]) -> None:
        """Count one image; ``masks`` are the class ids of those that lie in files of their own."""
        self.records.append(record)
        self.counts["images"].update(record["image_labels"])
        self.counts["masks"].update(masks)
        annotations = record.get("annotations") or ()
        objects = [a for a in annotations if not a.get("iscrowd")]
        self.crowds += len(annotations) - len(objects)
        self.counts["objects"].update([a["category_id"] for a in objects] or masks)
        for column, key in _KINDS.items():
            self.counts[column].update(a["category_id"] for a in objects if key in a)
        for annotation in objects:
            if "bbox" in annotation:
                width, height = _sides(annotation)
                self.sides.append((width * height) ** 0.5)


def _sides(annotation: Record) -> tuple[float, float]:
    x, y, width, height = annotation["bbox"]
    if annotation["bbox_mode"] == BoxMode.XYXY_ABS:
        width, height = width - x, height - y
    return width, height


def survey(
    records: Sequence[Record], classes: Sequence[str], problems: Problems, *, decode: bool = False
) -> Survey:
    """Look at all files of a data set.

    Args:
        records: dataset dicts as `wsis.data.builtin.get_dataset_dicts` returns them.
        classes: names by class id.
        problems: takes what is found.
        decode: read all of every image; else its header.
    """
    found = Survey()
    if not tell_missing_pictures(records, Problems()):  # one problem; else each is told by name
        tell_missing_pictures(records, problems)
        return found
    told = Problems()  # the reader has told of some masks
    records = inspect_pictures(progress(records, "images", total=len(records)), told)
    tails = defaultdict(list)
    for record in inspect_masks(records, classes, told):
        place = {"file": record["file_name"], "image": record["image_id"]}
        with told.leaving_out(**place):
            if decode:
                read_image(record["file_name"])
            tails[_tail(record["file_name"])].append(record)
            masks = _salient(record)
            with told.leaving_out(**place):
                masks += _classes_of_masks(record, classes, told)
            found.add(record, masks)
    problems.take(told)
    found.copies = [same for suspects in tails.values() for same in _equal(suspects)]
    return found


def _salient(record: Record) -> list[int]:
    """What its mask counts as: an object of the only class."""
    if SALIENT_KEY not in record:
        return []
    read_salient_mask(record[SALIENT_KEY], size=(record["height"], record["width"]))
    return [0]


def _classes_of_masks(record: Record, classes: Sequence[str], problems: Problems) -> list[int]:
    """Class ids of the objects in VOC's mask files; a box that is far from them is told."""
    if "instance_file_name" not in record:
        return []
    truth = load_ground_truth(record)
    boxes = mask_boxes(torch.as_tensor(truth.masks)).double()
    for number, annotation in enumerate(record["annotations"], start=1):
        own = boxes[torch.as_tensor(truth.classes == annotation["category_id"])]
        box = torch.tensor([annotation["bbox"]], dtype=torch.float64)
        if len(own) and box_iou(box, own).max() < _ALIKE:
            name = classes[annotation["category_id"]]
            problems.warning(
                f"the box of object {number} ({name}) in the XML is far from every {name} in the "
                "mask; correct one of them",
                file=record["instance_file_name"],
                image=record["image_id"],
                annotation=number,
            )
    return truth.classes.tolist()


def _tail(path: str) -> tuple[int, int]:
    """Size and checksum of the end of a file: where these differ, so do the files."""
    with open_file(path) as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - _TAIL))
        return size, zlib.crc32(stream.read())


def _equal(suspects: list[Record]) -> list[list[Record]]:
    """Groups of records whose image files have equal bytes."""
    if len(suspects) == 1:
        return []
    groups = defaultdict(list)
    for record in suspects:
        groups[sha256_of_file(record["file_name"])].append(record)
    return [group for group in groups.values() if len(group) > 1]

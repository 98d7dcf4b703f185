"""What a data set holds, counted, and what only a look at every one of its files can tell."""

from __future__ import annotations

import os
import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from detectron2.structures import BoxMode

from wsis.data.files import sha256_of_file
from wsis.data.ground_truth import GroundTruth, load_ground_truth
from wsis.data.images import read_image, read_image_size
from wsis.data.problems import Problems
from wsis.data.salient import SALIENT_KEY, read_salient_mask
from wsis.engine.progress import progress
from wsis.errors import DataError
from wsis.layers.masks import box_iou, mask_boxes
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
        sizes: (H, W) of the images' files.
        sides: square roots of the areas of boxes, in pixels of the file.
        copies: groups of equal image files.
    """

    records: list[Record] = field(default_factory=list)
    counts: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    crowds: int = 0
    sizes: list[tuple[int, int]] = field(default_factory=list)
    sides: list[float] = field(default_factory=list)
    copies: list[list[Record]] = field(default_factory=list)

    def total(self, column: str) -> int:
        """The sum of a column over all classes."""
        return self.counts[column].total()

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
                x0, y0, x1, y1 = _corners(annotation)
                self.sides.append(((x1 - x0) * (y1 - y0)) ** 0.5)


def _corners(annotation: Record) -> list[float]:
    box, mode = list(annotation["bbox"]), annotation["bbox_mode"]
    return BoxMode.convert(box, mode, BoxMode.XYXY_ABS)


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
    missing = sum(not os.path.exists(record["file_name"]) for record in records)
    if missing == len(records) > 1:
        problems.error(
            f"none of the {missing} images exists; correct IMAGES, or the names in the file",
            file=records[0]["file_name"],
            left_out=missing,
        )
        return found
    tails = defaultdict(list)
    for record in progress(records, "images", total=len(records)):
        place = {"file": record["file_name"], "image": record["image_id"]}
        stated = (record["height"], record["width"]) if "height" in record else None
        with problems.leaving_out(**place):
            size = read_image_size(record["file_name"], size=stated)
            if decode:
                read_image(record["file_name"])
            tails[_tail(record["file_name"])].append(record)
            masks: list[int] = []
            with problems.leaving_out(**place):
                masks = _mask_classes(record, classes, problems)
            if masks or SALIENT_KEY not in record:
                found.add(record, masks)
                found.sizes.append(size)
    found.copies = [same for suspects in tails.values() for same in _equal(suspects)]
    return found


def _mask_classes(record: Record, classes: Sequence[str], problems: Problems) -> list[int]:
    """Class ids of the masks that lie in files of their own; tells what contradicts the XML."""
    if SALIENT_KEY in record:
        read_salient_mask(record[SALIENT_KEY], size=(record["height"], record["width"]))
        return [0]
    if "instance_file_name" not in record:
        return []
    truth, path = load_ground_truth(record), record["instance_file_name"]
    if truth.classes.max(initial=0) >= len(classes):
        raise DataError(
            f"{record.get('semantic_file_name', path)} has class {truth.classes.max() + 1}, but "
            f"there are {len(classes)} classes; correct the list of classes, or the mask"
        )
    contradiction = _contradiction(record, truth, classes)
    if contradiction:
        problems.warning(contradiction, file=path, image=record["image_id"])
    return truth.classes.tolist()


def _contradiction(record: Record, truth: GroundTruth, classes: Sequence[str]) -> str:
    """What the XML of an image and its masks disagree on; "" if nothing, or without XML."""
    annotations = record["annotations"]
    stated, drawn = Counter(a["category_id"] for a in annotations), Counter(truth.classes.tolist())
    if not stated and record["image_labels"]:
        return ""
    if not drawn and truth.void.any():
        return (
            f"the XML has {_named(stated, classes)}, but the mask is 0 and 255 only, and 255 is "
            "void; number the objects 1, 2, ..."
        )
    if stated != drawn:
        return (
            f"the XML has {_named(stated, classes)}, but the masks {_named(drawn, classes)}; "
            "training on boxes goes by the XML, figures by the masks: correct one of them"
        )
    boxes = np.array([_corners(a) for a in annotations]).reshape(-1, 4)
    overlap = box_iou(boxes, mask_boxes(torch.as_tensor(truth.masks)).double()).numpy()
    overlap[np.array([a["category_id"] for a in annotations])[:, None] != truth.classes] = 0.0
    apart = np.flatnonzero(overlap.max(axis=1, initial=0.0) < _ALIKE)
    if not apart.size:
        return ""
    name = classes[annotations[apart[0]]["category_id"]]
    return f"the box of object {apart[0] + 1} ({name}) is nowhere near a mask of its class"


def _named(counts: Counter[int], classes: Sequence[str]) -> str:
    named = [f"{count} {classes[class_id]}" for class_id, count in sorted(counts.items())]
    return ", ".join(named) or "no object"


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

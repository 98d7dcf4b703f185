"""What a data set says of itself that cannot be all true: told before anything is trained on it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np

from wsis.data.problems import Problems
from wsis.layers.run_lengths import rle_box

Record = dict[str, Any]
_LEAST_IOU = 0.5  # of a stated box and that of its mask
ROUNDING = 2.0  # pixels by which they may differ in any case


def tell_contradictions(
    records: Sequence[Record], source: str | os.PathLike[str], problems: Problems
) -> list[Record]:
    """The images whose file no earlier one has; what else contradicts itself becomes a problem.

    An image that is there twice is an error: nobody but its owner knows whether its two lists of
    annotations complete or repeat each other. For the rest see `Contradictions`.

    Args:
        records: dataset dicts with boxes XYWH_ABS.
        source: the file, for messages.
        problems: collects them.
    """
    first: dict[str, Record] = {}
    for record in records:
        other = first.setdefault(record["file_name"], record)
        if other is not record:
            message = (
                f"file_name {record['file_name']} is that of image {other['image_id']}, too; put "
                "the annotations of both under one id"
            )
            place = {"image": record["image_id"], "field": "file_name"}
            problems.error(message, file=source, left_out=1 + len(record["annotations"]), **place)
    kept = list(first.values())
    found = Contradictions()
    for record in kept:
        for one in record["annotations"]:
            found.see(record, one)
    found.tell(kept, source, problems)
    return kept


class Contradictions:
    """Those within a file, whose annotations it sees one after another.

    Crowds and nothing else, boxes that are shares of the image, boxes given by two corners, and
    boxes that are far from their masks.
    """

    def __init__(self) -> None:
        self._annotations = self._boxes = self._beyond = 0
        self._crowds = self._corners = self._shares = True
        self._far: dict[Any, list[tuple[Any, str]]] = {}  # by image id: annotation id and text

    def see(self, image: Record, one: Record) -> None:
        """Look at an annotation of an image."""
        self._annotations += 1
        self._crowds &= bool(one["iscrowd"])
        if "bbox" not in one:
            return
        box: Sequence[float] = one["unclipped_bbox" if "unclipped_bbox" in one else "bbox"]
        x, y, third, fourth = box
        width, height = image["width"], image["height"]
        right, bottom = x + third, y + fourth
        self._boxes += 1
        self._beyond += right > width + 1 or bottom > height + 1
        if self._corners:
            inside = third < width + 1 and fourth < height + 1
            self._corners = third > x and fourth > y and inside
        if self._shares:
            self._shares = right <= 1.01 and bottom <= 1.01 and min(width, height) > 2
        if (mask := one.get("segmentation")) and not one["iscrowd"] and (text := _far(box, mask)):
            self._far.setdefault(image["image_id"], []).append((one["id"], text))

    def see_usual(self, boxes: np.ndarray, sizes: np.ndarray) -> None:
        """Take note of objects whose boxes, (n, 4) XYWH, are those of their masks.

        They lie inside their images, whose ``sizes`` are (n, 2): width, height.
        """
        self._annotations += len(boxes)
        self._boxes += len(boxes)
        self._crowds &= not len(boxes)
        low, sides = boxes[:, :2], boxes[:, 2:]
        self._corners &= bool(((sides > low) & (sides < sizes + 1)).all())
        self._shares &= bool(((low + sides <= 1.01) & (sizes > 2)).all())

    def tell(self, images: Iterable[Record], source: Any, problems: Problems) -> None:
        """What was seen becomes problems of the file ``source``, in the order of its images."""
        if self._annotations and self._crowds:
            problems.error(
                f"every annotation ({self._annotations}) has iscrowd 1 (or ignore 1), so that no "
                "object is left to learn from; set iscrowd to 0 where an annotation is a single "
                "object",
                file=source,
                field="iscrowd",
                left_out=0,
            )
        if self._tell_corners(source, problems):
            return
        for number in [image["image_id"] for image in images] if self._far else []:
            for annotation, text in self._far.get(number, ()):
                place = {"image": number, "annotation": annotation, "field": "bbox"}
                problems.warning(text, file=source, **place)

    def _tell_corners(self, source: Any, problems: Problems) -> bool:
        """Whether the boxes of the file are no XYWH at all."""
        if not self._boxes:
            return False
        if self._shares:
            problems.error(
                f"every box ({self._boxes}) lies within the first pixel, as shares of the image's "
                "sides do; bbox is [x, y, width, height] in pixels",
                file=source,
                field="bbox",
                left_out=0,
            )
        two_corners = self._corners and self._beyond > 0 and 4 * self._beyond >= self._boxes
        if two_corners and not self._shares:
            problems.warning(
                f"boxes beyond their image: {self._beyond} of {self._boxes}, and none would be as "
                "[x0, y0, x1, y1]; bbox is [x, y, width, height]: correct the file if it holds "
                "corners",
                file=source,
                field="bbox",
            )
        return self._shares or two_corners


def _far(box: Sequence[float], mask: Any) -> str:
    """What is wrong with a box that is far from the box of its mask; "" if it is not."""
    x, y, width, height = box
    if isinstance(mask, dict):
        left, top, wide, high = rle_box(mask)
        right, bottom = left + wide, top + high
    else:
        line = mask[0] if len(mask) == 1 else [*chain.from_iterable(mask)]
        xs, ys = line[::2], line[1::2]
        left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
    if (
        abs(left - x) <= ROUNDING
        and abs(top - y) <= ROUNDING
        and abs(right - x - width) <= ROUNDING
        and abs(bottom - y - height) <= ROUNDING
    ):
        return ""
    common = max(0, min(right, x + width) - max(left, x))
    common *= max(0, min(bottom, y + height) - max(top, y))
    union = (right - left) * (bottom - top) + width * height - common
    if common >= _LEAST_IOU * union:
        return ""
    return (
        f"bbox {x:g}, {y:g} to {x + width:g}, {y + height:g} is far from the box of its mask, "
        f"{left:g}, {top:g} to {right:g}, {bottom:g}"
    )

"""What a data set says of itself that cannot be all true: told before anything is trained on it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from wsis.data.problems import Problem, Problems
from wsis.data.written_forms import Corners, Stated, Written, other_form, per_cents, shares
from wsis.errors import DataError
from wsis.layers.run_lengths import rle_box

Record = dict[str, Any]


def tell_contradictions(
    records: Sequence[Record], source: str | os.PathLike[str], problems: Problems
) -> list[Record]:
    """The images whose file no earlier one has; what else contradicts itself becomes a problem.

    An image that is there twice is an error: nobody but its owner knows whether its two lists of
    annotations complete or repeat each other. Crowds and nothing else, and boxes that are far from
    their masks or beyond their images are told.

    Args:
        records: dataset dicts with boxes XYWH_ABS.
        source: the file, for messages.
        problems: collects them.

    Raises:
        DataError: its boxes or points are certainly written in another form.
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
    seen = Contradictions(kept)
    for record in kept:
        for annotation in record["annotations"]:
            seen.see(record, annotation)
    seen.tell(source, problems)
    return kept


class Contradictions:
    """What annotations that come one after another, in any order, say against each other.

    Args:
        images: dataset dicts, in the order in which problems are told.
    """

    def __init__(self, images: Sequence[Record]) -> None:
        self._images, self._annotations, self._crowds = images, 0, 0
        self._boxes, self._points = Written("bbox"), Written("point")

    def see(self, image: Record, one: Record) -> None:
        """Look at an annotation of an image."""
        self._annotations += 1
        self._crowds += bool(one["iscrowd"])
        image_id, number, size = image["image_id"], one["id"], (image["height"], image["width"])
        if "point" in one:
            self._points.see(Stated(image_id, number, one["point"], size))
        if "bbox" in one:
            mask = None if one["iscrowd"] else one.get("segmentation")
            extent = None if mask is None else _extent(mask)
            box = one["unclipped_bbox" if "unclipped_bbox" in one else "bbox"]
            self._boxes.see(Stated(image_id, number, box, size, extent, isinstance(mask, dict)))

    def see_usual(self, boxes: np.ndarray, owners: np.ndarray) -> None:
        """Look at objects whose boxes, (n, 4) XYWH, are in their images and of their masks.

        ``owners`` (n,) are the places of their images.
        """
        seen = 0
        while seen < len(boxes) and (self._boxes.forms or self._boxes.wholes):
            one = {"id": None, "iscrowd": 0, "bbox": boxes[seen].tolist()}
            self.see(self._images[owners[seen]], one)
            seen += 1
        self._annotations += len(boxes) - seen  # of the others the number is enough
        self._boxes.total += len(boxes) - seen

    def _all_are_crowds(self) -> bool:
        return 0 < self._crowds == self._annotations

    def need_all(self) -> bool:
        """Whether it takes all annotations together, in their order, to tell what is wrong."""
        written = self._boxes, self._points
        found = [rule(one) for rule in (shares, other_form, per_cents) for one in written]
        return self._all_are_crowds() or any(found)

    def tell(self, source: str | os.PathLike[str], problems: Problems) -> None:
        """Make problems of it, or raise `DataError`, as `tell_contradictions`."""
        if self._all_are_crowds():
            problems.error(
                f"every annotation ({self._crowds}) has iscrowd 1 (or ignore 1), so that no object "
                "is left to learn from; set iscrowd to 0 where an annotation is a single object",
                file=source,
                field="iscrowd",
                left_out=0,
            )
        boxes, points = self._boxes, self._points
        ranks = {image["image_id"]: rank for rank, image in enumerate(self._images)}
        far = map(_far, sorted(boxes.strange, key=lambda box: ranks[box.image]))
        forms = shares(points), shares(boxes), other_form(boxes)
        for found in (*forms, *far, per_cents(points), per_cents(boxes)):
            if found and found.level == "error":
                raise DataError(f"{source}: {found}")
            if found:
                place = {k: getattr(found, k) for k in ("image", "annotation", "field")}
                problems.warning(found.message, file=source, **place)


def _far(box: Stated) -> Problem | None:
    if box.mask is None or box.is_alike(box.corners):
        return None
    stated, of_mask = ("{:g}, {:g} to {:g}, {:g}".format(*c) for c in (box.corners, box.mask))
    text = f"bbox {stated} is far from the box of its mask, {of_mask}"
    return box.problem("warning", "bbox", text)


def _extent(mask: Any) -> Corners:
    if isinstance(mask, dict):
        x, y, width, height = rle_box(mask)
        return x, y, x + width, y + height
    sides = [[polygon[place::2] for polygon in mask] for place in (0, 1)]
    (left, right), (top, bottom) = ((min(map(min, s)), max(map(max, s))) for s in sides)
    return left, top, right, bottom

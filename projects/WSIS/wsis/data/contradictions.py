"""What a data set says of itself that cannot be all true: told before anything is trained on it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from wsis.data.problems import Problems
from wsis.layers.run_lengths import rle_box

Record = dict[str, Any]
_LEAST_IOU = 0.5  # of a stated box and that of its mask
_ROUNDING = 2.0  # pixels by which they may differ in any case


def tell_contradictions(
    records: Sequence[Record], source: str | os.PathLike[str], problems: Problems
) -> list[Record]:
    """The images whose file no earlier one has; what else contradicts itself becomes a problem.

    An image that is there twice is an error: nobody but its owner knows whether its two lists of
    annotations complete or repeat each other. Crowds and nothing else, boxes that are shares of the
    image, boxes given by two corners, and boxes that are far from their masks are told.

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
    annotations = [a for record in kept for a in record["annotations"]]
    if annotations and all(a["iscrowd"] for a in annotations):
        problems.error(
            f"every annotation ({len(annotations)}) has iscrowd 1 (or ignore 1), so that no object "
            "is left to learn from; set iscrowd to 0 where an annotation is a single object",
            file=source,
            field="iscrowd",
            left_out=0,
        )
    if not _tell_corners(kept, source, problems):
        _tell_boxes_beside_masks(kept, source, problems)
    return kept


def _stated(records: Sequence[Record]) -> Iterator[tuple[Record, Record, Sequence[float]]]:
    """Image, annotation and box as the file states it."""
    for record in records:
        for one in record["annotations"]:
            if "bbox" in one:
                yield record, one, one.get("unclipped_bbox", one["bbox"])


def _tell_corners(records: Sequence[Record], source: Any, problems: Problems) -> bool:
    """Whether the boxes of the file are no XYWH at all."""
    total = beyond = 0
    corners = shares = True
    for record, _, (x, y, third, fourth) in _stated(records):
        width, height = record["width"], record["height"]
        total += 1
        beyond += x + third > width + 1 or y + fourth > height + 1
        corners = corners and third > x and fourth > y and third < width + 1 and fourth < height + 1
        shares = shares and x + third <= 1.01 and y + fourth <= 1.01 and min(width, height) > 2
        if not (corners or shares):
            return False
    if total and shares:
        problems.error(
            f"every box ({total}) lies within the first pixel, as shares of the image's sides do; "
            "bbox is [x, y, width, height] in pixels",
            file=source,
            field="bbox",
            left_out=0,
        )
    two_corners = corners and beyond > 0 and 4 * beyond >= total
    if two_corners and not shares:
        problems.warning(
            f"boxes beyond their image: {beyond} of {total}, and none would be as [x0, y0, x1, "
            "y1]; bbox is [x, y, width, height]: correct the file if it holds corners",
            file=source,
            field="bbox",
        )
    return total > 0 and (shares or two_corners)


def _extent(values: Sequence[Sequence[float]]) -> tuple[float, float]:
    return min(map(min, values)), max(map(max, values))


def _tell_boxes_beside_masks(records: Sequence[Record], source: Any, problems: Problems) -> None:
    for record, one, (x, y, width, height) in _stated(records):
        if one["iscrowd"] or "segmentation" not in one:
            continue
        mask = one["segmentation"]
        if isinstance(mask, dict):
            left, top, wide, high = rle_box(mask)
            right, bottom = left + wide, top + high
        else:
            (left, right), (top, bottom) = (
                _extent([p[place::2] for p in mask]) for place in (0, 1)
            )
        apart = (left - x, top - y, right - x - width, bottom - y - height)
        if max(map(abs, apart)) <= _ROUNDING:
            continue
        common = max(0, min(right, x + width) - max(left, x))
        common *= max(0, min(bottom, y + height) - max(top, y))
        union = (right - left) * (bottom - top) + width * height - common
        if common < _LEAST_IOU * union:
            problems.warning(
                f"bbox {x:g}, {y:g} to {x + width:g}, {y + height:g} is far from the box of its "
                f"mask, {left:g}, {top:g} to {right:g}, {bottom:g}",
                file=source,
                image=record["image_id"],
                annotation=one["id"],
                field="bbox",
            )

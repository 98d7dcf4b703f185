"""The boxes and points of a dataset dict's annotations, as arrays in their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wsis.data.catalog import BoxMode
from wsis.errors import DataError

Record = Mapping[str, Any]


def boxed_annotations(record: Record) -> list[dict[str, Any]]:
    """The annotations of a dataset dict that have a box and are no crowds."""
    return [a for a in record.get("annotations", ()) if "bbox" in a and not a.get("iscrowd")]


def annotated_boxes(record: Record) -> np.ndarray:
    """(K, 4) float64 x0, y0, x1, y1 of `boxed_annotations`."""
    boxes = [
        BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS)
        for a in boxed_annotations(record)
    ]
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)


def given_boxes(record: Record, *, outwards: bool = False) -> np.ndarray:
    """(K, 4) int64: `annotated_boxes` in whole pixels, see `integer_box`."""
    size = int(record["height"]), int(record["width"])
    boxes = [integer_box(box, size=size, outwards=outwards) for box in annotated_boxes(record)]
    return np.array(boxes, dtype=np.int64).reshape(-1, 4)


def boxes_with_area(record: Record) -> np.ndarray:
    """(K, 4) float64: `annotated_boxes`; flat ones, which COCO has, in whole pixels, outwards."""
    boxes, whole = annotated_boxes(record), given_boxes(record, outwards=True)
    flat = (boxes[:, 2:] <= boxes[:, :2]).any(axis=1, keepdims=True)
    return np.where(flat, whole, boxes)


def integer_box(
    box: Sequence[float], *, size: tuple[int, int], outwards: bool = False
) -> tuple[int, int, int, int]:
    """A box with fractional corners in whole pixels, inside an image of ``size`` (H, W).

    ``outwards`` takes every pixel that the box touches. Otherwise x, y, width and height are
    truncated, width and height to at least 1 (boxcaseg spec 3.2).
    """
    x0, y0, x1, y1 = (float(v) for v in box)
    left, top = int(x0), int(y0)
    if outwards:
        right, bottom = -int(-x1 // 1), -int(-y1 // 1)
    else:
        right = left + max(int(round(x1 - x0, 6)), 1)
        bottom = top + max(int(round(y1 - y0, 6)), 1)
    left, top = min(left, size[1] - 1), min(top, size[0] - 1)
    right, bottom = min(right, size[1]), min(bottom, size[0])
    return left, top, max(right, left + 1), max(bottom, top + 1)


def rounded_boxes(record: Record, size: tuple[int, int]) -> np.ndarray:
    """The annotated boxes of an image of ``size`` (H, W) in whole pixels, (K, 4) int64."""
    stated = [integer_box(box, size=size) for box in np.rint(annotated_boxes(record)).tolist()]
    return np.array(stated, dtype=np.int64).reshape(-1, 4)


def points_of(record: Record, *, otherwise: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Points (P, 2) float64, (x, y), and class ids (P,) of a dataset dict, in its order.

    Crowds are left out. ``otherwise`` ends the sentence about an image without points.

    Raises:
        DataError: the image has tags and no point at all.
    """
    annotations = record.get("annotations", ())
    objects = [a for a in annotations if not a.get("iscrowd")]
    found = [a for a in objects if "point" in a]
    crowds_only = len(annotations) > 0 and not objects
    if not found and record.get("image_labels") and not crowds_only:
        raise DataError(
            f"image {record['image_key']} has tags but no points; add a point to each object "
            f"(datasets/README.md){otherwise}"
        )
    points = np.array([a["point"] for a in found], dtype=np.float64).reshape(-1, 2)
    return points, np.array([a["category_id"] for a in found], dtype=np.int64)

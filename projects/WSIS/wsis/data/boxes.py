"""The boxes of an image's annotations, where a stage makes a mask of each. K boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

Record = dict[str, Any]


def boxed_annotations(record: Record) -> list[Record]:
    """The annotations of a dataset dict that have a box and are no crowds."""
    return [a for a in record.get("annotations", ()) if "bbox" in a and not a.get("iscrowd")]


def annotated_boxes(record: Record) -> np.ndarray:
    """(K, 4) float64 x0, y0, x1, y1 of `boxed_annotations`."""
    boxes = [
        BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS)
        for a in boxed_annotations(record)
    ]
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)


def integer_box(
    box: Sequence[float], *, size: tuple[int, int], outwards: bool = False
) -> tuple[int, int, int, int]:
    """A box with fractional corners in whole pixels, inside an image of ``size`` (H, W).

    ``outwards`` takes every pixel that the box touches. Otherwise, as in BoxCaseg's original
    (boxcaseg spec 3.2), x, y, width and height are truncated, width and height to at least 1.
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


def given_boxes(record: Record, *, outwards: bool = False) -> np.ndarray:
    """(K, 4) int64: `annotated_boxes` in whole pixels, see `integer_box`."""
    size = int(record["height"]), int(record["width"])
    boxes = [integer_box(box, size=size, outwards=outwards) for box in annotated_boxes(record)]
    return np.array(boxes, dtype=np.int64).reshape(-1, 4)

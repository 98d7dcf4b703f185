"""What CIM's tools pickle about proposals: 7 x 7 crops with boxes, and overlap maps (cim spec 1).

These hold no masks; the masks are in the MATLAB files from which they were made. R proposals.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wsis.data.checks import short
from wsis.errors import DataError
from wsis.pickles import read_pickle

CROP_SIDE = 7


class Crops(NamedTuple):
    """Of one image.

    Attributes:
        boxes: (R, 4) int64, x0 y0 x1 y1, x1 and y1 exclusive.
        masks: (R, 7, 7) bool, the mask within its box, resized by Pillow's NEAREST.
    """

    boxes: np.ndarray
    masks: np.ndarray


def read_cim_crops(path: str | os.PathLike[str]) -> Mapping[int, Crops]:
    """Read a ``cob/<split>.pkl``.

    Returns:
        Image id (VOC: year and number in one, 2007000032) to its crops.

    Raises:
        DataError: not such a file.
    """
    path = Path(path)
    content = read_pickle(path, "crop file of CIM")
    lists = [content.get(n) if isinstance(content, dict) else None for n in _CROP_NAMES]
    if not all(isinstance(v, list) for v in lists) or len({len(v) for v in lists}) != 1:
        raise DataError(
            f"{path} is no crop file of CIM: {', '.join(_CROP_NAMES)} lists of a length"
        )
    crops = {}
    for identity, boxes, masks in zip(*lists, strict=True):
        boxes, masks = np.asarray(boxes), np.asarray(masks)
        good = boxes.dtype.kind in "iu" and boxes.shape[1:] == (4,)
        good &= masks.dtype == bool and masks.shape == (len(boxes), CROP_SIDE, CROP_SIDE)
        if not good or not isinstance(identity, int | np.integer):
            raise DataError(
                f"{path}: image {short(identity)}: boxes {boxes.dtype} {boxes.shape} and masks "
                f"{masks.dtype} {masks.shape}; expected integers (R, 4) and bool (R, 7, 7)"
            )
        crops[int(identity)] = Crops(boxes.astype(np.int64), masks)
    return crops


_CROP_NAMES = ("indexes", "boxes", "masks")


def read_cim_overlaps(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a ``cob_iou/.../<name>.pkl`` or ``cob_asy_iou/.../<name>.pkl``.

    Returns:
        (R, R) float16: IoU, or in the second [i, j] the share of j that i covers.

    Raises:
        DataError: not such a file.
    """
    path = Path(path)
    content = read_pickle(path, "overlap map of CIM")
    if not isinstance(content, np.ndarray) or content.ndim != 2 or content.dtype.kind != "f":
        raise DataError(f"{path} holds a {type(content).__name__}, not an array (R, R) of floats")
    if content.shape[0] != content.shape[1] or not np.isfinite(content).all():
        raise DataError(f"{path} holds an array {content.shape}, not (R, R) of finite numbers")
    return content

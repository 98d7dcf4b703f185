"""Readers for files of the original CIM (spec 1); R proposals.

Pickles hold 7 x 7 crops with boxes, overlap maps, and clusters; text files hold points. The masks
are in the MATLAB files from which all of these were made (`wsis.data.proposals.mat`). Its pseudo
labels are plain COCO JSON.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wsis.data.checks import read_lines, short
from wsis.errors import DataError
from wsis.methods.cim.clusters import Clusters
from wsis.pickles import read_pickle

CROP_SIDE = 7
_CROP_NAMES = ("indexes", "boxes", "masks")


def _lists(path: Path, what: str, names: tuple[str, ...]) -> list[list[Any]]:
    """The entries ``names`` of a pickled dict, which must be lists of one length."""
    content = read_pickle(path, f"{what} of CIM")
    lists = [content.get(n) if isinstance(content, dict) else None for n in names]
    if not all(isinstance(v, list) for v in lists) or len({len(v) for v in lists}) != 1:
        raise DataError(f"{path} is no {what} of CIM: {', '.join(names)}, lists of a length")
    return lists


def read_cim_crops(path: str | os.PathLike[str]) -> Mapping[int, tuple[np.ndarray, np.ndarray]]:
    """Read a ``cob/<split>.pkl``: proposals' boxes and the masks within them.

    Returns:
        for each image id (VOC: year and number in one, 2007000032) boxes (R, 4) int64, x0 y0 x1
        y1, x1 and y1 exclusive, and masks (R, 7, 7) bool, resized by Pillow's NEAREST.

    Raises:
        DataError: not such a file.
    """
    path = Path(path)
    lists = _lists(path, "crop file", _CROP_NAMES)
    crops = {}
    for identity, boxes, masks in zip(*lists, strict=True):
        boxes, masks = np.asarray(boxes), np.asarray(masks)
        good = boxes.dtype.kind in "iu" and boxes.ndim == 2 and boxes.shape[1] == 4
        good = good and masks.dtype == bool and masks.shape == (len(boxes), CROP_SIDE, CROP_SIDE)
        if not good or not isinstance(identity, int | np.integer):
            raise DataError(
                f"{path}: image {short(identity)}: boxes {boxes.dtype} {boxes.shape} and masks "
                f"{masks.dtype} {masks.shape}; expected integers (R, 4) and bool (R, 7, 7)"
            )
        crops[int(identity)] = boxes.astype(np.int64), masks
    return crops


def read_cim_overlaps(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a ``cob_iou/.../<name>.pkl`` or ``cob_asy_iou/.../<name>.pkl``: (R, R) float16.

    The first is the IoU; in the second, [i, j] is the share of j that i covers.

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


def _clusters(matrix: np.ndarray) -> Clusters:
    """Clusters from a matrix (R, C + 1): at most one entry in a row is not 0, the cluster's id."""
    if matrix.ndim != 2 or matrix.shape[1] < 2 or matrix.dtype.kind not in "iuf":
        raise ValueError(f"has a matrix of {matrix.dtype} {matrix.shape}, not (R, C + 1)")
    ids = matrix.max(axis=1) if len(matrix) else matrix[:, 0]
    sound = np.isfinite(ids).all() and (matrix >= 0).all() and (ids == np.rint(ids)).all()
    if not sound or ((matrix > 0).sum(axis=1) > 1).any():
        raise ValueError("has a matrix with a row that does not name one cluster")
    return Clusters(ids.astype(np.int32), matrix.argmax(axis=1).astype(np.int32))


def read_cim_label_file(path: Path) -> dict[int, Clusters]:
    """Read a ``label_assign/<x>_label_assign.pkl``, all of it at once (up to a few GB).

    Returns:
        for each image id (VOC: year and number in one, 2007000032) its clusters.

    Raises:
        DataError: not such a file; no code in it is run.
    """
    lists = _lists(path, "label file", ("indexes", "mat"))
    found = {}
    for identity, matrix in zip(*lists, strict=True):
        try:
            if not isinstance(identity, int | np.integer):
                raise ValueError("has no integer as its id")
            found[int(identity)] = _clusters(np.asarray(matrix))
        except ValueError as error:
            raise DataError(f"{path}: image {short(identity)} {error}") from error
    return found


def read_cim_points(
    path: Path, *, size: tuple[int, int], num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Read a ``Center_points/<stem>.txt``: a line "x y class confidence" for each object, or none.

    The image has ``size`` (H, W), class ids lie below ``num_classes``.

    Returns:
        points (P, 2) float64 x, y in pixels, and class ids (P,) int64.

    Raises:
        DataError: naming the line.
    """
    lines = read_lines(path, "point file", "point supervision needs it")
    points, classes = [], []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        try:
            x, y, class_id = (float(word) for word in words[:3])
        except ValueError:
            raise DataError(f"{path}, line {number}: {short(line)}, not x y class") from None
        if not (0 <= x <= size[1] and 0 <= y <= size[0]):
            raise DataError(
                f"{path}, line {number}: point ({x:g}, {y:g}) outside an image of {size[1]} x "
                f"{size[0]}"
            )
        if not 0 <= class_id < num_classes or class_id != int(class_id):
            raise DataError(
                f"{path}, line {number}: class {class_id:g} is none of 0 to {num_classes - 1}"
            )
        points.append((x, y))
        classes.append(int(class_id))
    return np.array(points).reshape(-1, 2), np.array(classes, dtype=np.int64)

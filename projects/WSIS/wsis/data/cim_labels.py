"""Label files of the original CIM: clusters of proposals (pickles) and points (text).

Its other files are read by `wsis.data.proposals.cim_files`; its pseudo labels are COCO JSON.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wsis.data.checks import short
from wsis.errors import DataError
from wsis.pickles import read_pickle

Clusters = tuple[np.ndarray, np.ndarray]  # ids, classes; each (R,) int32


def _clusters(matrix: np.ndarray) -> Clusters:
    """(ids, classes) of a matrix (R, C + 1) whose rows have at most one entry, a cluster's id."""
    if matrix.ndim != 2 or matrix.shape[1] < 2 or matrix.dtype.kind not in "iuf":
        raise ValueError(f"has a matrix of {matrix.dtype} {matrix.shape}, not (R, C + 1)")
    ids = matrix.max(axis=1) if len(matrix) else matrix[:, 0]
    sound = np.isfinite(ids).all() and (matrix >= 0).all() and (ids == np.rint(ids)).all()
    if not sound or ((matrix > 0).sum(axis=1) > 1).any():
        raise ValueError("has a matrix with a row that does not name one cluster")
    return ids.astype(np.int32), matrix.argmax(axis=1).astype(np.int32)


def read_cim_label_file(path: Path) -> dict[int, Clusters]:
    """Read a ``label_assign/<x>_label_assign.pkl``.

    Args:
        path: the file. All of it is unpickled at once (up to a few GB), then kept compactly.

    Returns:
        Image id (VOC: year and number in one, 2007000032) to cluster ids (R,) int32, 0 for none,
        and classes (R,) int32, 0 background, class id + 1.

    Raises:
        DataError: not such a file; no code in it is run.
    """
    content = read_pickle(path, "label file of CIM")
    names = ("indexes", "mat")
    lists = [content.get(n) if isinstance(content, dict) else None for n in names]
    if not all(isinstance(v, list) for v in lists) or len(lists[0]) != len(lists[1]):
        raise DataError(f"{path} is no label file of CIM: indexes and mat, lists of a length")
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
    """Read a ``Center_points/<stem>.txt``: a line "x y class confidence" for each object.

    Args:
        path: the file; an empty one has no objects.
        size: (H, W) of the image.
        num_classes: C.

    Returns:
        points (P, 2) float64 x, y in pixels, and class ids (P,) int64.

    Raises:
        DataError: naming the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; point supervision needs it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text ({error})") from error
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

"""Proposals as run lengths in JSON: PRM's demo files, COCO-style lists, Segment Anything's files.

No mask is decoded: runs become regions, so that an absurd length is refused before any memory is
asked for.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from wsis.data.checks import checked, integer, number, short
from wsis.data.images import MAX_PIXELS
from wsis.data.proposals.store import MAX_PROPOSALS, Proposals, by_rank, by_score
from wsis.data.rle import run_lengths
from wsis.errors import DataError
from wsis.layers.regions import Regions

_Runs = tuple[np.ndarray, np.ndarray]  # first, stop (exclusive)
_SCORE_NAMES = ("score", "predicted_iou", "objectness")


def _check_size(value: Any, size: tuple[int, int] | None) -> tuple[int, int]:
    """(H, W) as stated by an entry, which must be the image's."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"is {short(value)}, not [height, width]")
    height, width = (integer(v) for v in value)
    if size is not None and (height, width) != tuple(size):
        raise ValueError(f"is {[height, width]}, its image is {list(size)} (height, width)")
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"is {[height, width]}, which is no size of an image")
    return height, width


def _to_regions(
    path: Any, runs: Sequence[_Runs], size: tuple[int, int], *, column_major: bool
) -> Regions:
    owners = np.repeat(np.arange(len(runs)), [len(first) for first, _ in runs])
    empty = np.zeros(0, dtype=np.int64)
    first = np.concatenate([empty, *(r[0] for r in runs)])
    stop = np.concatenate([empty, *(r[1] for r in runs)])
    return checked(
        path,
        "all entries",
        "runs",
        lambda: Regions.from_runs(first, stop, owners, len(runs), size, column_major=column_major),
    )


def _entries(path: Any, content: Any, count: int) -> list[Any]:
    if not isinstance(content, list):
        raise DataError(f"{path} holds a {type(content).__name__}, not a list of proposals")
    if not content:
        raise DataError(f"{path} lists no proposals; make it again or leave the image out")
    if len(content) > MAX_PROPOSALS:
        raise DataError(f"{path} lists {len(content)} proposals; {MAX_PROPOSALS} are the limit")
    return content[:count] if count > 0 else content


def _prm_runs(data: Any, size: tuple[int, int]) -> _Runs:
    """Runs in base64: little-endian uint32 pairs (start counted from 1, length), row by row."""
    if not isinstance(data, str):
        raise ValueError(f"is {short(data)}, not text")
    if len(data) > 16 * size[0] * size[1]:
        raise ValueError("is longer than any mask of the image can be")
    try:
        raw = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"is not base64 ({error})") from None
    if len(raw) % 8:
        raise ValueError(f"holds {len(raw)} bytes, not pairs of four")
    pairs = np.frombuffer(raw, dtype="<u4").reshape(-1, 2).astype(np.int64)
    first, lengths = pairs[:, 0] - 1, pairs[:, 1]
    total = size[0] * size[1]
    if len(pairs) and (first.min() < 0 or (first + lengths).max() > total):
        raise ValueError(f"has runs beyond the {total} pixels of {size[0]} x {size[1]}")
    if (first[1:] < first[:-1] + lengths[:-1]).any():
        raise ValueError("has runs that overlap or do not ascend")
    return first, first + lengths


def proposals_from_prm(
    path: str | os.PathLike[str],
    content: Any,
    *,
    size: tuple[int, int] | None = None,
    count: int = 0,
) -> Proposals:
    """Proposals in the JSON of PRM's demo: a list of ``{"data", "shape"}``, best first.

    The format is that of prm spec 7.

    Args:
        path: the file, for messages.
        content: its parsed JSON.
        size: (H, W) of the image, if known.
        count: only the first so many; 0 takes all.

    Raises:
        DataError: naming the entry and the field.
    """
    runs = []
    for index, entry in enumerate(_entries(path, content, count)):
        where = f"proposal {index}"
        if not isinstance(entry, dict) or not {"data", "shape"} <= entry.keys():
            raise DataError(f"{path}: {where} is {short(entry)}, not an object with data and shape")
        size = checked(path, where, "shape", _check_size, entry["shape"], size)
        runs.append(checked(path, where, "data", _prm_runs, entry["data"], size))
    assert size is not None
    return by_rank(_to_regions(path, runs, size, column_major=False))


def _coco_runs(counts: Any, size: tuple[int, int]) -> _Runs:
    """Runs of ones of a COCO RLE, compressed or not, column by column."""
    total = size[0] * size[1]
    if isinstance(counts, str | bytes):
        if len(counts) > 8 * (total + 1):
            raise ValueError("is longer than any mask of the image can be")
        lengths = run_lengths(counts)
    elif isinstance(counts, list) and all(type(c) is int and 0 <= c <= total for c in counts):
        lengths = np.array(counts, dtype=np.int64)
    else:
        raise ValueError(f"is {short(counts)}, neither text nor a list of run lengths")
    if len(lengths) and (lengths.min() < 0 or lengths.max() > total):
        raise ValueError("holds a negative or too long run")
    if int(lengths.sum()) != total:
        raise ValueError(f"covers {int(lengths.sum())} pixels, not {size[0]} x {size[1]}")
    ends = np.cumsum(lengths)
    stop = ends[1::2]
    return stop - lengths[1::2], stop


def proposals_from_rles(
    path: str | os.PathLike[str],
    content: Any,
    *,
    size: tuple[int, int] | None = None,
    count: int = 0,
) -> Proposals:
    """Proposals as a list of COCO RLEs, or of objects that have one.

    An entry is an RLE ``{"size", "counts"}`` itself or has one under ``segmentation``, and may have
    a ``score`` (or Segment Anything's ``predicted_iou``, or ``objectness``). With scores the best
    comes first, without them the order of the file holds.

    Args:
        path: the file, for messages.
        content: its parsed JSON: the list, or an object whose ``annotations`` it is (Segment
            Anything's data set).
        size: (H, W) of the image, if known.
        count: only so many, the best; 0 takes all.

    Raises:
        DataError: naming the entry and the field.
    """
    if isinstance(content, dict):
        content = content.get("annotations")
    runs, scores = [], []
    for index, entry in enumerate(_entries(path, content, 0)):
        where = f"proposal {index}"
        rle = entry.get("segmentation", entry) if isinstance(entry, dict) else None
        if not isinstance(rle, dict) or not {"size", "counts"} <= rle.keys():
            raise DataError(f"{path}: {where} is {short(entry)}; it has no RLE (size and counts)")
        size = checked(path, where, "size", _check_size, rle["size"], size)
        runs.append(checked(path, where, "counts", _coco_runs, rle["counts"], size))
        name = next((n for n in _SCORE_NAMES if n in entry), None)
        if name is not None:
            scores.append(checked(path, where, name, number, entry[name]))
    if scores and len(scores) != len(runs):
        raise DataError(f"{path}: {len(scores)} of {len(runs)} proposals have a score")
    assert size is not None
    regions = _to_regions(path, runs, size, column_major=True)
    found = by_score(regions, np.array(scores)) if scores else by_rank(regions)
    return found.first(count)

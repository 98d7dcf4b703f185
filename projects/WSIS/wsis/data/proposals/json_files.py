"""Proposals as run lengths in JSON: PRM's demo files, COCO-style lists, Segment Anything's files.

No mask is decoded: runs become regions, so that an absurd length is refused before any memory is
asked for.
"""

from __future__ import annotations

import base64
import binascii
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wsis.data.checks import checked, integer, load_json, number, short
from wsis.data.images import MAX_PIXELS
from wsis.data.proposals.store import MAX_PROPOSALS, Proposals, by_rank, by_score
from wsis.errors import DataError
from wsis.layers.regions import Regions
from wsis.layers.run_lengths import runs_of_ones

MAX_FILE_BYTES = 1 << 30  # of one image's JSON
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


def _entries(path: Path, *, of_prm: bool) -> list[Any]:
    if path.stat().st_size > MAX_FILE_BYTES:
        raise DataError(f"{path}: {path.stat().st_size} bytes are too many for one image")
    content = load_json(path)
    if isinstance(content, dict) and not of_prm:
        content = content.get("annotations")  # of Segment Anything's data set
    if not isinstance(content, list):
        raise DataError(f"{path} holds a {type(content).__name__}, not a list of proposals")
    if not content:
        raise DataError(f"{path} lists no proposals; make it again or leave the image out")
    if len(content) > MAX_PROPOSALS:
        raise DataError(f"{path} lists {len(content)} proposals; {MAX_PROPOSALS} are the limit")
    return content


def _prm_runs(data: Any, size: tuple[int, int], /) -> _Runs:
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


def read_json_proposals(
    path: Path, *, kind: str = "auto", size: tuple[int, int] | None = None, count: int = 0
) -> Proposals:
    """Proposals of a JSON file.

    Either the list of PRM's demo, ``{"data", "shape"}`` each, best first (prm spec 7), or COCO
    RLEs: an entry is an RLE ``{"size", "counts"}`` itself or has one under ``segmentation``, and
    may have a ``score`` (or Segment Anything's ``predicted_iou``, or ``objectness``). With scores
    the best comes first, without them the order of the file holds. The list may be the
    ``annotations`` of an object, as in Segment Anything's data set.

    ``kind`` is "prm", "rle", or "auto", by what the first entry has; ``size`` (H, W) of the image,
    if known; ``count`` takes only so many, the best, 0 all.

    Raises:
        DataError: naming the entry and the field.
    """
    entries = _entries(path, of_prm=kind == "prm")
    first = entries[0] if isinstance(entries[0], dict) else {}
    if kind == "prm" or (kind == "auto" and {"data", "shape"} <= first.keys()):
        names, parse, what = ("shape", "data"), _prm_runs, "data and shape"
        entries = entries[:count] if count > 0 else entries
    else:
        names, parse, what = ("size", "counts"), runs_of_ones, "RLE (size and counts)"
    runs: list[_Runs] = []
    scores = []
    for index, entry in enumerate(entries):
        where = f"proposal {index}"
        stored = entry.get("segmentation", entry) if isinstance(entry, dict) else None
        if not isinstance(stored, dict) or not set(names) <= stored.keys():
            raise DataError(f"{path}: {where} is {short(entry)}; it has no {what}")
        size = checked(path, where, names[0], _check_size, stored[names[0]], size)
        runs.append(checked(path, where, "run lengths", parse, stored[names[1]], size))
        name = next((n for n in _SCORE_NAMES if n in entry), None)
        if name is not None:
            scores.append(checked(path, where, name, number, entry[name]))
    if scores and len(scores) != len(runs):
        raise DataError(f"{path}: {len(scores)} of {len(runs)} proposals have a score")
    assert size is not None
    owners = np.repeat(np.arange(len(runs)), [len(start) for start, _ in runs])
    starts, stops = (np.concatenate(parts) for parts in zip(*runs, strict=True))
    placed = (starts, stops, owners, len(runs), size)
    make = partial(Regions.from_runs, *placed, column_major=parse is runs_of_ones)
    regions = checked(path, "all entries", "runs", make)
    found = by_score(regions, np.array(scores)) if scores else by_rank(regions)
    return found.first(count)

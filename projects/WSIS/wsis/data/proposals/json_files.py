"""Proposals as run lengths in JSON: PRM's demo files, COCO-style lists, Segment Anything's files.

No mask is decoded: runs become regions. So an absurd length is refused before memory is allocated.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np

from wsis.data.checks import field, integer, load_json, number, short
from wsis.data.proposals.store import Proposals, by_rank, check_count, check_size
from wsis.layers.partition import check_runs
from wsis.layers.regions import Regions
from wsis.layers.run_lengths import runs_of_ones

MAX_FILE_BYTES = 1 << 30  # of one image's JSON
_Runs = tuple[np.ndarray, np.ndarray]  # first, stop (exclusive)
_SCORE_NAMES = ("score", "predicted_iou", "objectness")


def _entries(path: Path, *, of_prm: bool) -> list[Any]:
    content = load_json(path, limit=MAX_FILE_BYTES)
    if isinstance(content, dict) and not of_prm:
        content = content.get("annotations")  # of Segment Anything's data set
    if not isinstance(content, list):
        raise ValueError(f"it holds a {type(content).__name__}, not a list of proposals")
    return content


def _sides(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"is {short(value)}, not [height, width]")
    return tuple(map(integer, value))


def _prm_runs(data: Any, size: tuple[int, int], /) -> _Runs:
    """Runs in base64: little-endian uint32 pairs (start counted from 1, length), row by row."""
    if not isinstance(data, str) or len(data) > 16 * size[0] * size[1]:
        raise ValueError("data is not text, or longer than any mask of the image can be")
    try:
        pairs = np.frombuffer(base64.b64decode(data, validate=True), "<u4").reshape(-1, 2)
    except ValueError as error:
        raise ValueError(f"data is not base64 of pairs of four bytes ({error})") from None
    first, lengths = pairs.T.astype(np.int64)
    first, stop = first - 1, first - 1 + lengths
    check_runs(first, stop, np.zeros(len(first), np.int64), 1, size[0] * size[1])
    return first, stop


def read_json_proposals(
    path: Path, *, kind: str = "auto", size: tuple[int, int] | None = None, count: int = 0
) -> Proposals:
    """Read a JSON file of proposals, for `wsis.data.proposals.readers.read_proposals`.

    ``kind`` "prm" is the list of PRM's demo, entries ``{"data", "shape"}``, best first (prm spec
    7). "rle" is a list of COCO RLEs: an entry is an RLE ``{"size", "counts"}`` or has one under
    ``segmentation``, and may have a ``score`` (or Segment Anything's ``predicted_iou``, or
    ``objectness``). With scores the best comes first, else the order of the file holds. The list
    may be the ``annotations`` of an object, as in Segment Anything's data set. "auto" decides by
    the first entry.

    Raises:
        ValueError: naming the entry.
    """
    entries = _entries(path, of_prm=kind == "prm")
    first = entries[0] if entries and isinstance(entries[0], dict) else {}
    of_prm = kind == "prm" or (kind == "auto" and {"data", "shape"} <= first.keys())
    shape, data, parse = (
        ("shape", "data", _prm_runs) if of_prm else ("size", "counts", runs_of_ones)
    )
    check_count(len(entries))
    runs: list[_Runs] = []
    scores = []
    for index, entry in enumerate(entries[:count] if of_prm and count > 0 else entries):
        stored = entry.get("segmentation", entry) if isinstance(entry, dict) else None
        if not isinstance(stored, dict) or not {shape, data} <= stored.keys():
            what = "data and shape" if of_prm else "RLE (size and counts)"
            raise ValueError(f"proposal {index} is {short(entry)}; it has no {what}")
        try:
            stated = field(stored, shape, _sides)
            check_size(shape, stated, size)
            size = stated
            runs.append(parse(stored[data], size))
            scores += [field(entry, name, number) for name in _SCORE_NAMES if name in entry][:1]
        except ValueError as error:
            raise ValueError(f"proposal {index}: {error}") from error
    if scores and len(scores) != len(runs):
        raise ValueError(f"{len(scores)} of {len(runs)} proposals have a score")
    owners = np.repeat(np.arange(len(runs)), [len(start) for start, _ in runs])
    starts, stops = (np.concatenate(parts) for parts in zip(*runs, strict=True))
    assert size is not None  # there is a proposal
    regions = Regions.from_runs(starts, stops, owners, len(runs), size, column_major=not of_prm)
    if not scores:
        return by_rank(regions).first(count)
    values = np.array(scores, dtype=np.float32)
    order = np.argsort(-values, kind="stable")
    return Proposals(regions[order], values[order]).first(count)

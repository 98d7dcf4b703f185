"""Annotations as most of COCO's are, checked thousands at a time.

`wsis.data.coco_fields.read_annotation` says what is right; this gives the same for those without
any peculiarity, in a fifth of the time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from wsis.data.contradictions import Contradictions
from wsis.data.records import pack_many
from wsis.data.written_forms import ROUNDING
from wsis.layers.run_lengths import MAX_OUTLINE

Record = dict[str, Any]
_FIELDS = ("id", "image_id", "category_id", "iscrowd", "area", "bbox", "segmentation")
_values = itemgetter(*_FIELDS)
_COMMA, _POINT, _ZERO, _BLANK = b",.0 "
_EACH = 0x0101010101010101  # times a byte: a word of 8 such bytes
_TENS = 10.0 ** np.arange(9)


class Usual(NamedTuple):
    """Of n annotations.

    Attributes:
        rows: their places in the list, (n,) int64; the other attributes likewise.
        ids: of them.
        owners: the places of their images.
        classes: class ids.
        data: all of them packed.
        ends: where each of them ends in ``data``.
    """

    rows: np.ndarray
    ids: np.ndarray
    owners: np.ndarray
    classes: np.ndarray
    data: bytes
    ends: np.ndarray


def pack_usual(
    entries: Sequence[Record],
    ranks: Mapping[Any, int],
    sizes: np.ndarray,
    class_ids: Mapping[Any, int],
    seen: Contradictions,
) -> Usual | None:
    """The usual ones among annotations of a file; None if there is none.

    They have the fields of COCO, ids that are numbers, one polygon in a known image, their box
    around it and inside the image, and are no crowds. ``seen`` takes note of them.

    Args:
        entries: annotations, the numbers of polygons as `LongLists.entries` gives them.
        ranks: the places of images by their ids; of those that state no labels.
        sizes: (n, 2) float64, width and height by place.
        class_ids: by category id.
        seen: takes note.
    """
    columns = _look(entries, ranks, class_ids)
    if not columns:
        return None
    rows, numbers, places, classes, areas, boxes, polygons, counts = zip(*columns, strict=True)
    lengths = np.array(counts)
    try:
        points = _numbers(b",".join(polygons))
        box = _floats([*chain.from_iterable(boxes)]).reshape(-1, 4)
        area, ids = _floats(areas), np.array(numbers, dtype=np.int64)
    except (ValueError, OverflowError):
        return None
    owners = np.array(places)
    good = _are_good(points, lengths, box, sizes[owners])
    seen.see_usual(box[good], owners[good])
    ids, its_classes = ids[good], np.array(classes)[good]
    points = points[np.repeat(good, lengths)]
    data, ends = pack_many(ids, its_classes, area[good], box[good], lengths[good], points)
    return Usual(np.array(rows)[good], ids, owners[good], its_classes, data, ends)


def _look(
    entries: Sequence[Record], ranks: Mapping[Any, int], class_ids: Mapping[Any, int]
) -> list[tuple[Any, ...]]:
    """Row, id, place of the image, class id, area, box, polygon and its count of what looks so."""
    found = []
    for row, entry in enumerate(entries):
        if type(entry) is not dict or len(entry) != len(_FIELDS):
            continue
        try:
            number, image, category, crowd, area, box, polygons = _values(entry)
        except KeyError:
            continue
        if (
            type(number) is type(image) is type(category) is type(crowd) is int
            and type(box) is type(polygons) is list
            and crowd == 0
            and len(box) == 4
            and len(polygons) == 1
            and image in ranks
            and category in class_ids
        ):
            (polygon,) = polygons
            text = polygon[0] if type(polygon) is list and len(polygon) == 1 else None
            count = text.count(b",") + 1 if type(text) is bytes else 0
            if count >= 6 and count % 2 == 0:
                place, class_id = ranks[image], class_ids[category]
                found.append((row, number, place, class_id, area, box, text, count))
    return found


def _numbers(text: bytes) -> np.ndarray:
    """The numbers of a JSON list, (n,) float64, given its text without the brackets.

    Raises:
        ValueError: one is no finite number, or it is no JSON.
    """
    found = _decimals(text)
    return _floats(json.loads(f"[{text.decode()}]")) if found is None else found


def _decimals(text: bytes) -> np.ndarray | None:
    """The same in a quarter of the time; None if one is not as most are: 0.5, 12, 345.67.

    At most eight characters, a word of the machine, are a whole number over a power of ten. Both
    are exact as float64, so that their quotient is what Python reads.
    """
    text = b"0" * 8 + text + b","
    codes = np.frombuffer(text, dtype=np.uint8)
    ends = np.flatnonzero(codes == _COMMA)
    starts = np.concatenate([[8], ends[:-1] + 1])
    starts += codes[starts] == _BLANK
    lengths = ends - starts
    if lengths.min() < 1 or lengths.max() > 8:
        return None
    first, last, second = codes[starts], codes[ends - 1], codes[starts + 1]
    led = (first == _ZERO) & (lengths > 1) & (second != _POINT)  # 007 is no JSON, .5 and 5. neither
    if (led | (first == _POINT) | (last == _POINT)).any():
        return None
    words = np.ndarray(len(text) - 7, dtype="<u8", buffer=text, strides=(1,))[ends - 8]
    others = (8 * (8 - lengths)).astype(np.uint64)  # bits of what stands before a number
    words = words >> others << others
    low, high = np.uint64(0x7F * _EACH), np.uint64(0x80 * _EACH)
    rest = words ^ np.uint64(_POINT * _EACH)
    points = ~(((rest & low) + low) | rest) & high  # the highest bit of each byte that is a point
    shift = np.where(points, np.uint64(8), np.uint64(0))  # closes the gap that it leaves
    words = (words & ~((points << 1) - 1)) | ((words & ((points >> 7) - 1)) << shift)
    others += shift
    digits = words ^ (np.uint64(_ZERO * _EACH) >> others << others)
    above = ((digits + np.uint64(0x76 * _EACH)) | digits) & high  # of bytes that are above 9
    if (above | (points & (points - 1))).any():
        return None
    pairs = digits * 10 + (digits >> 8)
    fours = np.uint64(0x000000FF000000FF)
    values = (pairs & fours) * 0x000F424000000064 + (pairs >> 16 & fours) * 0x0000271000000001 >> 32
    decimals = (points >> 7) * 0x0706050403020100 >> 56  # the number of the byte, from behind
    return values / _TENS[decimals]


def _floats(values: Sequence[Any]) -> np.ndarray:
    """(n,) float64.

    Raises:
        ValueError: one is no finite number.
    """
    if not {*map(type, values)} <= {int, float}:
        raise ValueError
    found = np.array(values, dtype=np.float64)
    if not np.isfinite(found).all():
        raise ValueError
    return found


def _are_good(
    points: np.ndarray, lengths: np.ndarray, boxes: np.ndarray, sizes: np.ndarray
) -> np.ndarray:
    """Which boxes lie inside their images and around their polygons, (n,) bool."""
    places, starts = points.reshape(-1, 2), (np.cumsum(lengths) - lengths) // 2
    low, high = np.minimum.reduceat(places, starts), np.maximum.reduceat(places, starts)
    reach = 2 * sizes.max(axis=1)
    left_top, right_bottom = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    inside = (left_top >= 0) & (left_top < right_bottom) & (right_bottom <= sizes)
    around = (abs(low - left_top) <= ROUNDING) & (abs(high - right_bottom) <= ROUNDING)
    near = (low >= -reach[:, None]) & (high <= reach[:, None])
    pixels = (high > 1).any(axis=1)  # what lies within the first one may be shares
    return (inside & around & near).all(axis=1) & pixels & (lengths * reach <= MAX_OUTLINE)

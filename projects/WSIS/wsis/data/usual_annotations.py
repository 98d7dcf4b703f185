"""Annotations as most of COCO's are, checked thousands at a time.

`wsis.data.coco_fields.read_annotation` says what is right; this gives the same for those without
any peculiarity, in a fifth of the time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from wsis.data.contradictions import Contradictions
from wsis.data.records import pack_many
from wsis.data.written_forms import ROUNDING
from wsis.layers.run_lengths import MAX_OUTLINE

_SPACE, _INTEGER, _LIST = r"[ \t\r\n]*+", r"(0|[1-9][0-9]{0,14}+)", r"\[([^]]*+)\]"
_VALUES = {
    "id": _INTEGER,
    "image_id": _INTEGER,
    "category_id": _INTEGER,
    "iscrowd": "(0)",
    "area": "([-+.eE0-9]++)",
    "bbox": r"\[((?:[^],]++,){3}+[^],]++)\]",
    "segmentation": rf"\[{_SPACE}{_LIST}{_SPACE}\]",
}
_FIELDS = "|".join(f'{name}"{_SPACE}:{_SPACE}{value}' for name, value in _VALUES.items())
_EACH_ONCE = "".join(f"(?({group})|(?!))" for group in range(1, 8))
# An annotation with the fields of COCO in any order. Its lists hold anything without a bracket:
# whoever reads them sees whether it is JSON.
USUAL = re.compile(rf'{{(?:{_SPACE}"(?:{_FIELDS}){_SPACE}(?:,|(?=}}))){{7}}(?<!,)}}{_EACH_ONCE}')
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


def by_text(known: Mapping[Any, int]) -> dict[str, int]:
    """What is known by ids, by the texts of those that are numbers."""
    return {str(key): value for key, value in known.items() if type(key) is int}


def pack_usual(
    entries: Sequence[Any],
    places: Mapping[str, int],
    sizes: np.ndarray,
    class_ids: Mapping[str, int],
    seen: Contradictions,
) -> Usual | None:
    """The usual ones among annotations of a file; None if there is none.

    They are `USUAL`, of a known image and category, their box is around their polygon and inside
    the image. ``seen`` takes note of them.

    Args:
        entries: annotations as `LongLists.entries` gives them.
        places: of images, `by_text`; those that state no labels.
        sizes: (n, 2) float64, width and height by place.
        class_ids: of categories, `by_text`.
        seen: takes note.
    """
    looked = [
        (row, number, place, class_id, area, box, polygon, count)
        for row, entry in enumerate(entries)
        if isinstance(entry, re.Match)
        for number, image, category, _, area, box, polygon in (entry.groups(),)
        if (place := places.get(image)) is not None
        and (class_id := class_ids.get(category)) is not None
        and (count := polygon.count(",") + 1) >= 6
        and count % 2 == 0
    ]
    if not looked:
        return None
    rows, numbers, images, classes, areas, boxes, polygons, counts = zip(*looked, strict=True)
    try:
        ids, area, box, points = map(_numbers, (numbers, areas, boxes, polygons))
    except (ValueError, OverflowError):
        return None
    box, lengths, owners = box.reshape(-1, 4), np.array(counts), np.array(images)
    good = _are_good(points, lengths, box, sizes[owners])
    seen.see_usual(box[good], owners[good])
    ids, its_classes = ids[good].astype(np.int64), np.array(classes)[good]
    points = points[np.repeat(good, lengths)]
    data, ends = pack_many(ids, its_classes, area[good], box[good], lengths[good], points)
    return Usual(np.array(rows)[good], ids, owners[good], its_classes, data, ends)


def _numbers(texts: Sequence[str]) -> np.ndarray:
    """The numbers of JSON lists, one after another, (n,) float64, given their texts.

    Raises:
        ValueError: one is no finite number, or it is no JSON.
    """
    text = ",".join(texts)
    found = _decimals(text.encode())
    return _floats(json.loads(f"[{text}]")) if found is None else found


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

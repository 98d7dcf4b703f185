"""Dataset dicts in little memory."""

from __future__ import annotations

import copy
import io
import json
import pickle
import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, chain, pairwise
from operator import itemgetter
from typing import Any

import numpy as np

from wsis.data.catalog import BoxMode

Record = dict[str, Any]
_BITS = (("bbox", 1), ("point", 2), ("segmentation", 4))
_BOX_AND_MASK, _CROWD, _POLYGONS, _PLAIN = 5, 8, 16, 32
_OBJECT = struct.Struct("<qqqqddddd")  # its first byte, id, class, numbers of points, area, box
_MODE, _MASK = "bbox_mode", "segmentation"
# JSON of what `_unpack` makes of it without masks: places in `_OBJECT`, and their text.
_TEXTS: dict[str, tuple[tuple[int, ...], str]] = {
    "area": ((4,), "%r"),
    "bbox": ((5, 6, 7, 8), "[%r, %r, %r, %r]"),
    _MODE: ((), str(int(BoxMode.XYWH_ABS))),
    "category_id": ((2,), "%d"),
    "id": ((1,), "%d"),
    "iscrowd": ((), "0"),
    _MASK: ((3,), "[%d]"),
}
_AT_ONCE = 4096  # dicts, of which the places are held as Python's numbers
_MODES = {int(mode): mode for mode in BoxMode}


def _jsonable(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("ascii", "replace")
    return value.tolist() if hasattr(value, "tolist") else str(value)


to_json = json.JSONEncoder(sort_keys=True, default=_jsonable).encode  # of a dict or what is in it


def pack(annotation: Record) -> bytes:
    """An annotation as bytes, of which the first tells what it has.

    A box mode is kept as a number, since pickle looks for its class in detectron2.structures, which
    imports torchvision. The numbers of polygons stand at the end as float64, their counts in the
    place of the polygons.
    """
    has = _CROWD if annotation.get("iscrowd") else 0
    for name, bit in _BITS:
        if name in annotation:
            has |= bit
    if _MODE in annotation:
        annotation = annotation | {_MODE: int(annotation[_MODE])}
    polygons, points = annotation.get(_MASK), b""
    if isinstance(polygons, list) and all(
        type(p) is list and {*map(type, p)} == {float} for p in polygons
    ):
        has |= _POLYGONS
        points = array("d", chain.from_iterable(polygons)).tobytes()
        annotation = annotation | {_MASK: (*map(len, polygons),)}
    return bytes((has,)) + pickle.dumps(annotation, pickle.HIGHEST_PROTOCOL) + points


def pack_many(
    ids: np.ndarray,
    classes: np.ndarray,
    areas: np.ndarray,
    boxes: np.ndarray,
    lengths: np.ndarray,
    points: np.ndarray,
) -> tuple[bytes, np.ndarray]:
    """Objects with one polygon each, packed one after another, in a fifth of the time of `pack`.

    Args:
        ids: (n,) int64.
        classes: (n,) class ids.
        areas: (n,) float64.
        boxes: (n, 4) float64, XYWH.
        lengths: (n,) how many numbers each polygon has.
        points: float64, the polygons one after another.

    Returns:
        the bytes, and where each object ends in them, (n,) int64.
    """
    words = lengths + _OBJECT.size // 8
    ends = np.cumsum(words)
    starts, data = ends - words, np.empty(int(words.sum()), dtype="<f8")
    is_point = np.ones(len(data), dtype=bool)
    has = np.full(len(ids), _BOX_AND_MASK | _POLYGONS | _PLAIN)
    for place, column in enumerate((has, ids, classes, lengths, areas, *boxes.T)):
        kind = "<f8" if column.dtype == np.float64 else "<i8"
        data[starts + place] = column.astype(kind).view("<f8")
        is_point[starts + place] = False
    data[is_point] = points
    return data.tobytes(), 8 * ends


def _unpack(data: memoryview, masks: bool) -> Record:
    if data[0] & _PLAIN:
        _, number, class_id, length, area, *box = _OBJECT.unpack_from(data)
        return {
            "id": number,
            "category_id": class_id,
            "iscrowd": 0,
            "bbox": box,
            _MASK: [data[_OBJECT.size :].cast("d").tolist()] if masks else (length,),
            "area": area,
            _MODE: BoxMode.XYWH_ABS,
        }
    annotation = pickle.loads(data[1:])  # noqa: S301  (made above; it leaves the rest alone)
    if _MODE in annotation:
        annotation[_MODE] = _MODES[annotation[_MODE]]
    if masks and data[0] & _POLYGONS:
        lengths = annotation[_MASK]
        points = data[len(data) - 8 * sum(lengths) :].cast("d").tolist()
        ends = accumulate(lengths, initial=0)
        annotation[_MASK] = [points[a:b] for a, b in pairwise(ends)]
    return annotation


def _form(keys: Iterable[str]) -> tuple[str, Callable[[tuple[Any, ...]], tuple[Any, ...]]]:
    """JSON of some fields of a plain object, but for numbers; which of `_OBJECT` these are."""
    places, texts = zip(*(_TEXTS[key] for key in sorted(keys)), strict=True)
    fields = (f'"{key}": {text}' for key, text in zip(sorted(keys), texts, strict=True))
    return f"{{{', '.join(fields)}}}", itemgetter(*chain.from_iterable(places))


class Parts:
    """Pieces of bytes, put in one after another."""

    def __init__(self) -> None:
        self._stream, self._ends = io.BytesIO(), array("q", [0])

    def add(self, part: bytes) -> None:
        """Put in one more."""
        self._stream.write(part)
        self._ends.append(self._stream.tell())

    def add_many(self, parts: bytes, ends: np.ndarray) -> None:
        """Put in several that stand one after another and end there."""
        self._ends.frombytes((self._stream.tell() + ends).astype(np.int64).tobytes())
        self._stream.write(parts)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def in_order(self, order: np.ndarray | None = None) -> _Parts:
        """Them, in the order of these indices."""
        ends = np.array(self._ends, dtype=np.int64)
        data = np.frombuffer(self._stream.getbuffer(), dtype=np.uint8)
        if order is None:
            return _Parts(data, ends[:-1], ends[1:])
        return _Parts(data, ends[:-1][order], ends[1:][order])


class _Parts:
    def __init__(self, data: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> None:
        self._bytes, self._starts, self._ends = data, starts, ends

    def first_bytes(self) -> np.ndarray:
        return self._bytes[self._starts]

    def between(self, first: int, end: int) -> Iterator[memoryview]:
        return self.of(slice(first, end))

    def of(self, places: slice | np.ndarray) -> Iterator[memoryview]:
        data = self._bytes.data
        starts, ends = self._starts[places].tolist(), self._ends[places].tolist()
        return (data[a:b] for a, b in zip(starts, ends, strict=True))


class Records(Sequence[Record]):
    """Dataset dicts as a few arrays of bytes; each is made anew when it is read.

    As dicts, those of COCO (118,000 images, 860,000 annotations) take 2.7 GB, and data-loading
    processes would end up copying them. A slice shares the bytes.

    Args:
        records: read one after another; none of them is kept.
        parts: their annotations, packed, in another order; those in the dicts do not count.
        owners: (n, 2): for each of these the index of its dict, and its rank among that one's.
    """

    def __init__(
        self,
        records: Iterable[Record],
        parts: Parts | None = None,
        owners: np.ndarray | None = None,
    ) -> None:
        heads, given, places = Parts(), parts or Parts(), array("q")
        for number, record in enumerate(records):
            heads.add(_head(record))
            if parts is None:
                for annotation in record.get("annotations", ()):
                    given.add(pack(annotation))
                    places.append(number)
        rows = np.array(places, dtype=np.int64)
        order = np.arange(len(rows))
        if owners is not None:
            rows, order = owners[:, 0], np.lexsort(owners.T[::-1])
        self._annotations = given.in_order(order)
        self._heads = heads.in_order()
        self._rows = np.arange(len(heads))
        counts = np.bincount(rows, minlength=len(heads))
        ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._spans = np.stack([ends[:-1], ends[1:]], axis=1)
        self._whole = self._masks = True

    @property
    def heads(self) -> Records:
        """The same without annotations (() where there are some), which is read much faster."""
        found = copy.copy(self)
        found._whole = False
        return found

    @property
    def unmasked(self) -> Records:
        """The same without polygons (the numbers of points in place of them)."""
        found = copy.copy(self)
        found._masks = False
        return found

    def annotations(self, index: int) -> Iterator[Record]:
        """The annotations of a dict, made one after another."""
        return (_unpack(part, self._masks) for part in self._parts_of(index))

    def _parts_of(self, index: int) -> Iterator[memoryview]:
        return self._annotations.between(*self._spans[self._rows[index]].tolist())

    def texts(
        self, show: Callable[[Record], Sequence[Record]]
    ) -> Iterator[tuple[str, Sequence[memoryview]]]:
        """For each dict JSON of its annotations, and the numbers of their polygons as float64.

        ``show`` gives what is told of an annotation without polygons (numbers of points in place
        of them), in a list that may be empty; the keys depend on its keys alone.
        """
        forms, unpacked = [*map(_form, show(dict.fromkeys(_TEXTS)))], _OBJECT.unpack_from
        for first in range(0, len(self), _AT_ONCE):
            for span in self._spans[self._rows[first : first + _AT_ONCE]].tolist():
                texts: list[str] = []
                points: list[memoryview] = []
                for part in self._annotations.between(*span):
                    if part[0] & _PLAIN:
                        for form, values in forms:  # a third of the time of `json`
                            texts.append(form % values(unpacked(part)))
                        points.append(part[_OBJECT.size :])
                        continue
                    annotation = _unpack(part, False)
                    texts += map(to_json, show(annotation))
                    if part[0] & _POLYGONS:
                        points.append(part[len(part) - 8 * sum(annotation[_MASK]) :])
                yield ", ".join(texts), points

    def objects(self, having: str = "", *, crowds: bool = False) -> np.ndarray:
        """How many annotations of each dict have a bbox, point or segmentation; (n,) int64.

        Without ``having`` all count; crowds only if asked for. No annotation is read.
        """
        has = self._annotations.first_bytes()
        counted = (has & dict(_BITS)[having]) > 0 if having else np.ones(len(has), dtype=bool)
        counted &= crowds | ((has & _CROWD) == 0)
        before = np.concatenate([[0], np.cumsum(counted)])
        first, end = self._spans[self._rows].T
        return before[end] - before[first]

    def with_heads(self, records: Iterable[Record]) -> Records:
        """The same annotations in other dicts, one for each; annotations in these do not count."""
        found, heads = copy.copy(self), Parts()
        for record in records:
            heads.add(_head(record))
        found._heads = heads.in_order()
        found._spans, found._rows = self._spans[self._rows], np.arange(len(self))
        return found

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        """The dict at an index; `Records` for a slice or an array of indices or bools."""
        if isinstance(index, slice | np.ndarray):
            found = copy.copy(self)
            found._rows = self._rows[index]
            return found
        (record,) = self._made(self._rows[index][None])
        return record

    def __iter__(self) -> Iterator[Record]:
        for first in range(0, len(self), _AT_ONCE):
            yield from self._made(self._rows[first : first + _AT_ONCE])

    def _made(self, rows: np.ndarray) -> Iterator[Record]:
        heads = map(pickle.loads, self._heads.of(rows))  # made above
        if not self._whole:
            yield from heads
            return
        for record, (first, end) in zip(heads, self._spans[rows].tolist(), strict=True):
            if "annotations" in record:
                parts = self._annotations.between(first, end)
                record["annotations"] = [_unpack(part, self._masks) for part in parts]
            yield record


def _head(record: Record) -> bytes:
    head = record | {"annotations": ()} if "annotations" in record else record
    return pickle.dumps(head, pickle.HIGHEST_PROTOCOL)


def compact(records: Iterable[Record]) -> Records:
    """The same dicts as `Records`."""
    return records if isinstance(records, Records) else Records(records)


def heads_of(records: Sequence[Record]) -> Sequence[Record]:
    """The same dicts, without annotations if these cost time to read."""
    return records.heads if isinstance(records, Records) else records

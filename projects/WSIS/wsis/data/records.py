"""Dataset dicts in little memory."""

from __future__ import annotations

import copy
import io
import pickle
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, chain, pairwise
from typing import Any

import numpy as np

from wsis.data.catalog import BoxMode

Record = dict[str, Any]
_BITS = (("bbox", 1), ("point", 2), ("segmentation", 4))
_CROWD, _POLYGONS = 8, 16
_MODE, _MASK = "bbox_mode", "segmentation"
XYWH = int(BoxMode.XYWH_ABS)
_MODES = {int(mode): mode for mode in BoxMode}


def pack(annotation: Record) -> bytes:
    """An annotation as bytes."""
    if _MODE in annotation:
        annotation = annotation | {_MODE: int(annotation[_MODE])}
    polygons = annotation.get(_MASK)
    if not isinstance(polygons, list) or not all(
        type(p) is list and {*map(type, p)} == {float} for p in polygons
    ):
        return pack_parts(annotation, None)
    points = array("d", chain.from_iterable(polygons)).tobytes()
    return pack_parts(annotation | {_MASK: (*map(len, polygons),)}, points)


def pack_parts(annotation: Record, points: bytes | None) -> bytes:
    """An annotation as bytes, of which the first tells what it has.

    Args:
        annotation: its fields. The box mode is a number, since pickle looks for its class in
            detectron2.structures, which imports torchvision.
        points: the numbers in its polygons as float64, one after another, where "segmentation" are
            their counts; else None.
    """
    has = _CROWD if annotation.get("iscrowd") else 0
    for name, bit in _BITS:
        if name in annotation:
            has |= bit
    data = pickle.dumps(annotation, pickle.HIGHEST_PROTOCOL)
    return bytes((has,)) + data if points is None else bytes((has | _POLYGONS,)) + data + points


def _unpack(data: memoryview, masks: bool) -> Record:
    annotation = pickle.loads(data[1:])  # noqa: S301  (made above; it leaves the rest alone)
    if _MODE in annotation:
        annotation[_MODE] = _MODES[annotation[_MODE]]
    if masks and data[0] & _POLYGONS:
        lengths = annotation[_MASK]
        points = np.frombuffer(_points(data, lengths)).tolist()
        ends = accumulate(lengths, initial=0)
        annotation[_MASK] = [points[a:b] for a, b in pairwise(ends)]
    return annotation


def _points(data: memoryview, lengths: Sequence[int]) -> memoryview:
    return data[len(data) - 8 * sum(lengths) :]


class Parts:
    """Pieces of bytes, put in one after another."""

    def __init__(self) -> None:
        self._stream, self._ends = io.BytesIO(), array("q", [0])

    def add(self, part: bytes) -> None:
        """Put in one more."""
        self._stream.write(part)
        self._ends.append(self._stream.tell())

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
        data = self._bytes.data
        starts, ends = self._starts[first:end].tolist(), self._ends[first:end].tolist()
        return (data[a:b] for a, b in zip(starts, ends, strict=True))


class Records(Sequence[Record]):
    """Dataset dicts as a few arrays of bytes; each is made anew when it is read.

    As dicts, those of COCO (118,000 images, 860,000 annotations) take 2.7 GB, and data-loading
    processes would end up copying them. A slice shares the bytes.

    Args:
        records: read one after another; none of them is kept.
        parts: their annotations, packed, in another order; those in the dicts do not count.
        owners: the index of the dict of each of these.
    """

    def __init__(
        self,
        records: Iterable[Record],
        parts: Parts | None = None,
        owners: Sequence[int] | array[int] = (),
    ) -> None:
        heads, given, places = Parts(), parts or Parts(), array("q", owners)
        for number, record in enumerate(records):
            heads.add(_head(record))
            if parts is None:
                for annotation in record.get("annotations", ()):
                    given.add(pack(annotation))
                    places.append(number)
        rows = np.array(places, dtype=np.int64)
        self._annotations = given.in_order(np.argsort(rows, kind="stable"))
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

    def points(self, index: int) -> bytes:
        """The numbers in the polygons of a dict as float64, one after another."""
        found = b""
        for part in self._parts_of(index):
            if part[0] & _POLYGONS:
                found += _points(part, pickle.loads(part[1:])[_MASK])  # noqa: S301
        return found

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

    def with_more(self, more: Callable[[int, Record], Record]) -> Records:
        """The same with more in each dict, given its index and the dict without annotations."""
        found = copy.copy(self)
        heads = Parts()
        for index, head in enumerate(self.heads):
            heads.add(_head(head | more(index, head)))
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
        row = int(self._rows[index])
        (head,) = self._heads.between(row, row + 1)
        record = pickle.loads(head)  # noqa: S301  (made above)
        if self._whole and "annotations" in record:
            record["annotations"] = [*self.annotations(index)]
        return record


def _head(record: Record) -> bytes:
    head = record | {"annotations": ()} if "annotations" in record else record
    return pickle.dumps(head, pickle.HIGHEST_PROTOCOL)


def compact(records: Iterable[Record]) -> Records:
    """The same dicts as `Records`."""
    return records if isinstance(records, Records) else Records(records)


def heads_of(records: Sequence[Record]) -> Sequence[Record]:
    """The same dicts, without annotations if these cost time to read."""
    return records.heads if isinstance(records, Records) else records

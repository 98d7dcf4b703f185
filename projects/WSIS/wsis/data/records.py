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
    if data[0] & _POLYGONS and masks:
        lengths = annotation[_MASK]
        points = np.frombuffer(data[-8 * sum(lengths) :]).tolist() if lengths else []
        ends = [*accumulate(lengths, initial=0)]
        annotation[_MASK] = [points[a:b] for a, b in pairwise(ends)]
    return annotation


class _Parts:
    """Pieces of bytes in one row."""

    def __init__(self, parts: Iterable[bytes]) -> None:
        stream, ends = io.BytesIO(), [0]
        for part in parts:
            stream.write(part)
            ends.append(stream.tell())
        self._bytes = np.frombuffer(stream.getbuffer(), dtype=np.uint8)
        self._ends = np.array(ends, dtype=np.int64)

    def first_bytes(self) -> np.ndarray:
        return self._bytes[self._ends[:-1]]

    def between(self, first: int, end: int) -> Iterator[memoryview]:
        data = self._bytes.data
        return (data[a:b] for a, b in pairwise(self._ends[first : end + 1].tolist()))


class Records(Sequence[Record]):
    """Dataset dicts as a few arrays of bytes; each is made anew when it is read.

    As dicts, those of COCO (118,000 images, 860,000 annotations) take 2.7 GB, and data-loading
    processes would end up copying them. A slice shares the bytes.

    Args:
        records: read one after another; none of them is kept. ``annotations`` may be packed.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        heads, spans, total = list[bytes](), list[tuple[int, int]](), 0

        def annotations() -> Iterator[bytes]:
            nonlocal total
            for record in records:
                found = record.get("annotations", ())
                heads.append(_head(record))
                spans.append((total, total := total + len(found)))
                yield from (one if isinstance(one, bytes) else pack(one) for one in found)

        self._annotations = _Parts(annotations())
        self._heads = _Parts(heads)
        self._spans = np.array(spans, dtype=np.int64).reshape(-1, 2)
        self._rows = np.arange(len(heads))
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
        parts = self._annotations.between(*self._spans[self._rows[index]].tolist())
        return (_unpack(part, self._masks) for part in parts)

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
        found._heads = _Parts(_head(h | more(index, h)) for index, h in enumerate(self.heads))
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

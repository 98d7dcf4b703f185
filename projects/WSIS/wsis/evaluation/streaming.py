"""The core that every evaluation shares: one image in, a small record kept, one answer at the end.

A record is a few arrays by name. Their first axis counts rows (predictions, objects, ...), whose
number may differ between images and arrays. Masks are never kept. The records of every `_CHUNK`
images are packed, which matters at 118 000 images. At the end the records of all processes come
together on the main process, ordered by image key and without duplicates, so the figures do not
depend on the number of processes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.utils import comm

Metrics = dict[str, float]
Record = Mapping[str, np.ndarray]
Packed = dict[str, tuple[np.ndarray, np.ndarray]]  # rows of all images, where each image's end

_CHUNK = 128  # images whose records are apart until they are packed
_SMALLER = {"i": (np.int8, np.int16, np.int32), "f": (np.float32,)}


def _narrow(values: np.ndarray) -> np.ndarray:
    """The same numbers in the smallest type that holds every one exactly."""
    for dtype in _SMALLER.get(values.dtype.kind, ()) if values.size else ():
        if np.dtype(dtype).itemsize >= values.dtype.itemsize:
            break
        with np.errstate(over="ignore", invalid="ignore"):
            small = values.astype(dtype)
        if np.array_equal(small, values, equal_nan=values.dtype.kind == "f"):
            return small
    return values


def pack(records: Sequence[Record]) -> Packed:
    """Records of the same names, at least one, in few bytes."""
    return {
        name: (
            _narrow(np.concatenate([record[name] for record in records])),
            _narrow(np.cumsum([len(record[name]) for record in records])),
        )
        for name in records[0]
    }


class _Unpacked(Mapping[str, np.ndarray]):
    """One of the records that were packed; it holds no array until it is asked for one."""

    __slots__ = ("_packed", "_place")

    def __init__(self, packed: Packed, place: int) -> None:
        self._packed, self._place = packed, place

    def __getitem__(self, name: str) -> np.ndarray:
        rows, ends = self._packed[name]
        return rows[ends[self._place - 1] if self._place else 0 : ends[self._place]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


def unpack(packed: Packed) -> list[Record]:
    """The records again, as views; a type may be smaller than it was."""
    _, ends = next(iter(packed.values()))
    return [_Unpacked(packed, place) for place in range(len(ends))]


def column(records: Sequence[Record], name: str, dtype: type, *shape: int) -> np.ndarray:
    """The rows of a name over all images, (rows, *shape)."""
    rows = [np.zeros(0, dtype), *(record[name].ravel() for record in records)]
    return np.concatenate(rows, dtype=dtype, casting="unsafe").reshape(-1, *shape)


class Measure:
    """One way of measuring, under the name of a protocol, and its records of the images so far."""

    needs_masks = True  # else it measures boxes

    def __init__(self, protocol: str, class_names: Sequence[str] = ()) -> None:
        self.protocol, self.class_names = protocol, tuple(class_names)
        self.reset()

    def measure(self, pair: Any) -> Record:
        """A small record of one image, of what was found and what is there."""
        raise NotImplementedError

    def summarise(self, records: Sequence[Record]) -> Metrics:
        """Metrics in per cent, NaN where undefined, from the records in the order of image keys."""
        raise NotImplementedError

    def reset(self) -> None:
        """Forget every image."""
        self._pending: dict[Any, Record] = {}
        self._keys: list[Any] = []
        self._packed: list[Packed] = []

    def add(self, key: Any, pair: Any) -> None:
        """Measure one image; a key seen before is measured again and replaces its record.

        Keys are image keys, or anything else that has an order.
        """
        self._pending[key] = self.measure(pair)
        if len(self._pending) >= _CHUNK:
            self._pack()

    def _pack(self) -> None:
        if self._pending:
            self._keys += self._pending
            self._packed.append(pack([*self._pending.values()]))
            self._pending = {}

    def gather(self, *, distributed: bool = True) -> list[Record] | None:
        """Records in the order of image keys: all processes' on the main one, None elsewhere.

        A key that several processes hold (samplers may repeat images) counts once. ``distributed``
        False keeps to the images of this process.
        """
        self._pack()
        shares = [(self._keys, self._packed)]
        if distributed:
            comm.synchronize()
            shares = comm.gather(shares[0], dst=0)
            if not comm.is_main_process():
                return None
        found: dict[Any, Record] = {}
        for keys, chunks in shares:  # the first process's record counts, in a process the last
            records = [record for chunk in chunks for record in unpack(chunk)]
            found = dict(zip(keys, records, strict=True)) | found
        return [found[key] for key in sorted(found)]


def results_of(
    measures: Iterable[Measure], *, distributed: bool = True
) -> OrderedDict[str, Metrics]:
    """``{protocol: metrics}`` on the main process, empty on the others; see `Measure.gather`."""
    found = OrderedDict[str, Metrics]()
    for one in measures:
        records = one.gather(distributed=distributed)
        if records is not None:
            found[one.protocol] = one.summarise(records)
    return found


def percent(value: float) -> float:
    """A share as per cent; NaN stays NaN."""
    return 100.0 * float(value)


def mean_of_defined(values: Sequence[float] | np.ndarray) -> float:
    """Mean of the values that are not NaN; NaN if there are none."""
    values = np.asarray(values, dtype=np.float64)
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def ratio(part: float, whole: float) -> float:
    """``part / whole`` in per cent, NaN where ``whole`` is 0."""
    return percent(part / whole) if whole else float("nan")


def add_by_class(metrics: Metrics, name: str, shares: np.ndarray, classes: Sequence[str]) -> None:
    """Put the mean over classes and the value of each class into ``metrics``, in per cent."""
    metrics[name] = percent(mean_of_defined(shares))
    for class_name, share in zip(classes, shares, strict=True):
        metrics[f"{name}/{class_name}"] = percent(share)

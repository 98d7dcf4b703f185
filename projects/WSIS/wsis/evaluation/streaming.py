"""The core that every evaluation shares: one image in, a small record kept, one answer at the end.

A measure turns an image (prediction and ground truth) into a record: a few arrays by name whose
first axis counts rows (predictions, objects, ...), a number that may differ between images and
arrays. Masks are never kept, and the records of every `_CHUNK` images are packed: at 118 000 images
that is what counts. At the end those of all processes come together on the main process, ordered by
image key with duplicates dropped, so that the figures do not depend on how many processes there
were.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from detectron2.utils import comm

Metrics = dict[str, float]
Record = Mapping[str, np.ndarray]

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


class RecordTable:
    """The records of some images: of each name, one array with the rows of all of them.

    Args:
        values: name to the rows of all images, one image after another.
        counts: name to (images,) int, the rows of each image.
    """

    def __init__(self, values: dict[str, np.ndarray], counts: dict[str, np.ndarray]) -> None:
        self._values = values
        self._counts = counts

    @classmethod
    def of(cls, records: RecordTable | Sequence[Record]) -> RecordTable:
        """Pack records of the same names; a table is returned as it is."""
        if isinstance(records, RecordTable):
            return records
        columns = {name: [r[name] for r in records] for name in (records[0] if records else ())}
        return cls(
            {name: _narrow(np.concatenate(rows)) for name, rows in columns.items()},
            {name: _narrow(np.array([len(r) for r in rows])) for name, rows in columns.items()},
        )

    @classmethod
    def join(cls, tables: Sequence[RecordTable]) -> RecordTable:
        """One table after another."""
        filled = [table for table in tables if len(table)]
        names = list(filled[0]._values) if filled else []
        return cls(
            {name: np.concatenate([t._values[name] for t in filled]) for name in names},
            {name: np.concatenate([t._counts[name] for t in filled]) for name in names},
        )

    def __len__(self) -> int:
        return len(next(iter(self._counts.values()), ()))

    def column(self, name: str, dtype: type) -> np.ndarray:
        """The rows of a name over all images; (0,) without images."""
        return self._values.get(name, np.zeros(0, dtype)).astype(dtype, copy=False)

    def counts(self, name: str) -> np.ndarray:
        """(images,) int64, the rows of each image under a name."""
        return self._counts.get(name, np.zeros(0)).astype(np.int64)

    def take(self, order: np.ndarray) -> RecordTable:
        """The images at these positions, each at most once, in this order."""
        places = np.full(len(self), -1)
        places[order] = np.arange(len(order))
        values = {}
        for name, column in self._values.items():
            of_rows = np.repeat(places, self._counts[name])
            rows = np.argsort(of_rows, kind="stable")[(of_rows < 0).sum() :]
            values[name] = column[rows]
        return RecordTable(values, {name: column[order] for name, column in self._counts.items()})


class KeyedRecords:
    """Records by image key, packed as they come.

    Args:
        width: number of records that each image has.
    """

    def __init__(self, width: int) -> None:
        self._pending: dict[str, Sequence[Record]] = {}
        self._keys: list[str] = []
        self._tables: list[list[RecordTable]] = [[] for _ in range(width)]

    def add(self, key: str, records: Sequence[Record]) -> None:
        """Take the records of one image; those of a key seen before are replaced."""
        self._pending[key] = records
        if len(self._pending) >= _CHUNK:
            self._pack()

    def _pack(self) -> None:
        self._keys += self._pending
        for index, tables in enumerate(self._tables):
            tables.append(RecordTable.of([records[index] for records in self._pending.values()]))
        self._pending = {}

    def gather(self, *, distributed: bool = True) -> list[RecordTable] | None:
        """Tables in the order of image keys: all processes' on the main one, None elsewhere.

        A key that several processes hold (samplers may repeat images) counts once.

        Args:
            distributed: False keeps to the images of this process.
        """
        self._pack()
        shares = [(self._keys, [RecordTable.join(tables) for tables in self._tables])]
        if distributed:
            comm.synchronize()
            shares = comm.gather(shares[0], dst=0)
            if not comm.is_main_process():
                return None
        places: dict[str, int] = {}
        start = 0
        for keys, _ in shares:  # the first process's record stands, of one process the last
            places = {key: start + place for place, key in enumerate(keys)} | places
            start += len(keys)
        order = np.array([places[key] for key in sorted(places)], dtype=np.int64)
        columns = zip(*(tables for _, tables in shares), strict=True)
        return [RecordTable.join(tables).take(order) for tables in columns]


class Measure(Protocol):
    """One way of measuring, under the name of its protocol."""

    protocol: str

    def measure(self, pair: Any) -> Record:
        """A small record of one image."""

    def summarise(self, records: RecordTable | Sequence[Record]) -> Metrics:
        """Metrics in per cent, NaN where undefined, from the records in the order of image keys."""


class StreamingEvaluation:
    """Measures a stream of images and gathers over processes.

    Args:
        measures: what to measure; protocols must differ.
    """

    def __init__(self, measures: Sequence[Measure]) -> None:
        names = [measure.protocol for measure in measures]
        if len(set(names)) != len(names):
            raise ValueError(f"protocols must differ, got {names}")
        self.measures = tuple(measures)
        self.reset()

    def reset(self) -> None:
        """Forget every image."""
        self._records = KeyedRecords(len(self.measures))

    def add(self, key: str, pair: Any) -> None:
        """Measure one image; a key seen before is measured again and replaces its record."""
        self._records.add(key, [measure.measure(pair) for measure in self.measures])

    def finish(self, *, distributed: bool = True) -> OrderedDict[str, Metrics]:
        """``{protocol: metrics}`` on the main process, empty on the others.

        Args:
            distributed: False gives every process the figures of its own images.
        """
        tables = self._records.gather(distributed=distributed)
        results: OrderedDict[str, Metrics] = OrderedDict()
        if tables is not None:
            for measure, table in zip(self.measures, tables, strict=True):
                results[measure.protocol] = measure.summarise(table)
        return results


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

"""Records of many images as a few arrays, not as objects: at 118 000 images that is what counts.

A record is a dataclass of arrays whose first axis counts rows (predictions, objects, ...), a number
that may differ between images and fields. `KeyedRecords` packs every `_CHUNK` images: rows of one
field follow each other in one array of the smallest type that holds them without loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.utils import comm

_CHUNK = 128  # images whose records are objects until they are packed
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


def _concatenate(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


class RecordTable:
    """The records of some images, field by field.

    Args:
        values: field name to the rows of all images, one image after another.
        counts: field name to (images,) int, the rows of each image.
        images: number of images.
    """

    def __init__(
        self, values: dict[str, np.ndarray], counts: dict[str, np.ndarray], *, images: int
    ) -> None:
        self._values = values
        self._counts = counts
        self._images = images

    @classmethod
    def of(cls, records: RecordTable | Sequence[Any]) -> RecordTable:
        """Pack records (dataclasses of one type); a table is returned as it is."""
        if isinstance(records, cls):
            return records
        names = list(vars(records[0])) if len(records) else []
        columns = {name: [np.asarray(getattr(r, name)) for r in records] for name in names}
        return cls(
            {name: _narrow(np.concatenate(rows)) for name, rows in columns.items()},
            {name: _narrow(np.array([len(r) for r in rows])) for name, rows in columns.items()},
            images=len(records),
        )

    @classmethod
    def join(cls, tables: Sequence[RecordTable]) -> RecordTable:
        """One table after another."""
        filled = [table for table in tables if len(table)]
        names = list(filled[0]._values) if filled else []
        return cls(
            {name: _concatenate([t._values[name] for t in filled]) for name in names},
            {name: _concatenate([t._counts[name] for t in filled]) for name in names},
            images=sum(len(table) for table in filled),
        )

    def __len__(self) -> int:
        return self._images

    def column(self, name: str, dtype: type) -> np.ndarray:
        """The rows of a field over all images; (0,) without images."""
        return self._values.get(name, np.zeros(0, dtype)).astype(dtype, copy=False)

    def counts(self, name: str) -> np.ndarray:
        """(images,) int64, the rows of each image in a field."""
        return self._counts.get(name, np.zeros(0)).astype(np.int64)

    def take(self, order: np.ndarray) -> RecordTable:
        """The images at these positions, in this order."""
        if np.array_equal(order, np.arange(len(self))):
            return self
        values = {}
        for name, column in self._values.items():
            counts = self.counts(name)
            starts = np.cumsum(counts) - counts
            chosen = counts[order]
            ends = np.cumsum(chosen)
            rows = np.repeat(starts[order] - (ends - chosen), chosen)
            rows += np.arange(len(rows))
            values[name] = column[rows]
        counts = {name: column[order] for name, column in self._counts.items()}
        return RecordTable(values, counts, images=len(order))


def _last_of_each(keys: np.ndarray) -> np.ndarray:
    """Position at which each key occurs last, in the order of keys."""
    _, index = np.unique(keys[::-1], return_index=True)
    return len(keys) - 1 - index


class KeyedRecords:
    """Records by image key, packed as they come.

    Args:
        width: number of records that each image has.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._pending: dict[str, tuple[Any, ...]] = {}
        self._chunks: list[tuple[np.ndarray, tuple[RecordTable, ...]]] = []

    def add(self, key: str, records: Sequence[Any]) -> None:
        """Take the records of one image; those of a key seen before are replaced."""
        self._pending[key] = tuple(records)
        if len(self._pending) >= _CHUNK:
            self._pack()

    def _pack(self) -> None:
        if self._pending:
            keys = np.array([key.encode("utf-8", "surrogatepass") for key in self._pending])
            columns = zip(*self._pending.values(), strict=True)
            self._chunks.append((keys, tuple(RecordTable.of(column) for column in columns)))
            self._pending = {}

    def _joined(self) -> tuple[np.ndarray, tuple[RecordTable, ...]]:
        self._pack()
        if len(self._chunks) != 1:
            keys = [keys for keys, _ in self._chunks] or [np.zeros(0, dtype="S1")]
            tables = [tables for _, tables in self._chunks]
            joined = [RecordTable.join([t[i] for t in tables]) for i in range(self._width)]
            self._chunks = [(np.concatenate(keys), tuple(joined))]
        return self._chunks[0]

    def gather(self) -> tuple[RecordTable, ...] | None:
        """All processes' tables in the order of image keys on the main process, None elsewhere.

        A key that several processes hold (samplers may repeat images) counts once.
        """
        share = self._joined()
        comm.synchronize()
        shares = comm.gather(share, dst=0)
        if not comm.is_main_process():
            return None
        lengths = np.array([len(keys) for keys, _ in shares])
        starts = np.cumsum(lengths) - lengths
        latest = np.concatenate(
            [_last_of_each(keys) + start for (keys, _), start in zip(shares, starts, strict=True)]
        )
        keys = np.concatenate([keys for keys, _ in shares])[latest]
        order = latest[np.unique(keys, return_index=True)[1]]  # byte order is that of the strings
        return tuple(
            RecordTable.join([tables[i] for _, tables in shares]).take(order)
            for i in range(self._width)
        )

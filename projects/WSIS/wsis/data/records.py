"""Dataset dicts in little memory."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from wsis.data.catalog import BoxMode

Record = dict[str, Any]


def _box_mode(number: int) -> Any:
    return BoxMode(number)


class _Pickler(pickle.Pickler):
    # Else pickle looks for the class in detectron2.structures, which imports torchvision.
    dispatch_table = {BoxMode: lambda mode: (_box_mode, (int(mode),))}  # noqa: RUF012


class Records(Sequence[Record]):
    """Dataset dicts as one array of bytes; each is made anew when it is read.

    As dicts, those of COCO (118,000 images, 860,000 annotations) take 2.7 GB, and data-loading
    processes would end up copying them. A slice shares the bytes.

    Args:
        records: read one after another; none of them is kept.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        stream, ends = io.BytesIO(), [0]
        for record in records:
            head = record | {"annotations": ()} if "annotations" in record else record
            for part in (head, record.get("annotations")):
                _Pickler(stream, protocol=pickle.HIGHEST_PROTOCOL).dump(part)
                ends.append(stream.tell())
        self._bytes = np.frombuffer(stream.getbuffer(), dtype=np.uint8)
        self._ends = np.array(ends, dtype=np.int64)
        self._rows = np.arange(len(ends) // 2)
        self._whole = True

    @property
    def heads(self) -> Records:
        """The same without annotations (() where there are some), which is read much faster."""
        found = copy.copy(self)
        found._whole = False
        return found

    def where(self, keeps: Callable[[Record], Any]) -> Records:
        """Those for which ``keeps`` says so."""
        return self[np.array([bool(keeps(record)) for record in self], dtype=bool)]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        """The dict at an index; `Records` for a slice or an array of indices or bools."""
        if isinstance(index, slice | np.ndarray):
            found = copy.copy(self)
            found._rows = self._rows[index]
            return found
        row = 2 * int(self._rows[index])
        start, middle, end = self._ends[row : row + 3]
        record = pickle.loads(self._bytes[start:middle].data)  # noqa: S301  (made above)
        if self._whole and "annotations" in record:
            record["annotations"] = pickle.loads(self._bytes[middle:end].data)  # noqa: S301
        return record


def compact(records: Iterable[Record]) -> Records:
    """The same dicts as `Records`."""
    return records if isinstance(records, Records) else Records(records)


def heads_of(records: Sequence[Record]) -> Sequence[Record]:
    """The same dicts, without annotations if these cost time to read."""
    return records.heads if isinstance(records, Records) else records

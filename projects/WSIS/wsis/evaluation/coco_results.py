"""Predictions in COCO's result format, written while they stream by.

Each process appends to a file of its own in the output folder (which all processes share, as they
share the run folder); the main process joins them, ordered by image key, into one JSON.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from detectron2.utils import comm

from wsis.data.files import atomic_write
from wsis.evaluation.coco import xywh_of_prediction
from wsis.evaluation.records import KeyedRecords
from wsis.evaluation.streaming import InstancePrediction
from wsis.layers.run_lengths import encode_mask

FILE_NAME = "coco_instances_results.json"  # as Detectron2 calls it


def to_coco_results(
    prediction: InstancePrediction, image_id: int | str, *, category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """One entry per instance: image_id, category_id, bbox (x, y, w, h), score, segmentation (RLE).

    Args:
        prediction: instances of one image.
        image_id: the JSON's image id.
        category_ids: the JSON's category id of each class.
    """
    boxes = xywh_of_prediction(prediction).tolist()
    entries = [
        {
            "image_id": image_id,
            "category_id": int(category_ids[int(number)]),
            "bbox": box,
            "score": float(score),
        }
        for number, score, box in zip(prediction.classes, prediction.scores, boxes, strict=True)
    ]
    if prediction.masks is not None:
        for entry, mask in zip(entries, prediction.masks, strict=True):
            entry["segmentation"] = encode_mask(mask)
    return entries


@dataclass(frozen=True)
class _Place:
    """Where the results of an image are, (1, 3) int64: process, offset, bytes."""

    place: np.ndarray


def _part_name(rank: int) -> str:
    return f".{FILE_NAME}.{rank}.tmp"


class CocoResultWriter:
    """Collects results in files, not in memory.

    Args:
        folder: where ``coco_instances_results.json`` goes; created.
        category_ids: the JSON's category id of each class.
    """

    def __init__(self, folder: str | os.PathLike[str], *, category_ids: Sequence[int]) -> None:
        self.folder = Path(folder)
        self.category_ids = tuple(category_ids)
        self._stream: IO[bytes] | None = None
        self._places = KeyedRecords(1)

    def reset(self) -> None:
        """Forget every image."""
        self._close()
        self._places = KeyedRecords(1)

    def add(self, key: str, image_id: int | str, prediction: InstancePrediction) -> None:
        """Append the results of one image."""
        if self._stream is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / _part_name(comm.get_rank())
            self._stream = open(path, "wb")  # noqa: SIM115  (closed by _close)
        entries = to_coco_results(prediction, image_id, category_ids=self.category_ids)
        data = ",\n".join(json.dumps(entry, allow_nan=False) for entry in entries).encode()
        place = np.array([[comm.get_rank(), self._stream.tell(), len(data)]])
        self._places.add(key, [_Place(place)])
        self._stream.write(data)

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def finish(self) -> Path | None:
        """Join all processes' results; the file's path on the main process, None elsewhere."""
        self._close()
        tables = self._places.gather()
        if tables is None:
            return None
        places = tables[0].column("place", np.int64).reshape(-1, 3)
        path = self.folder / FILE_NAME
        parts: dict[int, IO[bytes]] = {}
        try:
            with atomic_write(path) as stream:
                stream.write(b"[")
                separator = b"\n"
                for rank, offset, length in places.tolist():
                    if length:
                        if rank not in parts:
                            parts[rank] = open(self.folder / _part_name(rank), "rb")  # noqa: SIM115
                        part = parts[rank]
                        part.seek(offset)
                        stream.write(separator + part.read(length))
                        separator = b",\n"
                stream.write(b"\n]\n")
        finally:
            for part in parts.values():
                part.close()
        for rank in set(places[:, 0].tolist()):
            (self.folder / _part_name(rank)).unlink(missing_ok=True)
        return path

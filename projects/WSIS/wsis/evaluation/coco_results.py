"""Predictions in COCO's result format, written while they stream by.

Each process appends to a file of its own in the output folder (which all processes share, as they
share the run folder); the main process joins them, ordered by image key, into one JSON.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from detectron2.utils import comm

from wsis.data.files import atomic_write
from wsis.evaluation.coco import encode_rle, xywh_of_prediction
from wsis.evaluation.streaming import InstancePrediction, gather_by_key

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
        for entry, rle in zip(entries, encode_rle(prediction.masks), strict=True):
            entry["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
    return entries


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
        self._places: dict[str, tuple[str, int, int]] = {}  # key: file, offset, bytes

    def reset(self) -> None:
        """Forget every image."""
        self._close()
        self._places = {}

    def add(self, key: str, image_id: int | str, prediction: InstancePrediction) -> None:
        """Append the results of one image."""
        if self._stream is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            name = f".{FILE_NAME}.{comm.get_rank()}.tmp"
            self._stream = open(self.folder / name, "wb")  # noqa: SIM115  (closed by _close)
        entries = to_coco_results(prediction, image_id, category_ids=self.category_ids)
        data = ",\n".join(json.dumps(entry, allow_nan=False) for entry in entries).encode()
        name = os.path.basename(self._stream.name)
        self._places[key] = (name, self._stream.tell(), len(data))
        self._stream.write(data)

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def finish(self) -> Path | None:
        """Join all processes' results; the file's path on the main process, None elsewhere."""
        self._close()
        places = gather_by_key(self._places)
        if places is None:
            return None
        path = self.folder / FILE_NAME
        parts: dict[str, IO[bytes]] = {}
        try:
            with atomic_write(path) as stream:
                stream.write(b"[")
                separator = b"\n"
                for name, offset, length in places.values():
                    if length:
                        part = parts.get(name) or open(self.folder / name, "rb")  # noqa: SIM115
                        parts[name] = part
                        part.seek(offset)
                        stream.write(separator + part.read(length))
                        separator = b",\n"
                stream.write(b"\n]\n")
        finally:
            for part in parts.values():
                part.close()
        for name in {place[0] for place in places.values()}:
            (self.folder / name).unlink(missing_ok=True)
        return path

"""Boxes that a detector found, as annotations: COCO's result format, as Detectron2 writes it.

Detectron2's ``COCOEvaluator`` leaves it as ``inference/coco_instances_results.json``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode

from wsis.data.checks import clip_box, field, integer, load_json, naming, number, numbers, short
from wsis.errors import DataError

Record = dict[str, Any]
logger = logging.getLogger(__name__)


def _box(value: Any, size: tuple[int, int]) -> list[float] | None:
    """The part of a box inside its image; None if that has no area."""
    x, y, width, height = numbers(value, 4)
    try:
        x0, y0, x1, y1 = clip_box((x, y, x + width, y + height), size)
    except ValueError:
        return None
    return [x0, y0, x1 - x0, y1 - y0]


def put_detections(
    records: Sequence[Record],
    path: str | os.PathLike[str],
    *,
    class_ids: Mapping[int, int],
    min_score: float = 0.5,
) -> list[Record]:
    """New dataset dicts, whose annotations are the detections of their images.

    Args:
        records: dataset dicts with ``image_id``, ``height`` and ``width``; not changed.
        path: a JSON list of ``{"image_id", "category_id", "bbox" [x, y, w, h], "score"}``. Masks in
            it are ignored. Detections in other images are left out, and boxes without an area
            inside their image, which detectors do make.
        class_ids: category id to class id.
        min_score: detections with a lower score are left out.

    Raises:
        DataError: naming the file, the detection and the field.
    """
    path = Path(path)
    content = load_json(path)
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise DataError(f"{path} is not a list of detections but {short(content)}")
    by_id = {record["image_id"]: dict(record) | {"annotations": []} for record in records}
    empty = 0
    for index, entry in enumerate(content):
        with naming(f"{path}: detection {index}"):
            identity, score = field(entry, "image_id", integer), field(entry, "score", number)
            if identity not in by_id or score < min_score:
                continue
            category = field(entry, "category_id", integer)
            if category not in class_ids:
                raise ValueError(f"category_id {category} is not among the categories")
            record = by_id[identity]
            box = field(entry, "bbox", _box, (record["height"], record["width"]))
        if box is None:
            empty += 1
            continue
        found = {"id": index + 1, "bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "iscrowd": 0}
        record["annotations"].append(found | {"category_id": class_ids[category], "score": score})
    if empty:
        logger.warning("%s: %d boxes without an area in their image are left out", path, empty)
    for record in by_id.values():
        record["image_labels"] = sorted({a["category_id"] for a in record["annotations"]})
    return list(by_id.values())

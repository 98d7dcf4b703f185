"""Boxes that a detector found, as annotations: COCO's result format, as Detectron2 writes it.

Detectron2's ``COCOEvaluator`` leaves it as ``inference/coco_instances_results.json``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wsis.data.catalog import BoxMode
from wsis.data.checks import clip_box, field, identity, load_json, number, numbers, short
from wsis.data.problems import FieldError, Problems, collecting
from wsis.data.written_forms import Stated, require_xywh
from wsis.errors import DataError

Record = dict[str, Any]


def put_detections(
    records: Sequence[Record],
    path: str | os.PathLike[str],
    *,
    class_ids: Mapping[int | str, int],
    min_score: float = 0.5,
    problems: Problems | None = None,
) -> list[Record]:
    """New dataset dicts, whose annotations are the detections of their images.

    Args:
        records: dataset dicts with ``image_id``, ``height`` and ``width``; not changed.
        path: a JSON list of ``{"image_id", "category_id", "bbox" [x, y, w, h], "score"}``. Masks in
            it are ignored. Detections in other images are left out, and boxes without an area
            inside their image, which detectors do make.
        class_ids: category id to class id.
        min_score: detections with a lower score are left out.
        problems: collects what is wrong, which is then left out; None: it is raised.

    Raises:
        DataError: no such file, or boxes of another form; without ``problems`` naming the file, the
            detection and the field.
    """
    path = Path(path)
    content = load_json(path)
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise DataError(f"{path} is not a list of detections but {short(content)}")
    by_id = {record["image_id"]: dict(record) | {"annotations": []} for record in records}
    empty, stated = 0, list[Stated]()
    with collecting(problems) as told:
        for index, entry in enumerate(content):
            with told.leaving_out(file=path, annotation=index):
                image, score = field(entry, "image_id", identity), field(entry, "score", number)
                if image not in by_id or score < min_score:
                    continue
                category = field(entry, "category_id", identity)
                if category not in class_ids:
                    raise FieldError("category_id", f"{category} is not among the categories")
                record = by_id[image]
                size = record["height"], record["width"]
                stated.append(Stated(image, index, field(entry, "bbox", numbers, 4), size))
                try:
                    x0, y0, x1, y1 = clip_box(stated[-1].corners, size)
                except ValueError:
                    empty += 1
                    continue
                box = [x0, y0, x1 - x0, y1 - y0]
                found = {"id": index + 1, "bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "iscrowd": 0}
                found |= {"category_id": class_ids[category], "score": score}
                record["annotations"].append(found)
        require_xywh(stated, path)
        if empty:
            message = f"boxes without an area in their image, left out: {empty}"
            told.warning(message, file=path, left_out=empty)
    for record in by_id.values():
        record["image_labels"] = sorted({a["category_id"] for a in record["annotations"]})
    return list(by_id.values())

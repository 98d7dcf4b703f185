"""Reads predictions of any network in COCO's result format."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog

from wsis.data.builtin import class_names, get_dataset_dicts
from wsis.data.checks import load_json
from wsis.data.working_size import file_size, resize_mask, scale_boxes
from wsis.errors import DataError
from wsis.evaluation.predictions import InstancePrediction
from wsis.layers.run_lengths import check_rle, decode_rle


def _read(path: Path) -> list[dict[str, Any]]:
    entries = load_json(path)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{path} is not in COCO's result format, a list of objects")
    return entries


def read_coco_results(path: Path, name: str) -> Callable[[Mapping[str, Any]], InstancePrediction]:
    """Predictions for a registered data set, image by image.

    Args:
        path: a list of ``{"image_id", "category_id", "score", "segmentation" and/or "bbox"}``;
            category ids are the data set's own, masks are run lengths, boxes are XYWH.
        name: of the data set.

    Returns:
        A function from a dataset dict to the instances predicted for it, at the dict's size.

    Raises:
        DataError: the file is missing or damaged, or names an image or a category that the data set
            does not have.
    """
    images = {record["image_id"] for record in get_dataset_dicts(name)}  # a JSON knows its ids now
    known = MetadataCatalog.get(name).get("thing_dataset_id_to_contiguous_id")
    class_ids = known or {number + 1: number for number in range(len(class_names(name)))}
    by_image: defaultdict[Any, list[dict[str, Any]]] = defaultdict(list)
    for number, entry in enumerate(_read(path)):
        where = f"{path}: entry {number}"
        if not all(isinstance(entry.get(k), int | str) for k in ("image_id", "category_id")):
            raise DataError(f"{where}: image_id and category_id are numbers or words")
        if entry.get("image_id") not in images:
            raise DataError(f"{where}: {name} has no image with the id {entry.get('image_id')!r}")
        if entry.get("category_id") not in class_ids:
            raise DataError(f"{where}: {name} has no category {entry.get('category_id')!r}")
        if isinstance(entry.get("score"), bool) or not isinstance(entry.get("score"), int | float):
            raise DataError(f"{where}: score is {entry.get('score')!r}, not a number")
        by_image[entry["image_id"]].append(entry)

    def find(record: Mapping[str, Any]) -> InstancePrediction:
        size, entries = (int(record["height"]), int(record["width"])), by_image[record["image_id"]]
        given = file_size(record)
        classes = np.array([class_ids[e["category_id"]] for e in entries], dtype=np.int64)
        scores = np.array([e["score"] for e in entries], dtype=np.float64)
        masks = boxes = None
        try:
            if all("segmentation" in entry for entry in entries):
                masks = np.zeros((len(entries), *size), dtype=bool)
                for mask, entry in zip(masks, entries, strict=True):
                    rle = check_rle(entry["segmentation"], given)
                    mask[:] = resize_mask(decode_rle(rle), size)
            if all("bbox" in entry for entry in entries):
                boxes = np.array([e["bbox"] for e in entries], dtype=np.float64).reshape(-1, 4)
                boxes[:, 2:] += boxes[:, :2]
                boxes = scale_boxes(boxes.astype(np.float32), given, size)  # as Detectron2's
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}: image {record['image_id']}: {error}") from None
        return InstancePrediction(classes, scores, masks, boxes)

    return find

"""Reads predictions of any network in COCO's result format."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wsis.data.builtin import category_ids, get_dataset_dicts
from wsis.data.checks import field, load_json, naming, number, numbers, short
from wsis.data.working_size import file_size, resize_mask, scale_boxes
from wsis.errors import DataError
from wsis.evaluation.predictions import InstancePrediction
from wsis.layers.run_lengths import check_rle, decode_rle, empty_masks


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
    # A JSON knows its category ids now, too. Whoever needs its annotations tells what is broken.
    images = {record["image_id"] for record in get_dataset_dicts(name, "skip")}
    class_ids = {category: number for number, category in enumerate(category_ids(name))}
    by_image: defaultdict[Any, list[dict[str, Any]]] = defaultdict(list)
    for index, entry in enumerate(_read(path)):
        with naming(f"{path}: entry {index}"):
            image, category = entry.get("image_id"), entry.get("category_id")
            if not all(isinstance(identity, int | str) for identity in (image, category)):
                raise ValueError("image_id and category_id are numbers or words")
            if image not in images:
                raise ValueError(f"{name} has no image with the id {short(image)}")
            if category not in class_ids:
                raise ValueError(f"{name} has no category {short(category)}")
            field(entry, "score", number)
            if "bbox" in entry:
                field(entry, "bbox", numbers, 4)
        by_image[image].append(entry)

    def find(record: Mapping[str, Any]) -> InstancePrediction:
        size, entries = (int(record["height"]), int(record["width"])), by_image[record["image_id"]]
        given = file_size(record)
        classes = np.array([class_ids[e["category_id"]] for e in entries], dtype=np.int64)
        scores = np.array([e["score"] for e in entries], dtype=np.float64)
        masks = boxes = None
        try:
            if all("segmentation" in entry for entry in entries):
                masks = empty_masks(len(entries), size)
                for mask, entry in zip(masks, entries, strict=True):
                    rle = check_rle(entry["segmentation"], given)
                    mask[:] = resize_mask(decode_rle(rle), size)
            if all("bbox" in entry for entry in entries):
                boxes = np.array([e["bbox"] for e in entries], dtype=np.float64).reshape(-1, 4)
                boxes[:, 2:] += boxes[:, :2]
                boxes = scale_boxes(boxes.astype(np.float32), given, size)  # as Detectron2's
        except ValueError as error:
            raise DataError(f"{path}: image {record['image_id']}: {error}") from None
        return InstancePrediction(classes, scores, masks, boxes)

    return find

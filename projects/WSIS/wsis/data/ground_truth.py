"""True masks of an image, from VOC's PNG files or from COCO annotations, in one form.

Shapes: K objects, H and W of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from wsis.data.checks import naming
from wsis.data.images import read_label_map
from wsis.data.transforms import resize_label
from wsis.data.working_size import file_size, resize_mask
from wsis.errors import DataError
from wsis.layers.run_lengths import (
    RLE,
    check_rle,
    decode_rle,
    decode_rles,
    empty_masks,
    encode_masks,
    polygons_to_rle,
    rle_areas,
)

VOID = 255


@dataclass(frozen=True)
class GroundTruth:
    """The true objects of an image.

    Attributes:
        masks: (K, H, W) bool.
        classes: (K,) int64, class ids 0..C-1.
        void: (H, W) bool, pixels that belong to nothing certain: 255 in VOC, crowds in COCO.
        difficult: (K,) bool.
        label: (H, W) int32, the stored semantic label map of a VOC-type set, or None.
        encoded: the masks as run lengths, where they came so.
    """

    masks: np.ndarray
    classes: np.ndarray
    void: np.ndarray
    difficult: np.ndarray
    label: np.ndarray | None = None
    encoded: Sequence[RLE] | None = None

    @cached_property
    def rles(self) -> Sequence[RLE]:
        """The masks as run lengths, encoded once."""
        return encode_masks(self.masks) if self.encoded is None else self.encoded

    def semantic(self, num_classes: int) -> np.ndarray:
        """(H, W) int64: 0 background, class id + 1, 255 void; smaller masks lie on top of larger.

        Raises:
            DataError: a class id is not below ``num_classes``.
        """
        if self.label is not None:
            result = self.label.astype(np.int64)
            wrong = np.unique(result[(result > num_classes) & (result != VOID)])
        else:
            result = np.where(self.void, VOID, 0).astype(np.int64)
            for index in np.argsort(-rle_areas(self.rles), kind="stable"):
                result[self.masks[index]] = int(self.classes[index]) + 1
            wrong = self.classes[self.classes >= num_classes] + 1
        if wrong.size:
            raise DataError(
                f"label {int(wrong[0])} in a ground truth of {num_classes} classes; "
                "compare the class list with the data set's"
            )
        return result


def has_ground_truth(dataset_dict: dict[str, Any]) -> bool:
    """Whether `load_ground_truth` will find masks (or the certainty that there is no object)."""
    if "instance_file_name" in dataset_dict:
        return True
    if "annotations" not in dataset_dict:
        return not dataset_dict.get("image_labels", True)
    if not dataset_dict["annotations"] and dataset_dict.get("image_labels"):
        return False
    return all("segmentation" in a or a.get("iscrowd") for a in dataset_dict["annotations"])


def load_ground_truth(dataset_dict: dict[str, Any]) -> GroundTruth:
    """Read the true masks that a dataset dict refers to.

    In VOC-type sets (``instance_file_name``) each value of that PNG except 0 and 255 is an object,
    in ascending order; numbers may be missing. Its class is the most frequent one under the object
    in ``semantic_file_name``, else that of the XML's object of the same number. Other sets have
    ``annotations`` with polygons or RLE; crowds are void.

    Raises:
        DataError: a file is missing or damaged, sizes differ, an object has no class, or there
            are no masks.
    """
    where = f"image {dataset_dict.get('image_id')} ({dataset_dict.get('file_name')})"
    if "instance_file_name" in dataset_dict:
        with naming(where):
            return _from_png(dataset_dict)
    if not has_ground_truth(dataset_dict):
        raise DataError(f"{where} has no true masks; choose a data set with masks for this")
    with naming(where):
        return _from_annotations(dataset_dict)


def _size(dataset_dict: dict[str, Any]) -> tuple[int, int]:
    return int(dataset_dict["height"]), int(dataset_dict["width"])


def _from_png(dataset_dict: dict[str, Any]) -> GroundTruth:
    path, size = dataset_dict["instance_file_name"], _size(dataset_dict)
    given = file_size(dataset_dict)
    instances, label = read_label_map(path, size=given, objects=True), None
    if "semantic_file_name" in dataset_dict:
        label = read_label_map(dataset_dict["semantic_file_name"], size=given)
    ids = np.unique(instances)
    ids = ids[(ids != 0) & (ids != VOID)]
    annotations = dataset_dict.get("annotations", [])
    masks = empty_masks(len(ids), size)
    classes, difficult = [], []
    for mask, identity in zip(masks, ids.tolist(), strict=True):
        known = annotations[identity - 1] if identity <= len(annotations) else {}
        of_file = instances == identity
        mask[:] = resize_mask(of_file, size)
        below = np.zeros(0, dtype=np.int64) if label is None else label[of_file]
        votes = np.bincount(below[(below > 0) & (below != VOID)])
        if not votes.size and not known:
            raise DataError(
                f"{path}: object {identity} has no class in SegmentationClass nor in the XML"
            )
        classes.append(int(votes.argmax()) - 1 if votes.size else int(known["category_id"]))
        same = known.get("category_id") == classes[-1]
        difficult.append(same and bool(known.get("difficult", 0)))
    void = instances == VOID
    if label is not None:
        void = void | ((label == VOID) & (instances == 0))
    return GroundTruth(
        masks=masks,
        classes=np.array(classes, dtype=np.int64),
        void=resize_mask(void, size),
        difficult=np.array(difficult, dtype=bool),
        label=None if label is None else resize_label(label, size),
    )


def _rle(record: dict[str, Any], index: int, size: tuple[int, int]) -> RLE:
    annotation = record["annotations"][index]
    found = annotation["segmentation"]
    try:
        return check_rle(found, size) if isinstance(found, dict) else polygons_to_rle(found, size)
    except (ValueError, TypeError, IndexError) as error:
        raise DataError(
            f"image {record.get('image_id')}, annotation {annotation.get('id', index)}: "
            f"segmentation {error}"
        ) from error


def _from_annotations(dataset_dict: dict[str, Any]) -> GroundTruth:
    size = _size(dataset_dict)
    annotations = dataset_dict.get("annotations", [])
    objects = [i for i, a in enumerate(annotations) if not a.get("iscrowd")]
    rles = [_rle(dataset_dict, index, size) for index in objects]
    masks, void = decode_rles(rles, size), np.zeros(size, dtype=bool)
    for index, annotation in enumerate(annotations):
        if annotation.get("iscrowd") and "segmentation" in annotation:
            void |= decode_rle(_rle(dataset_dict, index, size))
    return GroundTruth(
        masks=masks,
        classes=np.array([annotations[i]["category_id"] for i in objects], dtype=np.int64),
        void=void & ~masks.any(axis=0),
        difficult=np.array([bool(annotations[i].get("difficult", 0)) for i in objects], dtype=bool),
        encoded=rles,
    )

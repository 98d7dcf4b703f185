"""Readers for what the original IRNet code wrote: pickled ``.npy`` dictionaries and a COCO export.

Pickles run code when loaded; these are read by the restricted unpickler of `wsis.pickles`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from wsis.data.checks import field, integer, load_json, naming, number, numbers, short
from wsis.data.images import MOST_PIXELS
from wsis.errors import DataError
from wsis.layers.run_lengths import check_outlines, encode_mask
from wsis.pickles import load_pickle, read_pickle


def read_pickled_dict(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read a ``.npy`` file that holds a dictionary of arrays or tensors.

    Raises:
        DataError: not such a file, or it asks for anything beyond arrays and tensors.
    """
    return read_pickle(path, "result file of the original IRNet", _load_dictionary)


def _load_dictionary(stream: IO[bytes]) -> dict[str, np.ndarray]:
    major, minor = np.lib.format.read_magic(stream)
    read = getattr(np.lib.format, f"read_array_header_{major}_{minor}", None)
    if read is None:
        raise ValueError(f"it has the unusual version {major}.{minor}")
    shape, _, dtype = read(stream)
    if shape != () or not dtype.hasobject:
        raise ValueError("it holds a plain array, not a dictionary")
    content = load_pickle(stream)
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not a dictionary")
    arrays = {}
    for name, array in content.items():
        if not isinstance(name, str) or not isinstance(array, np.ndarray):
            raise ValueError(f"entry {short(name)} is a {type(array).__name__}, not an array")
        if array.dtype.kind not in "biuf":
            raise ValueError(f"entry {name!r} holds {array.dtype}")
        arrays[name] = np.asarray(array)
    return arrays


def _take(path: Any, arrays: Mapping[str, np.ndarray], name: str, dims: int) -> np.ndarray:
    if name not in arrays:
        raise DataError(
            f"{path}: {name} is missing; it has {', '.join(sorted(arrays)) or 'nothing'}"
        )
    value = arrays[name]
    if value.ndim != dims:
        raise DataError(f"{path}: {name} has {value.ndim} dimensions, not {dims}")
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise DataError(f"{path}: {name} holds numbers that are not finite")
    return value


def read_irnet_cam(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read a CAM file of the original (step ``make_cam``) as the product "cam".

    ``keys`` (K,) int64, ``cam`` (K, h, w) float32 at stride 4, ``high_res`` (K, H, W) float32.

    Raises:
        DataError: not such a file.
    """
    arrays = read_pickled_dict(path)
    keys = _take(path, arrays, "keys", 1).astype(np.int64)
    cam = _take(path, arrays, "cam", 3).astype(np.float32)
    high_res = _take(path, arrays, "high_res", 3).astype(np.float32)
    if not len(keys) == len(cam) == len(high_res) or (keys < 0).any():
        raise DataError(f"{path}: {len(keys)} keys, {len(cam)} and {len(high_res)} maps")
    height, width = high_res.shape[1:]
    if len(keys) and cam.shape[1:] != ((height - 1) // 4 + 1, (width - 1) // 4 + 1):
        raise DataError(f"{path}: cam {cam.shape[1:]} is not a quarter of high_res {height, width}")
    return {"keys": keys, "cam": cam, "high_res": high_res}


def read_irnet_instances(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read an instance file of the original (step ``make_ins_seg_labels``): product "instances".

    ``classes`` (n,) int64, ``scores`` (n,) float32, ``masks`` (n, H, W) bool.

    Raises:
        DataError: not such a file.
    """
    arrays = read_pickled_dict(path)
    scores = _take(path, arrays, "score", 1).astype(np.float32)
    classes = _take(path, arrays, "class", 1).astype(np.int64)
    masks = _take(path, arrays, "mask", 3).astype(bool)
    if not len(scores) == len(classes) == len(masks) or (classes < 0).any():
        raise DataError(
            f"{path}: {len(scores)} scores, {len(classes)} classes and {len(masks)} masks"
        )
    return {"classes": classes, "scores": scores, "masks": masks}


def _toggle_inside(mask: np.ndarray, polygon: np.ndarray) -> None:
    """Flip the pixels whose centres (at whole numbers) lie inside a polygon (n, 2), x and y."""
    height, width = mask.shape
    for (xa, ya), (xb, yb) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        low, high = min(ya, yb), max(ya, yb)
        for row in range(max(0, math.ceil(low)), min(height, math.ceil(high))):
            crossing = xa + (row - ya) * (xb - xa) / (yb - ya)
            start = min(max(0, math.ceil(crossing)), width)
            mask[row, start:] ^= True


def _export_mask(polygons: Any, size: tuple[int, int]) -> np.ndarray:
    """The mask whose outline an exported polygon follows.

    The points are the contour of the mask at level 0.5, with pixel centres at whole numbers, so
    one coordinate of each point ends in .5. One that was negative was set to 0, which is undone
    here. Several outlines combine by the even-odd rule, so holes come back.
    """
    if not isinstance(polygons, list) or not polygons:
        raise ValueError(f"is {short(polygons)}, not a list of polygons")
    mask = np.zeros(size, dtype=bool)
    outlines = [numbers(polygon) for polygon in polygons]
    check_outlines(outlines)
    for polygon in outlines:
        points = np.array(polygon)
        if len(points) < 6 or len(points) % 2 or np.abs(points).max() > 2 * max(size):
            raise ValueError(f"is {short(polygon)}, not a polygon of the image")
        points = points.reshape(-1, 2)
        clipped = (points == np.rint(points)).all(axis=1)
        _toggle_inside(mask, np.where(clipped[:, None] & (points == 0), -0.5, points))
    return mask


def read_irnet_export(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read the COCO-style JSON of the original's export, in spite of its defects (spec 9).

    Its annotation ids start again in every image: they are ignored. Its category ids are class ids
    (0-based) although its categories are numbered from 1. It has no scores.

    Returns:
        One dataset dict an image, in the file's order, with ``image_labels``, and ``annotations``
        with ``category_id`` (class id), ``bbox`` [x, y, w, h] as stored, ``area``,
        ``segmentation`` (RLE), ``iscrowd``.

    Raises:
        DataError: naming the file, the image and the field.
    """
    content = load_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise DataError(f"{path} is not a COCO export: images is missing")
    listed = {name: content.get(name) or [] for name in ("categories", "annotations")}
    if wrong := [name for name, value in listed.items() if not isinstance(value, list)]:
        raise DataError(f"{path} is not a COCO export: {wrong[0]} is no list")
    categories = listed["categories"]
    images: dict[int, dict[str, Any]] = {}
    for index, entry in enumerate(content["images"]):
        with naming(f"{path}: images, number {index}"):
            image = _export_image(entry)
            if image["image_id"] in images:
                raise ValueError(f"id {image['image_id']} occurs twice")
            images[image["image_id"]] = image
    for index, entry in enumerate(listed["annotations"]):
        with naming(f"{path}: annotation number {index}"):
            if not isinstance(entry, dict) or entry.get("image_id") not in images:
                raise ValueError("image_id is no image of the file")
            image = images[entry["image_id"]]
            annotation = _export_annotation(entry, (image["height"], image["width"]))
            if categories and annotation["category_id"] >= len(categories):
                raise ValueError(
                    f"category_id {annotation['category_id']} is not a 0-based class of "
                    f"{len(categories)}; was the file corrected already? Then it is a plain COCO "
                    "file"
                )
        image["annotations"].append(annotation)
        image["image_labels"] = sorted({*image["image_labels"], annotation["category_id"]})
    return list(images.values())


def _export_image(entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise ValueError(f"is {short(entry)}")
    identity, name = field(entry, "id", integer), entry.get("file_name")
    height, width = field(entry, "height", integer), field(entry, "width", integer)
    if height < 1 or width < 1 or height * width > MOST_PIXELS or not isinstance(name, str):
        raise ValueError("file_name, height or width is damaged")
    image = {"file_name": name, "image_id": identity, "height": height, "width": width}
    return image | {"image_labels": [], "annotations": []}


def _export_annotation(entry: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    category = field(entry, "category_id", integer)
    if category < 0:
        raise ValueError(f"category_id is {category}")
    return {
        "category_id": category,
        "iscrowd": 0,
        "bbox": field(entry, "bbox", numbers, 4),
        "area": field(entry, "area", number),
        "segmentation": encode_mask(field(entry, "segmentation", _export_mask, size)),
    }

"""COCO JSON files of users and of ours, checked completely before anybody relies on them.

Beyond COCO, an image may carry ``image_labels`` (category ids or names) and ``image_key`` (the name
of its artifacts, which pseudo labels state), and an annotation
``point`` [x, y], ``score``, ``confidence`` and ``ignore`` (an RLE of pixels that train nothing).
An annotation needs a category and may have any of box, point and mask.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode

from wsis.data.checks import (
    checked,
    clip_box,
    inside,
    integer,
    load_json,
    number,
    numbers,
    short,
)
from wsis.data.images import MAX_PIXELS, read_image_size
from wsis.errors import DataError
from wsis.layers.run_lengths import RLE, check_rle, polygons_to_rle, rle_box

Record = dict[str, Any]


@dataclass(frozen=True)
class CocoFile:
    """A checked COCO JSON file.

    Attributes:
        path: where it came from.
        info: the file's ``info``, or {}.
        class_names: by class id 0..C-1, which is the rank of the category id.
        class_ids: category id to class id.
        images: Detectron2 dataset dicts in ascending image id, ``file_name`` still relative;
            ``image_labels`` and ``image_key`` only where the file states them; annotations keep
            their ``id``.
    """

    path: Path
    info: Record
    class_names: tuple[str, ...]
    class_ids: dict[int, int]
    images: list[Record]


def _entries(path: Path, content: Any, name: str, *, required: bool) -> list[Record]:
    if not isinstance(content, dict):
        raise DataError(f"{path} is not a COCO file: its top level is not an object")
    entries = content.get(name)
    if entries is None and not required:
        return []
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise DataError(f"{path}: {name} is {short(entries)}, not a list of objects")
    return entries


def _categories(path: Path, entries: list[Record]) -> tuple[tuple[str, ...], dict[int, int]]:
    names: dict[int, str] = {}
    for index, entry in enumerate(entries):
        identity = checked(path, f"category {index}", "id", integer, entry.get("id"))
        name = entry.get("name")
        if not isinstance(name, str) or not name:
            raise DataError(f"{path}: category {identity}: name is {short(name)}, not text")
        if identity in names or name in names.values():
            raise DataError(f"{path}: category {identity} ({name}): id or name occurs twice")
        names[identity] = name
    if not names:
        raise DataError(f"{path}: categories is empty; name at least one class")
    ordered = sorted(names)
    return tuple(names[i] for i in ordered), {i: rank for rank, i in enumerate(ordered)}


def _side(value: Any) -> int:
    if integer(value) < 1:
        raise ValueError(f"is {value}; an image has at least one pixel")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"is {short(value)}, not text")
    return value


def _labels(value: Any, names: Sequence[str], class_ids: dict[int, int]) -> list[int]:
    if not isinstance(value, list):
        raise ValueError(f"is {short(value)}, not a list of category ids or names")
    found = set()
    for label in value:
        if isinstance(label, str) and label in names:
            found.add(names.index(label))
        elif not isinstance(label, bool) and isinstance(label, int) and label in class_ids:
            found.add(class_ids[label])
        else:
            raise ValueError(f"holds {short(label)}, which is no category id or name")
    return sorted(found)


def _image(path: Path, entry: Record, root: Path | None, file: tuple) -> Record:
    names, class_ids = file
    identity = entry.get("id")
    if isinstance(identity, bool) or not isinstance(identity, int):
        raise DataError(f"{path}: image {short(identity)}: id is not an integer")
    where = f"image {identity}"
    name = checked(path, where, "file_name", inside, entry.get("file_name"))
    if "height" not in entry and "width" not in entry and root is not None:
        height, width = read_image_size(root / name)
    else:
        height = checked(path, where, "height", _side, entry.get("height"))
        width = checked(path, where, "width", _side, entry.get("width"))
    if height * width > MAX_PIXELS:
        raise DataError(f"{path}: {where}: height and width {height} x {width} are absurd")
    record = {"file_name": name, "image_id": identity, "height": height, "width": width}
    if "image_key" in entry:
        record["image_key"] = checked(path, where, "image_key", _text, entry["image_key"])
    if "image_labels" in entry:
        labels = entry["image_labels"]
        record["image_labels"] = checked(
            path, where, "image_labels", _labels, labels, names, class_ids
        )
    return record | {"annotations": []}


def _polygons(value: list, size: tuple[int, int]) -> list[list[float]]:
    reach = 2 * max(size)  # rasterising costs time and memory in proportion to the outline
    polygons = [numbers(p) for p in value]
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"has a polygon of {len(polygon)} numbers; 6, 8, 10, ... make one")
        if max(map(abs, polygon)) > reach:
            raise ValueError(f"has a polygon point at {max(map(abs, polygon)):g}, far outside")
    return polygons


def _segmentation(value: Any, size: tuple[int, int]) -> list[list[float]] | RLE:
    if isinstance(value, list) and value:
        return _polygons(value, size)
    return check_rle(value, size)


def _xywh(value: Any, size: tuple[int, int]) -> list[float]:
    x, y, width, height = numbers(value, 4)
    if width <= 0 or height <= 0:
        raise ValueError(f"has width {width:g} and height {height:g}")
    corners = (x, y, x + width, y + height)
    x0, y0, x1, y1 = clipped = clip_box(corners, size)
    inside = clipped == list(corners)  # then to the last digit
    return [x, y, width, height] if inside else [x0, y0, x1 - x0, y1 - y0]


def _point(value: Any, size: tuple[int, int]) -> list[float]:
    x, y = numbers(value, 2)
    if not (0 <= x <= size[1] and 0 <= y <= size[0]):
        raise ValueError(f"({x:g}, {y:g}) lies outside its image of {size[1]} x {size[0]}")
    return [x, y]


def _share(value: Any) -> float:
    if not 0 <= number(value) <= 1:
        raise ValueError(f"is {value}, not between 0 and 1")
    return float(value)


def _annotation(path: Path, entry: Record, images: dict[int, Record], classes: dict) -> Record:
    where = f"annotation {entry['id']}"
    try:
        image = images[entry["image_id"]]
    except (KeyError, TypeError):
        raise DataError(
            f"{path}: {where}: image_id {short(entry.get('image_id'))} is no image of the file"
        ) from None
    where = f"image {image['image_id']}, {where}"
    category = checked(path, where, "category_id", integer, entry.get("category_id"))
    if category not in classes:
        raise DataError(f"{path}: {where}: category_id {category} is not among the categories")
    size = (image["height"], image["width"])
    result: Record = {"id": entry["id"], "category_id": classes[category], "iscrowd": 0}
    if entry.get("iscrowd") not in (None, 0, 1):
        raise DataError(f"{path}: {where}: iscrowd is {short(entry['iscrowd'])}, not 0 or 1")
    result["iscrowd"] = int(entry.get("iscrowd") or 0)
    checks = {"bbox": _xywh, "segmentation": _segmentation, "point": _point, "ignore": check_rle}
    for field, check in checks.items():
        if entry.get(field) is not None and entry[field] != []:
            result[field] = checked(path, where, field, check, entry[field], size)
    if result.get("bbox", entry.get("bbox")) != entry.get("bbox"):
        result["unclipped_bbox"] = list(entry["bbox"])  # COCO's evaluation takes it as it is
    for field, read in {"area": number, "score": number, "confidence": _share}.items():
        if entry.get(field) is not None:
            result[field] = checked(path, where, field, read, entry[field])
    if "segmentation" in result and "bbox" not in result:
        mask = result["segmentation"]
        box = rle_box(polygons_to_rle(mask, size) if isinstance(mask, list) else mask)
        result["bbox"] = checked(path, where, "segmentation", _xywh, box, size)
    if "bbox" in result:
        result["bbox_mode"] = BoxMode.XYWH_ABS
    labels = image.get("image_labels")
    if labels is not None and result["category_id"] not in labels:
        raise DataError(
            f"{path}: {where}: category_id {category} contradicts image_labels of the image, "
            "which lack it"
        )
    return result


def _is_empty_proxy(entry: Record) -> bool:
    """A box without area in a file of the original BoxCaseg, which copies those of COCO.

    It has a confidence and no score, and teaches nothing.
    """
    box = entry.get("bbox")
    proxy = "confidence" in entry and "score" not in entry
    return proxy and isinstance(box, list) and len(box) == 4 and 0 in box[2:]


def read_coco(path: str | os.PathLike[str], *, image_root: Path | None = None) -> CocoFile:
    """Read and check a COCO JSON file; where it states no sizes, ``image_root`` has the images.

    Raises:
        DataError: naming the file, the image or annotation id, and the field.
    """
    path = Path(path)
    content = load_json(path)
    image_entries = _entries(path, content, "images", required=True)
    names, class_ids = _categories(path, _entries(path, content, "categories", required=True))
    info = content.get("info")
    images: dict[int, Record] = {}
    for entry in image_entries:
        record = _image(path, entry, image_root, (names, class_ids))
        if record["image_id"] in images:
            raise DataError(f"{path}: image {record['image_id']}: id occurs twice")
        images[record["image_id"]] = record
    seen: set[int] = set()
    for index, entry in enumerate(_entries(path, content, "annotations", required=False)):
        identity = checked(path, f"annotation number {index}", "id", integer, entry.get("id"))
        if identity in seen:
            raise DataError(f"{path}: annotation {identity}: id occurs twice")
        seen.add(identity)
        if _is_empty_proxy(entry):
            continue
        annotation = _annotation(path, entry, images, class_ids)
        images[entry["image_id"]]["annotations"].append(annotation)
    return CocoFile(
        path=path,
        info=info if isinstance(info, dict) else {},
        class_names=names,
        class_ids=class_ids,
        images=[images[i] for i in sorted(images)],
    )


def load_coco_dataset(
    path: str | os.PathLike[str], image_root: str | os.PathLike[str]
) -> tuple[list[Record], tuple[str, ...], dict[int, int]]:
    """Detectron2 dataset dicts of a COCO JSON file, with image labels.

    Returns:
        The dicts, the class names, and category id to class id.

    Raises:
        DataError: as `read_coco`.
    """
    root = Path(image_root)
    file = read_coco(path, image_root=root)
    for record in file.images:
        record["file_name"] = str(root / record["file_name"])
        record.pop("image_key", None)  # the data set has keys of its own
        present = {a["category_id"] for a in record["annotations"]}
        record.setdefault("image_labels", sorted(present))
    return file.images, file.class_names, file.class_ids


class ImageIndex:
    """Finds a dataset dict's image in a file.

    By ``image_key`` where the file states it, else, where keys changed because the data set is
    another selection of the same images, by image id together with the file's name. In files
    without keys (the originals', and older ones of ours) by the name alone: of several images of
    one name that with the longest common end of the paths, then that with the same id.

    Raises:
        DataError: an image key occurs twice.
    """

    def __init__(self, file: CocoFile) -> None:
        self.path = file.path
        self.by_name: dict[str, list[Record]] = {}
        self.by_key: dict[str, Record] = {}
        for image in file.images:
            self.by_name.setdefault(Path(image["file_name"]).name, []).append(image)
            key = image.get("image_key")
            if key in self.by_key:
                raise DataError(f"{file.path}: image {image['image_id']}: image_key {key} again")
            if key is not None:
                self.by_key[key] = image

    def find(self, record: Record) -> Record | None:
        """The image, or None if the file has none for this dict.

        Raises:
            DataError: several images may be meant.
        """
        if not self.by_key:
            return self._find_by_name(record)
        if record["image_key"] in self.by_key:
            return self.by_key[record["image_key"]]
        named = self.by_name.get(Path(record["file_name"]).name, [])
        return next((image for image in named if image["image_id"] == record["image_id"]), None)

    def _find_by_name(self, record: Record) -> Record | None:
        parts = Path(record["file_name"]).parts
        candidates = self.by_name.get(parts[-1], [])
        if len(candidates) < 2:
            return candidates[0] if candidates else None
        ends = [(parts[::-1], Path(c["file_name"]).parts[::-1]) for c in candidates]
        common = [len(os.path.commonprefix(end)) for end in ends]
        best = [c for c, n in zip(candidates, common, strict=True) if n == max(common)]
        if len(best) > 1:
            best = [c for c in best if c["image_id"] == record["image_id"]]
        if len(best) != 1:
            raise DataError(f"{self.path}: file_name: several images may be {record['file_name']}")
        return best[0]

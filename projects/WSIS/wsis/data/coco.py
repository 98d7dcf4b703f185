"""Reads COCO JSON files, of users and of ours, and checks them completely.

Beyond COCO, an image may have ``image_labels`` (category ids or names) and ``image_key`` (the name
of its artifacts, in pseudo labels), and an annotation ``point`` [x, y], ``score``, ``confidence``
and ``ignore`` (an RLE of pixels that train nothing). An annotation needs a category and may have
any of box, point and mask.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode

from wsis.data.checks import (
    clip_box,
    field,
    inside,
    integer,
    load_json,
    naming,
    number,
    numbers,
    short,
)
from wsis.data.images import check_stated_size, read_image_size
from wsis.errors import DataError
from wsis.layers.run_lengths import RLE, check_outlines, check_rle, polygons_to_rle, rle_box

Record = dict[str, Any]


@dataclass(frozen=True)
class CocoFile:
    """A checked COCO JSON file.

    Attributes:
        path: where it came from.
        info: the file's ``info``, or {}.
        class_names: by class id 0..C-1; class ids follow the order of the category ids.
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


def _entries(content: Record, name: str, *, required: bool) -> list[Record]:
    entries = content.get(name)
    if entries is None and not required:
        return []
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise ValueError(f"{name} is {short(entries)}, not a list of objects")
    return entries


def _categories(path: Path, entries: list[Record]) -> dict[int, str]:
    names: dict[int, str] = {}
    for entry in entries:
        with naming(f"{path}: category {short(entry.get('id'))}"):
            identity, name = field(entry, "id", integer), field(entry, "name", _text)
            if identity in names or name in names.values():
                raise ValueError(f"id or name ({name}) occurs twice")
            names[identity] = name
    if not names:
        raise ValueError("categories is empty; name at least one class")
    return dict(sorted(names.items()))


def _side(value: Any) -> int:
    if integer(value) < 1:
        raise ValueError(f"is {value}; an image has at least one pixel")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"is {short(value)}, not text")
    return value


def _labels(value: Any, known: dict[int | str, int]) -> list[int]:
    if not isinstance(value, list):
        raise ValueError(f"is {short(value)}, not a list of category ids or names")
    for label in value:
        if type(label) not in (int, str) or label not in known:
            raise ValueError(f"holds {short(label)}, which is no category id or name")
    return sorted({known[label] for label in value})


def _image(entry: Record, root: Path | None, known: dict[int | str, int]) -> Record:
    identity, name = field(entry, "id", integer), field(entry, "file_name", inside)
    if root is not None and not {"height", "width"} & entry.keys():
        height, width = read_image_size(root / name)
    else:
        stated = field(entry, "height", _side), field(entry, "width", _side)
        height, width = check_stated_size(stated, None if root is None else root / name)
    record = {"file_name": name, "image_id": identity, "height": height, "width": width}
    if "image_key" in entry:
        record["image_key"] = field(entry, "image_key", _text)
    if "image_labels" in entry:
        record["image_labels"] = field(entry, "image_labels", _labels, known)
    return record | {"annotations": []}


def _polygons(value: list, size: tuple[int, int]) -> list[list[float]]:
    reach = 2 * max(size)
    polygons = [numbers(p) for p in value]
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"has a polygon of {len(polygon)} numbers; 6, 8, 10, ... make one")
        if max(map(abs, polygon)) > reach:
            raise ValueError(f"has a polygon point at {max(map(abs, polygon)):g}, far outside")
    check_outlines(polygons)
    return polygons


def _segmentation(value: Any, size: tuple[int, int]) -> list[list[float]] | RLE:
    if isinstance(value, list) and value:
        return _polygons(value, size)
    return check_rle(value, size)


def _xywh(value: Any, size: tuple[int, int]) -> list[float]:
    x, y, width, height = numbers(value, 4)
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


_OF_IMAGE = {"bbox": _xywh, "segmentation": _segmentation, "point": _point, "ignore": check_rle}
_NUMBERS = {"area": number, "score": number, "confidence": _share}


def _annotation(entry: Record, image: Record, class_ids: dict[int, int]) -> Record:
    category = field(entry, "category_id", integer)
    if category not in class_ids:
        raise ValueError(f"category_id {category} is not among the categories")
    crowd = entry.get("iscrowd")
    if crowd not in (None, 0, 1):
        raise ValueError(f"iscrowd is {short(crowd)}, not 0 or 1")
    result = {"id": entry["id"], "category_id": class_ids[category], "iscrowd": int(crowd or 0)}
    size = (image["height"], image["width"])
    for name, check in _OF_IMAGE.items():
        if entry.get(name) not in (None, []):
            result[name] = field(entry, name, check, size)
    if result.get("bbox", entry.get("bbox")) != entry.get("bbox"):
        result["unclipped_bbox"] = list(entry["bbox"])  # COCO's evaluation takes it as it is
    for name, read in _NUMBERS.items():
        if entry.get(name) is not None:
            result[name] = field(entry, name, read)
    if "segmentation" in result and "bbox" not in result:
        mask = result["segmentation"]
        box = rle_box(polygons_to_rle(mask, size) if isinstance(mask, list) else mask)
        result["bbox"] = field({"segmentation": box}, "segmentation", _xywh, size)
    if "bbox" in result:
        result["bbox_mode"] = BoxMode.XYWH_ABS
    if result["category_id"] not in image.get("image_labels", [result["category_id"]]):
        raise ValueError(
            f"category_id {category} contradicts image_labels of the image, which lack it"
        )
    return result


def _is_empty_proxy(entry: Record) -> bool:
    """A box without area in a file of the original BoxCaseg, which copies those of COCO.

    It has a confidence and no score; nothing can be learnt from it.
    """
    box = entry.get("bbox")
    proxy = "confidence" in entry and "score" not in entry
    return proxy and isinstance(box, list) and len(box) == 4 and 0 in box[2:]


def read_coco(path: str | os.PathLike[str], *, image_root: Path | None = None) -> CocoFile:
    """Read and check a COCO JSON file; sizes that it lacks are read from images in ``image_root``.

    Raises:
        DataError: naming the file, the image or annotation id, and the field.
    """
    path = Path(path)
    content = load_json(path)
    with naming(str(path)):
        if not isinstance(content, dict):
            raise ValueError("its top level is not an object; it is no COCO file")
        image_entries = _entries(content, "images", required=True)
        categories = _categories(path, _entries(content, "categories", required=True))
        annotations = _entries(content, "annotations", required=False)
    class_ids = {identity: rank for rank, identity in enumerate(categories)}
    known = class_ids | {categories[identity]: rank for identity, rank in class_ids.items()}
    images: dict[float, Record] = {}
    for entry in image_entries:
        with naming(f"{path}: image {short(entry.get('id'))}"):
            record = _image(entry, image_root, known)
            if record["image_id"] in images:
                raise ValueError("id occurs twice")
            images[record["image_id"]] = record
    seen: set[int] = set()
    for index, entry in enumerate(annotations):
        with naming(f"{path}: annotation number {index}"):
            identity = field(entry, "id", integer)
        found = entry.get("image_id")
        image = images.get(found) if isinstance(found, (int, float)) else None  # 2.0 is 2
        place = f"{path}: " + ("" if image is None else f"image {image['image_id']}, ")
        with naming(f"{place}annotation {identity}"):
            if identity in seen:
                raise ValueError("id occurs twice")
            seen.add(identity)
            if _is_empty_proxy(entry):
                continue
            if image is None:
                raise ValueError(f"image_id {short(found)} is no image of the file")
            image["annotations"].append(_annotation(entry, image, class_ids))
    info = content.get("info")
    return CocoFile(
        path=path,
        info=info if isinstance(info, dict) else {},
        class_names=tuple(categories.values()),
        class_ids=class_ids,
        images=[images[i] for i in sorted(images)],
    )


def load_coco_dataset(
    path: str | os.PathLike[str], image_root: str | os.PathLike[str]
) -> tuple[list[Record], tuple[str, ...], dict[int, int]]:
    """Dataset dicts of a COCO JSON file, with image labels; class names; category id to class id.

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

    In a file with ``image_key`` it goes by the key. Keys change if the data set is another
    selection of the same images: then by image id and file name together. In files without keys
    (the originals') it goes by file name alone: of several images of one name it takes the one
    whose path has the longest common end, then the one with the same id.

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
            DataError: it could be one of several images.
        """
        if not self.by_key:
            return self._find_by_name(record)
        if record["image_key"] in self.by_key:
            return self.by_key[record["image_key"]]
        named = self.by_name.get(Path(record["file_name"]).name, [])
        return next((image for image in named if image["image_id"] == record["image_id"]), None)

    def _find_by_name(self, record: Record) -> Record | None:
        parts = Path(record["file_name"]).parts[::-1]

        def likeness(image: Record) -> tuple[int, bool]:
            end = os.path.commonprefix([parts, Path(image["file_name"]).parts[::-1]])
            return len(end), image["image_id"] == record["image_id"]

        found = sorted(self.by_name.get(parts[0], []), key=likeness)
        if len(found) > 1 and likeness(found[-1]) == likeness(found[-2]):
            raise DataError(f"{self.path}: file_name: several images may be {record['file_name']}")
        return found[-1] if found else None

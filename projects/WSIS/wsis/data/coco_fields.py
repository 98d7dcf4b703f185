"""Checks the categories, images and annotations of a COCO file, one at a time.

Each raises a ValueError that names the field. What several tools write, and what can only mean one
thing, is read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

from wsis.data.catalog import BoxMode
from wsis.data.checks import (
    clip_box,
    field,
    finite,
    identity,
    inside,
    integer,
    number,
    numbers,
    short,
)
from wsis.data.images import check_stated_size, read_image_size
from wsis.data.label_colours import NO_CLASS
from wsis.data.picture_names import PictureFinder
from wsis.data.problems import FieldError, Problems
from wsis.errors import did_you_mean
from wsis.layers.run_lengths import RLE, check_outlines, check_rle, polygons_to_rle, rle_box

Record = dict[str, Any]
Identity = int | str
Note = Callable[..., None]  # takes message, field and left_out of a warning
_FLAGS = {"": 0, "0": 0, "1": 1, "false": 0, "true": 1}
_NO_ROOT = (None, "", "none")  # supercategories of a category that has none


def by_rank(identity: Identity) -> tuple[bool, Identity]:
    """Sorts ids: numbers, then words."""
    return isinstance(identity, str), identity


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"is {short(value)}, not text")
    return value


def _name(value: Any) -> str:
    """A class name; numbers count as their text."""
    return _text(str(value) if type(value) in (int, float) else value)


def used_categories(images: list[Record], annotations: Iterable[Record]) -> set[Any]:
    """Category ids and names that the file uses somewhere, as it writes them."""
    labels = [i["image_labels"] for i in images if isinstance(i.get("image_labels"), list)]
    found = chain((a.get("category_id") for a in annotations), chain.from_iterable(labels))
    return {value for value in found if isinstance(value, int | float | str)}


def read_categories(
    entries: list[Record], used: Callable[[], set[Any]], problems: Problems, source: Any
) -> dict[Identity, str]:
    """Category id to name, in ascending order of the ids; two ids may have one name.

    ``used`` gives what `used_categories` does; it is called where that matters.

    A category that nothing uses is left out if it is the supercategory of others, which Roboflow
    writes, has the name of another one, or is labelme's background.

    Raises:
        ValueError: none is left, an id has two names, or a name two ids that are both used and
            differ in their supercategory.
    """
    names: dict[Identity, str] = {}
    above: dict[Identity, Any] = {}
    message = ""
    for entry in entries:
        try:
            this, name = field(entry, "id", identity), field(entry, "name", _name)
        except FieldError as error:
            message = f"category {short(entry.get('id'))}: {error}"
            problems.error(message, file=source, field=error.field)
            continue
        if names.get(this, name) != name:
            raise ValueError(f"category {this}: id occurs twice, as {names[this]} and {name}")
        if this in names:
            problems.warning(f"category {this} ({name}) occurs twice", file=source, left_out=1)
        names[this], above[this] = name, entry.get("supercategory")
    for this, name in sorted(names.items(), key=lambda item: by_rank(item[0])):
        others, what = [n for n in names if n != this], ""
        if above[this] in _NO_ROOT and any(above[n] == name for n in others):
            what = "the supercategory of others"
        elif any(names[n] == name for n in others):
            what = "the name of another category"
        elif name in NO_CLASS:
            what = "no class"
        if what and not {this, str(this), name} & used():
            del names[this]
            text = f"category {this} ({name}) is {what} and has no annotation: left out"
            problems.warning(text, file=source, left_out=1)
    if not names:
        raise ValueError(message or "categories is empty; name at least one class")
    return _without_doubt(names, above, problems, source)


def _without_doubt(
    names: dict[Identity, str], above: dict[Identity, Any], problems: Problems, source: Any
) -> dict[Identity, str]:
    result = dict(sorted(names.items(), key=lambda item: by_rank(item[0])))
    first: dict[str, Identity] = {}
    for this, name in result.items():
        other = first.setdefault(name, this)
        if above[other] != above[this]:
            raise ValueError(
                f"category {this}: name {name} occurs twice, with different supercategories "
                f"({short(above[other])} in category {other}, {short(above[this])}); give the "
                "classes different names, or both the same supercategory to make them one class"
            )
        if other != this:
            message = f"categories {other} and {this} are both {name}: read as one class"
            problems.warning(message, file=source)
    return result


def _side(value: Any) -> int:
    if isinstance(value, str | float):
        value = identity(value)
    if integer(value) < 1:
        raise ValueError(f"is {value}; an image has at least one pixel")
    return value


def _labels(value: Any, known: dict[Identity, int]) -> list[int]:
    if not isinstance(value, list):
        raise ValueError(f"is {short(value)}, not a list of category ids or names")
    for label in value:
        if type(label) not in (int, str) or label not in known:
            near = did_you_mean(str(label), [name for name in known if isinstance(name, str)])
            raise ValueError(f"holds {short(label)}, which is no category id or name{near}")
    return sorted({known[label] for label in value})


def read_image(entry: Record, finder: PictureFinder | None, known: dict[Identity, int]) -> Record:
    """The dataset dict of an image, without annotations; ``file_name`` is relative.

    A size that is not stated, or stated as 0, is the file's.

    Raises:
        FieldError: naming the field.
        DataError: the file is needed and cannot be read.
    """
    image_id, name = field(entry, "id", identity), entry.get("file_name")
    if finder is None:
        name = field(entry, "file_name", inside).replace("\\", "/")
    else:
        name = field(entry, "file_name", finder.find)
    path = None if finder is None else os.path.join(finder.root, name)
    if path is not None and not (entry.get("height") and entry.get("width")):
        height, width = read_image_size(path)
    else:
        stated = field(entry, "height", _side), field(entry, "width", _side)
        height, width = check_stated_size(stated, path)
    record = {"file_name": name, "image_id": image_id, "height": height, "width": width}
    if "image_key" in entry:
        record["image_key"] = field(entry, "image_key", _text)
    if "image_labels" in entry:
        record["image_labels"] = field(entry, "image_labels", _labels, known)
    return record | {"annotations": []}


def rings(value: list[Any]) -> list[Any]:
    """The polygons in a list that may be a single one, or have its points in pairs."""
    if not isinstance(value[0], list):
        return [value]
    if len(value) == 1 and value[0] and not isinstance(value[0][0], list):  # nearly always
        return value
    lists = [part for part in value if isinstance(part, list)]
    if len(value) >= 3 and len(lists) == len(value) and {*map(len, lists)} == {2}:
        return [[*chain.from_iterable(lists)]]
    paired = (p and isinstance(p, list) and isinstance(p[0], list) for p in value)
    return [
        [*chain.from_iterable(q if isinstance(q, list) else [q] for q in part)] if pairs else part
        for part, pairs in zip(value, paired, strict=True)
    ]


def _polygons(value: list[Any], size: tuple[int, int], note: Note) -> list[list[float]]:
    reach, largest = 2 * max(size), 0.0
    polygons = [finite(p) for p in rings(value)]
    whole = [polygon for polygon in polygons if len(polygon) >= 6]
    for polygon in polygons:
        if len(polygon) % 2 or not whole:
            raise ValueError(f"has a polygon of {len(polygon)} numbers; 6, 8, 10, ... make one")
        far = max(max(polygon), -min(polygon)) if polygon else 0.0
        if far > reach:
            numbers(polygon)
            raise ValueError(f"has a polygon point at {far:g}, far outside")
        largest = max(largest, far)
    if largest <= 1 and any(value % 1 for polygon in polygons for value in polygon):
        raise ValueError("lies within the first pixel, as shares of the sides do; write pixels")
    if len(whole) < len(polygons):
        count = len(polygons) - len(whole)
        text = f"segmentation: polygons of less than 6 numbers beside good ones, left out: {count}"
        note(text, field="segmentation", left_out=count)
    check_outlines(whole, reach)
    return whole


def _segmentation(value: Any, size: tuple[int, int], note: Note) -> list[list[float]] | RLE:
    if isinstance(value, list) and value:
        if len(value) > 1 or not isinstance(value[0], dict):
            return _polygons(value, size, note)
        value = value[0]  # a list of a single RLE
    return check_rle(value, size)


def _xywh(value: Any, size: tuple[int, int], note: Note | None = None) -> list[float]:
    x, y, width, height = finite(value, 4)
    corners = (x, y, x + width, y + height)
    if 0 <= x < corners[2] <= size[1] and 0 <= y < corners[3] <= size[0]:
        return [x, y, width, height]
    numbers(value)
    x0, y0, x1, y1 = clip_box(corners, size)
    return [x0, y0, x1 - x0, y1 - y0]


def _point(value: Any, size: tuple[int, int], note: Note) -> list[float]:
    x, y = numbers(value, 2)
    if not (0 <= x <= size[1] and 0 <= y <= size[0]):
        raise ValueError(f"({x:g}, {y:g}) lies outside its image of {size[1]} x {size[0]}")
    return [x, y]


def _rle(value: Any, size: tuple[int, int], note: Note) -> RLE:
    return check_rle(value, size)


def _share(value: Any) -> float:
    if not 0 <= number(value) <= 1:
        raise ValueError(f"is {value}, not between 0 and 1")
    return float(value)


def _flag(value: Any) -> int:
    value = _FLAGS.get(value.lower(), value) if isinstance(value, str) else value
    if value in (None, 0, 1):
        return int(value or 0)
    raise ValueError(f"is {short(value)}, not 0 or 1")


_OF_IMAGE: dict[str, Callable[..., Any]] = {
    "bbox": _xywh,
    "segmentation": _segmentation,
    "point": _point,
    "ignore_mask": _rle,
}
_NUMBERS = {"area": number, "score": number, "confidence": _share}
_EMPTY: tuple[Any, ...] = (None, [], {}, [[]], "")  # of a field that is there and says nothing


def read_annotation(
    entry: Record, identity: Identity, image: Record, category: int, note: Note
) -> Record:
    """The annotation, checked, of the ``image``; ``category`` is its class id.

    ``note`` is called for what is odd.

    Raises:
        FieldError: naming the field.
    """
    crowd, ignored = entry.get("iscrowd"), entry.get("ignore")
    crowd = 0 if crowd in (None, 0) else field(entry, "iscrowd", _flag)
    result: Record = {"id": identity, "category_id": category}
    size = (image["height"], image["width"])
    if isinstance(ignored, dict) and ignored:  # our pixels that train nothing, before version 2
        result["ignore_mask"] = field(entry, "ignore", check_rle, size)
    elif ignored not in _EMPTY:
        crowd |= field(entry, "ignore", _flag)
    result["iscrowd"] = crowd
    if entry.get("bbox") == [0, 0, 0, 0] and entry.get("segmentation") not in _EMPTY:
        note("bbox is 0, 0, 0, 0: that of the mask is taken", field="bbox")
        entry = entry | {"bbox": None}
    for name, check in _OF_IMAGE.items():
        if entry.get(name) not in _EMPTY:
            result[name] = field(entry, name, check, size, note)
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
    if category not in image.get("image_labels", [category]):
        said = f"{short(entry['category_id'])} contradicts image_labels of the image, which lack it"
        raise FieldError("category_id", said)
    return result

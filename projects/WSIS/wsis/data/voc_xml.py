"""Reads the XML files of VOC, as labelImg, CVAT and others write them too."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from wsis.data.catalog import BoxMode
from wsis.data.checks import clip_box, field, naming, number, short
from wsis.data.images import check_stated_size, read_image_size
from wsis.data.problems import FieldError, Problems, collecting
from wsis.data.xml_files import parse_xml
from wsis.errors import DataError, did_you_mean


def _text(node: ElementTree.Element | None, tag: str) -> str:
    return "" if node is None else (node.findtext(tag) or "").strip()


def _number(text: str) -> float:
    try:
        return number(float(text))
    except ValueError:
        raise ValueError(f"is {short(text)}, not a number") from None


def _box(node: ElementTree.Element, size: tuple[int, int]) -> list[float]:
    box = node.find("bndbox")
    tags = ("xmin", "ymin", "xmax", "ymax")
    x0, y0, x1, y1 = (field({tag: _text(box, tag)}, tag, _number) for tag in tags)
    return clip_box((x0 - 1, y0 - 1, x1, y1), size)  # 1-based, both ends inside the object


def names_in_xml(path: Path) -> set[str]:
    """Class names of the objects; none of a file that cannot be read, which its reader tells."""
    try:
        return {_text(node, "name") for node in parse_xml(path).iterfind("object")} - {""}
    except DataError:
        return set()


def _size(tree: ElementTree.Element, image: str | os.PathLike[str]) -> tuple[int, int]:
    """(H, W) from the XML if it has both, else from the image; labelImg may write 0."""
    node = tree.find("size")
    stated = {tag: _text(node, tag) for tag in ("height", "width")}
    if {"", "0"} & {*stated.values()}:
        return read_image_size(image)
    height, width = (field(stated, tag, _number) for tag in stated)
    return check_stated_size((int(height), int(width)), image)


def _object(
    node: ElementTree.Element, size: tuple[int, int], classes: Sequence[str]
) -> dict[str, Any]:
    name = _text(node, "name")
    if name not in classes:
        raise FieldError(
            "name",
            f"is of the unknown class {short(name)}; known are {', '.join(classes)[:400]} (own "
            "classes: one per line in classes.txt of the data set's root, or CLASSES)"
            + did_you_mean(name, classes),
        )
    try:
        box = _box(node, size)
    except ValueError as error:
        raise FieldError("bndbox", f"of {name}: {error}") from None
    difficult = int(_text(node, "difficult") in ("1", "1.0", "true"))
    about = {"category_id": list(classes).index(name), "difficult": difficult}
    return {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "iscrowd": 0} | about


def read_voc_xml(
    path: str | os.PathLike[str],
    classes: Sequence[str],
    *,
    image: str | os.PathLike[str],
    problems: Problems | None = None,
) -> tuple[tuple[int, int], list[dict[str, Any]]]:
    """Read one annotation file, difficult objects included, in the file's order.

    Args:
        path: the file.
        classes: names by class id.
        image: gives the size where the XML has none.
        problems: collects objects that are left out: unknown class, bad number, box without area.
            Without it these are raised.

    Returns:
        (H, W), and annotations with ``bbox`` (XYXY_ABS, 0-based, far edges exclusive),
        ``category_id`` (place in ``classes``) and ``difficult`` (0 or 1).

    Raises:
        DataError: the file cannot be read, or its size is absurd; without ``problems`` all others.
    """
    path = Path(path)
    tree = parse_xml(path)
    with naming(f"{path}: size"):
        size = _size(tree, image)
    annotations = []
    with collecting(problems, "correct the file") as told:
        for index, node in enumerate(tree.iterfind("object"), start=1):
            with told.leaving_out(file=path, image=path.stem, annotation=index):
                annotations.append(_object(node, size, classes))
    return size, annotations

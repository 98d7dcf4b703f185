"""CVAT's own XML, "CVAT for images 1.1"; its other exports are COCO, VOC and YOLO."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from wsis.data.checks import short
from wsis.data.formats import shapes
from wsis.data.formats.builder import TURNED, Builder, Translated
from wsis.data.formats.shapes import Shape
from wsis.data.problems import Problems
from wsis.data.xml_files import parse_xml
from wsis.errors import DataError

MAX_XML_BYTES = 256 << 20  # it holds all images; some 500,000 objects
_SHAPES = ("box", "polygon", "ellipse", "mask", "points")
_NO_AREA = ("polyline", "cuboid", "skeleton")


def read_cvat(entry: dict[str, Any], problems: Problems) -> Translated:
    """Read ``XML`` with the pictures in ``IMAGES``; classes in the order of the project's labels.

    Raises:
        DataError: no such XML, or that of a video.
    """
    path = Path(entry["XML"])
    root = parse_xml(path, limit=MAX_XML_BYTES)
    images = root.findall("image")
    if root.find("track") is not None and not images:
        raise DataError(f"{path} is of a video; export it as CVAT for images 1.1")
    if root.tag != "annotations" or not (images or root.find("meta") is not None):
        raise DataError(f"{path} is no XML of CVAT; export the task as CVAT for images 1.1")
    labels = [
        (label.findtext("name") or "").strip()
        for label in root.iterfind("meta//labels/label")
        if not label.findtext("parent")  # else a part of a skeleton
    ]
    builder = Builder(path, entry["IMAGES"], problems)
    for node in images:
        name = node.get("name")
        size = (_whole(node, "height"), _whole(node, "width"))
        image = builder.image(name, identity=_whole(node, "id"), size=size)
        if image is None:
            continue
        for number, part in enumerate(node, start=1):
            with problems.leaving_out(file=path, image=name, annotation=number):
                _add(builder, image, part, number)
    return builder.finish(dict(enumerate(dict.fromkeys(filter(None, labels)), start=1)) or None)


def _add(builder: Builder, image: int | str, node: Element, number: int) -> None:
    if node.tag == "tag":
        builder.tag(image, [node.get("label")])
    elif node.tag in _NO_AREA or (node.tag == "points" and ";" in node.get("points", "")):
        builder.passed[f"shape of type {node.tag}, which is no point and has no area"] += 1
    elif node.tag in _SHAPES:
        group = node.get("group_id")
        shape = _shape(node, lambda: builder.size(image))
        builder.noted[TURNED] += node.tag == "box" and "bbox" not in shape
        group = None if group in (None, "", "0") else group
        builder.add(image, node.get("label"), shape, number, group)


def _whole(node: Element, name: str) -> int | None:
    text = node.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _values(node: Element, *names: str) -> list[float]:
    try:
        return [float(node.get(name, "")) for name in names]
    except ValueError:
        told = {name: node.get(name) for name in names}
        raise ValueError(f"has {short(told)}, not numbers") from None


def _shape(node: Element, size: Any) -> Shape:
    angle = math.radians(_values(node, "rotation")[0]) if node.get("rotation") else 0.0
    if node.tag == "box":
        x0, y0, x1, y1 = _values(node, "xtl", "ytl", "xbr", "ybr")
        if not angle:
            return shapes.rectangle(x0, y0, x1, y1)
        centre = (x0 + x1) / 2, (y0 + y1) / 2
        return shapes.turned_rectangle(x0, y0, x1 - x0, y1 - y0, angle, centre)
    if node.tag == "ellipse":
        return shapes.ellipse(_values(node, "cx", "cy", "rx", "ry"), angle)
    if node.tag == "mask":
        return _mask(node, size())
    try:
        points = [[float(v) for v in p.split(",")] for p in node.get("points", "").split(";")]
    except ValueError:
        raise ValueError(f"has the points {short(node.get('points'))}, not x,y;x,y") from None
    flat = shapes.pairs(points)
    return shapes.outline(flat) if node.tag == "polygon" else shapes.dot(*flat)


def _mask(node: Element, size: tuple[int, int]) -> Shape:
    left, top, width, height = _values(node, "left", "top", "width", "height")
    if not (0 < width <= size[1] and 0 < height <= size[0]):
        raise ValueError(f"has a mask of {width:g} x {height:g}, which is not inside its image")
    try:
        runs = [int(run) for run in node.get("rle", "").split(",")]
    except ValueError:
        raise ValueError(f"has the rle {short(node.get('rle'))}, not whole numbers") from None
    return shapes.placed_mask(
        shapes.mask_of_runs(runs, (int(height), int(width))), (left, top), size
    )

"""VGG Image Annotator 2: its JSON and CSV exports and its project files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wsis.data.checks import load_json, number, short
from wsis.data.formats import shapes
from wsis.data.formats.builder import Builder, Translated
from wsis.data.formats.csv_tags import read_table
from wsis.data.formats.shapes import Shape
from wsis.data.problems import Problems
from wsis.errors import DataError, UsageError

_USUAL = ("class", "label", "name", "category", "type", "object")  # attributes that name the class
_CELLS = ("region_shape_attributes", "region_attributes", "file_attributes")
_NAMELESS = "object"  # the class of regions in a file without attributes
_NO_AREA = ("polyline", "line")


def read_via(entry: dict[str, Any], problems: Problems) -> Translated:
    """Read ``JSON`` with the pictures in ``IMAGES``.

    The attribute that names the class is ``CLASS_KEY``, else the only one, else the one with a
    usual name. Attributes of files are tags.

    Raises:
        DataError: no file of VIA 2.
        UsageError: the attribute with the class cannot be told.
    """
    path = Path(entry["JSON"])
    builder = Builder(path, entry["IMAGES"], problems)
    files = list(_files(path))
    key = _class_key([r for _, regions, _ in files for r in regions], entry.get("CLASS_KEY"), path)
    for name, regions, attributes in files:
        image = builder.image(name)
        if image is None:
            continue
        with problems.leaving_out(file=path, image=name):
            tags = [tag for value in attributes.values() for tag in _chosen(value)]
            if tags:
                builder.tag(image, tags)
        for place, region in enumerate(regions, start=1):
            with problems.leaving_out(file=path, image=name, annotation=place):
                _add(builder, image, region, key, place)
    return builder.finish()


def _files(path: Path) -> Iterator[tuple[Any, list[Any], dict[str, Any]]]:
    """Name, regions and attributes of each file."""
    content = _from_table(path) if path.suffix.lower() == ".csv" else load_json(path)
    if isinstance(content, dict) and "_via_img_metadata" in content:
        content = content["_via_img_metadata"]
    values = list(content.values()) if isinstance(content, dict) else []
    if not values or not all(isinstance(v, dict) and "filename" in v for v in values):
        raise DataError(
            f"{path} is no file of VIA 2; in VIA choose Annotation, Export Annotations (as json)"
        )
    for value in values:
        regions = value.get("regions") or []
        regions = list(regions.values()) if isinstance(regions, dict) else regions
        attributes = value.get("file_attributes")
        yield (
            value["filename"],
            regions if isinstance(regions, list) else [regions],
            attributes if isinstance(attributes, dict) else {},
        )


def _from_table(path: Path) -> dict[str, Any]:
    """The CSV export in the form of the JSON export."""
    header, *rows = read_table(path)
    files: dict[str, Any] = {}
    for row in (dict(zip(header, cells, strict=False)) for cells in rows):
        name = row.get("filename") or row.get("#filename") or ""
        try:
            shape, region, about = (json.loads(row.get(cell) or "{}") for cell in _CELLS)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: image {short(name)}: no JSON ({error})") from None
        file = files.setdefault(name, {"filename": name, "regions": [], "file_attributes": about})
        if shape:
            file["regions"].append({"shape_attributes": shape, "region_attributes": region})
    return files


def _chosen(value: Any) -> list[str]:
    """The names that an attribute's value stands for: a text, or those that were ticked."""
    if isinstance(value, Mapping):
        return [str(name) for name, ticked in value.items() if ticked is True or ticked == "true"]
    if type(value) in (int, float):
        return [str(value)]
    return [value] if isinstance(value, str) and value.strip() else []


def _attributes(region: Any) -> dict[str, Any]:
    found = region.get("region_attributes") if isinstance(region, dict) else None
    return found if isinstance(found, dict) else {}


def _class_key(regions: list[Any], stated: str | None, path: Path) -> str | None:
    """The attribute that names the class; None where no region has an attribute."""
    keys = {key for r in regions for key, value in _attributes(r).items() if _chosen(value)}
    if stated is not None and (stated in keys or not keys):
        return stated
    usual = [key for key in keys if key.lower() in _USUAL]
    if stated is None and len(keys) < 2:
        return next(iter(keys), None)
    if stated is None and len(usual) == 1:
        return usual[0]
    raise UsageError(
        f"{path}: which attribute of a region is its class? Name it with CLASS_KEY, one of "
        f"{', '.join(map(short, sorted(keys)))}"
    )


def _add(builder: Builder, image: int | str, region: Any, key: str | None, place: int) -> None:
    shape = region.get("shape_attributes") if isinstance(region, dict) else None
    if not isinstance(shape, dict):
        raise ValueError(f"is {short(region)}, which has no shape_attributes")
    if shape.get("name") in _NO_AREA:
        builder.passed[f"region of type {shape['name']}, which has no area"] += 1
        return
    chosen = [_NAMELESS] if key is None else _chosen(_attributes(region).get(key))
    if len(chosen) != 1:
        raise ValueError(f"has {len(chosen)} classes in the attribute {short(key)}, not one")
    builder.add(image, chosen[0], _shape(shape), place)


def _shape(shape: dict[str, Any]) -> Shape:
    def values(*names: str) -> list[Any]:
        return [shape.get(name) for name in names]

    kind = shape.get("name")
    if kind == "rect":
        x, y, width, height = map(number, values("x", "y", "width", "height"))
        return shapes.rectangle(x, y, x + width, y + height)
    if kind == "circle":
        return shapes.ellipse(values("cx", "cy", "r", "r"))
    if kind == "ellipse":
        return shapes.ellipse(values("cx", "cy", "rx", "ry"), shape.get("theta") or 0)
    if kind == "point":
        return shapes.dot(*values("cx", "cy"))
    if kind in ("polygon", "polyshape"):
        xs, ys = values("all_points_x", "all_points_y")
        if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys):
            raise ValueError("has no all_points_x and all_points_y of one length")
        return shapes.outline([value for pair in zip(xs, ys, strict=True) for value in pair])
    raise ValueError(f"is a {short(kind)}, which is not read")

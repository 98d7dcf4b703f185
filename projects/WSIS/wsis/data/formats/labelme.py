"""labelme (wkentaro): a JSON file for each image, beside it or in a folder of its own."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from wsis.data.checks import load_json, short
from wsis.data.formats import shapes
from wsis.data.formats.builder import Builder, Translated, declared_classes
from wsis.data.formats.shapes import Shape
from wsis.data.problems import Problems
from wsis.errors import DataError

MAX_FILE_BYTES = 1 << 28  # it may hold the picture itself
_NO_AREA = ("line", "linestrip", "points")


def label_files(folder: Path) -> list[Path]:
    """The JSON files in a folder and in its folders, without hidden ones."""
    found = sorted(folder.rglob("*.json"))
    return [p for p in found if not any(n[0] == "." for n in p.relative_to(folder).parts)]


def read_labelme(entry: dict[str, Any], problems: Problems) -> Translated:
    """Read the JSON files in ``LABELS``, or beside ``IMAGES``; images without one are left out.

    The classes are the labels found, sorted, or the lines of a ``labels.txt``.

    Raises:
        DataError: no file of labelme.
    """
    images = Path(entry["IMAGES"])
    folder = Path(entry.get("LABELS") or images)
    builder = Builder(folder, images, problems)
    for file in label_files(folder):
        with problems.leaving_out(file=file):
            content = load_json(file, limit=MAX_FILE_BYTES)
            if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
                problems.warning("is no file of labelme and was passed over", file=file)
                continue
            _read_file(file, content, builder)
    if not builder.images and not problems.errors:
        raise DataError(f"{folder} has no JSON file of labelme")
    if not builder.images and not builder.finder.known:
        raise DataError(
            f"{images} has none of the pictures of the labels in {folder}; name both folders, "
            f"{{FORMAT: labelme, IMAGES: FOLDER, LABELS: {folder}}}"
        )
    builder.pass_over_others("image without a JSON file")
    return builder.finish(declared_classes([folder, images]))


def _read_file(file: Path, content: dict[str, Any], builder: Builder) -> None:
    name = _picture(file, content.get("imagePath") or file.stem, builder)
    size = (content.get("imageHeight"), content.get("imageWidth"))
    image = builder.image(name, size=size, source=file)
    if image is None:
        return
    path = builder.images[image]["file_name"]
    flags = content.get("flags")
    if isinstance(flags, dict):
        builder.tag(image, (name for name, value in flags.items() if value is True))
    for number, shape in enumerate(content["shapes"], start=1):
        with builder.problems.leaving_out(file=file, image=path, annotation=number):
            if not isinstance(shape, dict):
                raise ValueError(f"is {short(shape)}, not a shape")
            kind = shape.get("shape_type") or "polygon"
            if kind in _NO_AREA:
                builder.passed[f"shape of type {kind}, which has no area"] += 1
                continue
            group = shape.get("group_id")
            group = group if isinstance(group, (int, str)) else None
            found = _shape(shape, kind, builder, image)
            builder.add(image, shape.get("label"), found, number, group)


def _picture(file: Path, name: Any, builder: Builder) -> Any:
    """``imagePath`` counts from the JSON's folder, or from the same folder of the pictures.

    Where there is no such picture, both files were renamed: the one of the JSON's name counts.
    """
    if isinstance(name, str):
        name = name.replace("\\", "/")
        same = file.relative_to(builder.source).parent
        for path in (os.path.relpath(file.parent / name, builder.root), (same / name).as_posix()):
            if path in builder.finder.known:
                return path
        with suppress(ValueError):
            return builder.finder.locate(name)
        with suppress(ValueError):
            own = builder.finder.locate((same / file.stem).as_posix())
            builder.noted["pictures that are called as their JSON, not as its imagePath says"] += 1
            return own
    return name


def _shape(shape: dict[str, Any], kind: str, builder: Builder, image: int | str) -> Shape:
    flat = shapes.pairs(shape.get("points"))
    if kind == "rectangle" and len(flat) >= 4:
        return shapes.around(flat)
    if kind == "circle" and len(flat) == 4:
        radius = math.hypot(flat[2] - flat[0], flat[3] - flat[1])
        return shapes.ellipse([*flat[:2], radius, radius])
    if kind == "point" and len(flat) == 2:
        return shapes.dot(*flat)
    if kind == "mask":
        size = builder.size(image)
        return shapes.placed_mask(shapes.mask_of_png(shape.get("mask"), size), flat[:2], size)
    if kind in ("polygon", "rotation", "oriented_rectangle"):
        return shapes.outline(flat)
    raise ValueError(f"is a {short(kind)} of {len(flat) // 2} points, which is not read")

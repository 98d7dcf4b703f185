"""Image tags as people sort photographs: one folder per class."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from wsis.data.images import pictures_in, read_image_size
from wsis.errors import DataError


def class_folders(root: str | os.PathLike[str]) -> tuple[str, ...]:
    """Names of the folders in ``root`` that hold images, in ascending order: the classes."""
    if not Path(root).is_dir():
        raise DataError(f"{root} is no folder; it has one folder of images for each class")
    folders = sorted(p for p in Path(root).iterdir() if p.is_dir() and not p.name.startswith("."))
    return tuple(path.name for path in folders if pictures_in(path))


def load_folders(root: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Dataset dicts of a folder of class folders; an image has the tag of its folder.

    ``image_id`` is the path below ``root``; there are no annotations.

    Raises:
        DataError: there is no folder with images, or a picture cannot be read.
    """
    classes = class_folders(root)
    if not classes:
        raise DataError(
            f"{root} has no folder with images in it; make a folder for each class, named like it"
        )
    records = []
    for index, name in enumerate(classes):
        for path in pictures_in(Path(root, name)):
            height, width = read_image_size(path)
            record: dict[str, Any] = {"file_name": str(path), "image_id": f"{name}/{path.name}"}
            record |= {"height": height, "width": width, "image_labels": [index]}
            records.append(record | {"annotations": []})
    return records

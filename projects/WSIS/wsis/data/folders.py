"""Image tags as people sort photographs: one folder per class."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from wsis.data.images import pictures_in, read_image_size
from wsis.data.problems import Problems, collecting
from wsis.errors import DataError


def class_folders(root: str | os.PathLike[str]) -> tuple[str, ...]:
    """Names of the folders in ``root`` that hold images, in ascending order: the classes."""
    if not Path(root).is_dir():
        raise DataError(f"{root} is no folder; it has one folder of images for each class")
    folders = sorted(p for p in Path(root).iterdir() if p.is_dir() and not p.name.startswith("."))
    return tuple(path.name for path in folders if pictures_in(path))


def load_folders(
    root: str | os.PathLike[str], problems: Problems | None = None
) -> list[dict[str, Any]]:
    """Dataset dicts of a folder of class folders; an image has the tag of its folder.

    ``image_id`` is the path below ``root``; there are no annotations. A picture that cannot be read
    becomes one of the ``problems``; without these it is raised.

    Raises:
        DataError: there is no folder with images, or as stated.
    """
    classes = class_folders(root)
    if not classes:
        raise DataError(
            f"{root} has no folder with images in it; make a folder for each class, named like it"
        )
    records = []
    files = [(rank, p) for rank, name in enumerate(classes) for p in pictures_in(Path(root, name))]
    with collecting(problems) as found:
        for rank, path in files:
            number = f"{path.parent.name}/{path.name}"
            with found.leaving_out(image=number):
                height, width = read_image_size(path)
                record: dict[str, Any] = {"file_name": str(path), "image_id": number}
                record |= {"height": height, "width": width, "image_labels": [rank]}
                records.append(record | {"annotations": []})
    return records

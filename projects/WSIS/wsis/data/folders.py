"""Image tags as people sort photographs: one folder per class."""

from __future__ import annotations

import filecmp
import os
from collections import defaultdict
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import Any

from wsis.data.images import pictures_below, pictures_in, read_image_size
from wsis.data.problems import Problems, collecting
from wsis.errors import DataError

# Folders of these names are parts of a data set, no classes.
SPLITS = {"TRAIN": ("train", "training"), "VAL": ("val", "valid", "validation")}
_COMPARED = 4  # pictures of one name and size
_SPLITS = {name for names in SPLITS.values() for name in names} | {"test", "testing"}


def class_folders(root: str | os.PathLike[str]) -> tuple[str, ...]:
    """Names of the folders in ``root`` with images at any depth, in ascending order: the classes.

    Raises:
        DataError: no such folder, or its folders are splits, which have the folders of classes.
    """
    if not Path(root).is_dir():
        raise DataError(f"{root} is no folder; it has one folder of images for each class")
    folders = sorted(p for p in Path(root).iterdir() if p.is_dir() and not p.name.startswith("."))
    classes = tuple(path.name for path in folders if pictures_below(path))
    if classes and {name.lower() for name in classes} <= _SPLITS:
        raise DataError(
            f"{root} has {', '.join(classes)}, which are parts of a data set, no classes; name one "
            f"of them as IMAGES: {Path(root, classes[0])}"
        )
    return classes


def load_folders(
    root: str | os.PathLike[str], problems: Problems | None = None
) -> list[dict[str, Any]]:
    """Dataset dicts of a folder of class folders; an image has the tag of its folder.

    ``image_id`` is the path below ``root``; there are no annotations. Folders in a class folder
    belong to the class. A picture that cannot be read becomes one of the ``problems``; without
    these it is raised. One that is in several class folders is as many images, which is told.

    Raises:
        DataError: there is no folder with images, or as stated.
    """
    classes = class_folders(root)
    if not classes:
        raise DataError(
            f"{root} has no folder with images in it; make a folder for each class, named like it"
        )
    records: list[dict[str, Any]] = []
    alike: dict[tuple[str, int], list[Path]] = defaultdict(list)
    files = [(rank, n, p) for rank, n in enumerate(classes) for p in pictures_below(Path(root, n))]
    with collecting(problems) as found:
        for rank, name, below in files:
            path, number = Path(root, name, below), f"{name}/{below}"
            with found.leaving_out(file=path, image=number):
                height, width = read_image_size(path)
                record: dict[str, Any] = {"file_name": str(path), "image_id": number}
                record |= {"height": height, "width": width, "image_labels": [rank]}
                records.append(record | {"annotations": []})
                alike[path.name, path.stat().st_size].append(path)
        _tell_twins(alike.values(), found)
        if unsorted := len(pictures_in(root)):
            told = f"{unsorted} images lie in no class folder and were left out"
            found.warning(told, left_out=unsorted, file=root)
    return records


def _tell_twins(alike: Iterable[list[Path]], problems: Problems) -> None:
    """Say how many pictures lie in several folders, of those with equal names and sizes."""
    pairs = ((one, other) for first in alike for one, other in combinations(first[:_COMPARED], 2))
    twins = [pair for pair in pairs if filecmp.cmp(*pair, shallow=False)]
    if twins:
        problems.warning(
            f"{len(twins)} pictures lie in several folders, so that each copy has one tag only "
            f"({twins[0][0]}, {twins[0][1]}); a CSV file (FORMAT csv) gives a picture several tags"
        )

"""Image tags as people sort photographs: one folder per class."""

from __future__ import annotations

import filecmp
import os
from collections import defaultdict
from collections.abc import Container, Iterable
from itertools import combinations
from pathlib import Path
from typing import Any

from wsis.data.images import pictures_below, pictures_in, read_image_size, unread_pictures
from wsis.data.problems import Problems, collecting
from wsis.errors import DataError

# Folders of these names are parts of a data set, no classes.
SPLITS = {"TRAIN": ("train", "training"), "VAL": ("val", "valid", "validation")}
_COMPARED = 4  # pictures of one name and size
_SPLITS = {name for names in SPLITS.values() for name in names} | {"test", "testing"}


def _pictures_of_classes(root: str | os.PathLike[str]) -> dict[str, list[str]]:
    """For each class, ascending, the paths of its pictures below its folder."""
    if not Path(root).is_dir():
        raise DataError(f"{root} is no folder; it has one folder of images for each class")
    folders = sorted(p for p in Path(root).iterdir() if p.is_dir() and not p.name.startswith("."))
    found = {path.name: [picture.name for picture in pictures_in(path)] for path in folders}
    if not any(found.values()):
        found = {path.name: pictures_below(path) for path in folders}
        parts = [name for name, pictures in found.items() if pictures]
        if parts and {name.lower() for name in parts} <= _SPLITS:
            raise DataError(
                f"{root} has {', '.join(parts)}, which are parts of a data set, no classes; name "
                f"one of them as IMAGES: {Path(root, parts[0])}"
            )
    return {name: pictures for name, pictures in found.items() if pictures}


def class_folders(root: str | os.PathLike[str]) -> tuple[str, ...]:
    """Names of the folders in ``root`` that hold images, in ascending order: the classes.

    Only where none does, those count that have images in their own folders.

    Raises:
        DataError: no such folder, or its folders are splits, which have the folders of classes.
    """
    return tuple(_pictures_of_classes(root))


def load_folders(
    root: str | os.PathLike[str], problems: Problems | None = None
) -> list[dict[str, Any]]:
    """Dataset dicts of a folder of class folders; an image has the tag of its folder.

    ``image_id`` is the path below ``root``; there are no annotations. A picture that cannot be read
    becomes one of the ``problems``; without these it is raised. One that is in several class
    folders is as many images, which is told, and how many lie elsewhere below ``root``.

    Raises:
        DataError: there is no folder with images, or as stated.
    """
    classes = _pictures_of_classes(root)
    if not classes:
        raise DataError(
            f"{root} has no folder with images in it; make a folder for each class, named like it"
        )
    records: list[dict[str, Any]] = []
    alike: dict[tuple[str, int], list[Path]] = defaultdict(list)
    files = [(rank, n, p) for rank, n in enumerate(classes) for p in classes[n]]
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
        read = {f"{name}/{below}" for _, name, below in files}
        others = [path for path in pictures_below(root) if path not in read]
        if others:
            told = f"images in no class folder, left out: {len(others)} ({others[0]})"
            found.warning(told, left_out=len(others), file=root)
        _tell_unread(Path(root), classes, found)
    return records


def _tell_unread(root: Path, classes: Container[str], problems: Problems) -> None:
    """Name photographs in formats that are not read, and folders without any picture."""
    if unread := unread_pictures(root):
        told = f"pictures in a format that is not read: {len(unread)}, such as {unread[0].name}"
        problems.warning(f"{told}; save them as JPEG or PNG", left_out=len(unread), file=unread[0])
    folders = (p.name for p in root.iterdir() if p.is_dir() and p.name[0] not in "._")
    if empty := sorted(name for name in folders if name not in classes):
        problems.warning(f"no class, without pictures: {', '.join(empty)[:200]}", file=root)


def _tell_twins(alike: Iterable[list[Path]], problems: Problems) -> None:
    """Say how many pictures lie in several folders, of those with equal names and sizes."""
    pairs = ((one, other) for first in alike for one, other in combinations(first[:_COMPARED], 2))
    twins = [pair for pair in pairs if filecmp.cmp(*pair, shallow=False)]
    if twins:
        problems.warning(
            f"pictures in several folders, so that each copy has one tag only: {len(twins)} "
            f"({twins[0][0]}, {twins[0][1]}); a CSV file (FORMAT csv) gives a picture several tags"
        )

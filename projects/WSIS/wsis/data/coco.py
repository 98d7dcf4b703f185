"""Reads COCO JSON files, of users and of ours, and checks them completely.

Beyond COCO, an image may have ``image_labels`` (category ids or names) and ``image_key`` (the name
of its artifacts, in pseudo labels), and an annotation ``point`` [x, y], ``score``, ``confidence``
and ``ignore_mask`` (an RLE of pixels that train nothing). An annotation needs a category and may
have any of box, point and mask. Other formats are turned into the content of such a file first, so
that everything from outside passes one gate.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from wsis.data.checks import load_json, naming, short
from wsis.data.coco_checker import Checker, Ids, Packer
from wsis.data.coco_fields import Identity, Record, used_categories
from wsis.data.contradictions import tell_contradictions
from wsis.data.long_lists import LongLists, Unusual
from wsis.data.problems import Problems, collecting
from wsis.data.records import Records
from wsis.data.usual_annotations import USUAL
from wsis.errors import DataError


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
    class_ids: dict[Identity, int]
    images: list[Record]


def _entries(content: Any, problems: Problems, source: Path) -> dict[str, list[Record]]:
    """The three lists of a file, without entries that are no objects.

    Raises:
        ValueError: one is missing or no list.
    """
    if not isinstance(content, Mapping):
        raise ValueError("its top level is not an object; it is no COCO file")
    found = {}
    for name in ("images", "categories", "annotations"):
        entries = content.get(name)
        if entries is None and name == "annotations":
            entries = []
        if not isinstance(entries, list):
            raise ValueError(f"{name} is {short(entries)}, not a list of objects")
        found[name] = [entry for entry in entries if isinstance(entry, dict)]
        if len(found[name]) < len(entries):
            for number, entry in enumerate(entries, start=1):
                if not isinstance(entry, dict):
                    text = f"entry {number} of {name} is {short(entry)}, not an object"
                    problems.error(text, file=source, field=name)
    return found


def check_content(
    content: Any,
    source: str | os.PathLike[str],
    problems: Problems,
    *,
    image_root: str | os.PathLike[str] | None = None,
    sources: Mapping[Any, str | os.PathLike[str]] | None = None,
) -> CocoFile:
    """Check what a COCO file holds; what is broken becomes a problem and is left out.

    Args:
        content: ``images``, ``categories`` and perhaps ``annotations``; not changed. Annotations
            without an ``id`` are numbered.
        source: the file, for messages.
        problems: collects them.
        image_root: where images are looked for; there sizes that are missing are read.
        sources: image id to the file of its annotations, where each image has its own.

    Raises:
        DataError: no such content, or its categories are contradictory.
    """
    with naming(str(source)):
        entries = _entries(content, problems, Path(source))
    used = cache(lambda: used_categories(entries["images"], entries["annotations"]))
    checker = Checker(source, problems, sources)
    class_names = checker.begin(entries, used, image_root)
    checker.read_annotations(entries["annotations"], Ids(entries["annotations"]))
    info = content.get("info")
    return CocoFile(
        path=checker.source,
        info=info if isinstance(info, dict) else {},
        class_names=class_names,
        class_ids=checker.class_ids,
        images=checker.in_order(),
    )


@contextmanager
def without_collections() -> Iterator[None]:
    """In the block, Python does not look for garbage among the millions of lists that are made.

    Of COCO's size it took a quarter of the reading time, and there is none.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@without_collections()
def read_coco(path: str | os.PathLike[str], *, image_root: Path | None = None) -> CocoFile:
    """Read and check a COCO JSON file; sizes that it lacks are read from images in ``image_root``.

    Raises:
        DataError: with all that is wrong, or only odd: the image or annotation id, and the field.
    """
    problems = Problems(strict=True)
    file = check_content(load_json(path), path, problems, image_root=image_root)
    problems.raise_errors("correct the file")
    return file


_Loaded = tuple[Sequence[Record], tuple[str, ...], dict[Identity, int]]


@without_collections()
def load_coco_dataset(
    path: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    problems: Problems | None = None,
    *,
    content: Any = None,
    sources: Mapping[Any, str | os.PathLike[str]] | None = None,
) -> _Loaded:
    """Dataset dicts of a COCO JSON file, with image labels; class names; category id to class id.

    A file of the usual form is read annotation by annotation, into `Records`.

    Args:
        path: the file.
        image_root: where its images lie.
        problems: collects what is wrong, which is then left out; None: it is raised.
        content: that of the file ``path``, where another format was turned into it.
        sources: as of `check_content`.

    Raises:
        DataError: as `check_content`; without ``problems`` for everything that is wrong.
    """
    root = Path(image_root)
    with collecting(problems) as found:
        if content is None:
            with suppress(Unusual):
                return _read_in_turn(Path(path), root, found)
            content = load_json(path)
        file = check_content(content, path, found, image_root=root, sources=sources)
        records = tell_contradictions(file.images, path, found)
    for record in records:
        _complete(record, root, sorted({a["category_id"] for a in record["annotations"]}))
    return records, file.class_names, file.class_ids


def _complete(record: Record, root: Path, present: list[int]) -> Record:
    name = record["file_name"]
    record["file_name"] = str(root / name) if "/" in name else _start(root) + name
    record.pop("image_key", None)  # the data set has keys of its own
    record.setdefault("image_labels", present)
    return record


@cache
def _start(root: Path) -> str:
    """Of the paths in a folder: adding names to it takes a tenth of the time of `pathlib`."""
    return str(root / "_")[:-1]


def _read_in_turn(path: Path, root: Path, problems: Problems) -> _Loaded:
    """As `load_coco_dataset`; no two annotations are in memory as lists and dicts.

    Raises:
        Unusual: what is to be said of the file, or what its annotations mean, cannot be told by one
            of them alone.
    """
    lists, told = LongLists(path, ("images", "categories", "annotations")), Problems()
    first: dict[str, Any] = {name: [*lists.entries(name)] for name in ("images", "categories")}
    first = _entries(first, told, path)
    packer = Packer(path, told)
    class_names = packer.begin(first, _unusual, root)
    images = packer.in_order()
    if len({image["file_name"] for image in images}) < len(images):
        raise Unusual
    packer.read_all(lists.entries("annotations", USUAL))
    lists.rest()
    if packer.contradictions.need_all():
        raise Unusual
    packer.contradictions.tell(path, told)
    problems.take(told)
    places, count = packer.places, len(class_names)
    owners, labels = np.divmod(np.unique(places[:, 0] * count + places[:, 2]), count)
    spans = pairwise(np.searchsorted(owners, np.arange(len(images) + 1)).tolist())
    completed = (
        _complete(image, root, labels[first:end].tolist())
        for image, (first, end) in zip(images, spans, strict=True)
    )
    return Records(completed, packer.parts, places[:, :2]), class_names, packer.class_ids


def _unusual() -> set[Any]:
    raise Unusual


class ImageIndex:
    """Finds a dataset dict's image in a file.

    In a file with ``image_key`` it goes by the key. Keys change if the data set is another
    selection of the same images: then by image id and file name together. In files without keys
    (the originals') it goes by file name alone: of several images of one name it takes the one
    whose path has the longest common end, then the one with the same id.

    Raises:
        DataError: an image key occurs twice.
    """

    def __init__(self, path: Path, images: Iterable[Record]) -> None:
        self.path = path
        self.by_name: dict[str, list[Record]] = {}
        self.by_key: dict[str, Record] = {}
        for image in images:
            self.by_name.setdefault(Path(image["file_name"]).name, []).append(image)
            key = image.get("image_key")
            if key in self.by_key:
                raise DataError(f"{path}: image {image['image_id']}: image_key {key} again")
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

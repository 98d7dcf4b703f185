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
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from wsis.data.checks import field, identity, load_json, naming, short
from wsis.data.coco_fields import (
    Identity,
    Note,
    Record,
    by_rank,
    read_annotation,
    read_categories,
    read_image,
)
from wsis.data.contradictions import tell_contradictions
from wsis.data.picture_names import PictureFinder
from wsis.data.problems import FieldError, Problems, collecting
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


class _Checker:
    """Checks the images and annotations of one file; what is broken is left out."""

    def __init__(
        self,
        source: Path,
        class_ids: dict[Identity, int],
        problems: Problems,
        sources: Mapping[Any, str | os.PathLike[str]],
    ) -> None:
        self.source, self.sources = source, sources
        self.class_ids, self.problems = class_ids, problems
        self.images: dict[Identity, Record] = {}
        self.left_out: dict[Any, Any] = {}  # file names by id; annotations go with their image

    def _error(self, error: Exception, image: Any, annotation: Any = None) -> None:
        place = {"image": image, "annotation": annotation, "field": getattr(error, "field", None)}
        self.problems.error(str(error), file=self.sources.get(image, self.source), **place)

    def read_images(
        self, entries: list[Record], finder: PictureFinder | None, known: dict[Identity, int]
    ) -> None:
        given: dict[Identity, Record] = {}
        for entry in entries:
            number = entry.get("id")
            try:
                number = field(entry, "id", identity)
                other = given.setdefault(number, entry)
                if other is entry:
                    self.images[number] = read_image(entry, finder, known)
                elif other != entry:
                    name = short(other.get("file_name"))
                    text = f"occurs twice, the other time as {name}: whose annotations are whose?"
                    raise FieldError("id", text)
                else:
                    place = {"image": number, "left_out": 1}
                    self.problems.warning("occurs twice", file=self.source, **place)
            except (ValueError, DataError) as error:
                named = number if isinstance(number, int | str) else short(number)
                self._error(error, named)
                self.left_out[named] = self.images.pop(named, None)
        if finder is not None and finder.otherwise:
            (name, found), some = next(iter(finder.otherwise.items())), len(finder.otherwise)
            text = f"{some} of {len(entries)} file names are not quite those of the files: "
            text += f"{short(name)} is taken to be {found}"
            self.problems.warning(text, file=self.source, field="file_name")

    def read_annotations(self, entries: list[Record]) -> None:
        notes: list[tuple[str, Record]] = []

        def note(text: str, **place: Any) -> None:
            notes.append((text, place))

        ids, numbers = _Ids(entries), Counter[Any]()
        for entry in entries:
            image_id, named = _plain(entry.get("image_id")), _plain(entry.get("id"))
            if image_id in self.left_out:
                self.problems.left_out += 1
                continue
            if named is None:
                numbers[image_id] += 1
                place = entry.get("place")  # in the file of another tool
                named = place if type(place) is int else numbers[image_id]
            image = self.images.get(image_id)
            try:
                own = ids.take(entry, note)
                if own is not None and not _is_empty_proxy(entry):
                    if image is None:
                        raise FieldError("image_id", f"{short(image_id)} is no image of the file")
                    category = self._category(entry.get("category_id"))
                    image["annotations"].append(read_annotation(entry, own, image, category, note))
            except ValueError as error:
                self._error(error, None if image is None else image_id, named)
                notes.clear()
            for text, place in notes:
                file = self.sources.get(image_id, self.source)
                self.problems.warning(text, file=file, image=image_id, annotation=named, **place)
            notes.clear()

    def _category(self, value: Any) -> int:
        if type(value) is not int:
            value = field({"category_id": value}, "category_id", identity)
        if value not in self.class_ids:
            raise FieldError("category_id", f"{short(value)} is not among the categories")
        return self.class_ids[value]


class _Ids:
    """Gives every annotation an id that no other has: its own, if that is possible."""

    def __init__(self, entries: list[Record]) -> None:
        largest = max((e["id"] for e in entries if type(e.get("id")) is int), default=0)
        self.spare = count(max(largest, 0) + 1)
        self.seen: dict[Identity, Record] = {}

    def take(self, entry: Record, note: Note) -> Identity | None:
        """None if the annotation is there twice."""
        if entry.get("id") is None:
            return next(self.spare)
        own: Identity = field(entry, "id", identity)
        other = self.seen.setdefault(own, entry)
        if other is entry:
            return own
        if other == entry:
            note("occurs twice", left_out=1)
            return None
        own = next(self.spare)
        note(f"id occurs twice; this one counts as {own}", field="id")
        return own


def _plain(value: Any) -> Any:
    """An id; of what is none a short text, of None None."""
    if value is None or type(value) is int:
        return value
    try:
        return identity(value)
    except ValueError:
        return value if isinstance(value, float) else short(value)


def _is_empty_proxy(entry: Record) -> bool:
    """A box without area in a file of the original BoxCaseg, which copies those of COCO.

    It has a confidence and no score; nothing can be learnt from it.
    """
    box = entry.get("bbox")
    proxy = "confidence" in entry and "score" not in entry
    return proxy and isinstance(box, list) and len(box) == 4 and 0 in box[2:]


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
    source = Path(source)
    with naming(str(source)):
        entries = _entries(content, problems, source)
        names = read_categories(entries, problems, source)
    class_names = tuple(dict.fromkeys(names.values()))
    ranks: dict[Identity, int] = {name: rank for rank, name in enumerate(class_names)}
    class_ids = {number: ranks[name] for number, name in names.items()}
    checker = _Checker(source, class_ids, problems, sources or {})
    finder = None if image_root is None else PictureFinder(image_root)
    checker.read_images(entries["images"], finder, ranks | class_ids)
    checker.read_annotations(entries["annotations"])
    info = content.get("info")
    return CocoFile(
        path=source,
        info=info if isinstance(info, dict) else {},
        class_names=class_names,
        class_ids=class_ids,
        images=[checker.images[i] for i in sorted(checker.images, key=by_rank)],
    )


@contextmanager
def _without_collections() -> Iterator[None]:
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


@_without_collections()
def read_coco(path: str | os.PathLike[str], *, image_root: Path | None = None) -> CocoFile:
    """Read and check a COCO JSON file; sizes that it lacks are read from images in ``image_root``.

    Raises:
        DataError: with all that is wrong, or only odd: the image or annotation id, and the field.
    """
    problems = Problems(strict=True)
    file = check_content(load_json(path), path, problems, image_root=image_root)
    problems.raise_errors("correct the file")
    return file


@_without_collections()
def load_coco_dataset(
    path: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    problems: Problems | None = None,
    *,
    content: Any = None,
    sources: Mapping[Any, str | os.PathLike[str]] | None = None,
) -> tuple[list[Record], tuple[str, ...], dict[Identity, int]]:
    """Dataset dicts of a COCO JSON file, with image labels; class names; category id to class id.

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
        content = load_json(path) if content is None else content
        file = check_content(content, path, found, image_root=root, sources=sources)
        records = tell_contradictions(file.images, path, found)
    for record in records:
        record["file_name"] = str(root / record["file_name"])
        record.pop("image_key", None)  # the data set has keys of its own
        present = {a["category_id"] for a in record["annotations"]}
        record.setdefault("image_labels", sorted(present))
    return records, file.class_names, file.class_ids


class ImageIndex:
    """Finds a dataset dict's image in a file.

    In a file with ``image_key`` it goes by the key. Keys change if the data set is another
    selection of the same images: then by image id and file name together. In files without keys
    (the originals') it goes by file name alone: of several images of one name it takes the one
    whose path has the longest common end, then the one with the same id.

    Raises:
        DataError: an image key occurs twice.
    """

    def __init__(self, file: CocoFile) -> None:
        self.path = file.path
        self.by_name: dict[str, list[Record]] = {}
        self.by_key: dict[str, Record] = {}
        for image in file.images:
            self.by_name.setdefault(Path(image["file_name"]).name, []).append(image)
            key = image.get("image_key")
            if key in self.by_key:
                raise DataError(f"{file.path}: image {image['image_id']}: image_key {key} again")
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

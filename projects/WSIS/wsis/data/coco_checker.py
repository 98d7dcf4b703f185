"""Checks the lists of a COCO file, and gives images their annotations."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np

from wsis.data.checks import field, identity, naming, short
from wsis.data.coco_fields import (
    Identity,
    Note,
    Record,
    by_rank,
    read_annotation,
    read_categories,
    read_image,
)
from wsis.data.contradictions import Contradictions
from wsis.data.long_lists import Unusual, whole
from wsis.data.picture_names import PictureFinder
from wsis.data.problems import FieldError, Problems
from wsis.data.records import Parts, pack
from wsis.data.usual_annotations import by_text, pack_usual
from wsis.errors import DataError

_AT_ONCE = 1024  # annotations


class Checker:
    """Checks the images and annotations of one file; what is broken is left out."""

    def __init__(
        self,
        source: str | os.PathLike[str],
        problems: Problems,
        sources: Mapping[Any, str | os.PathLike[str]] | None = None,
    ) -> None:
        self.source, self.sources, self.problems = Path(source), sources or {}, problems
        self.class_ids: dict[Identity, int] = {}
        self.images: dict[Identity, Record] = {}
        self.left_out: dict[Any, Any] = {}  # file names by id; annotations go with their image

    def _error(self, error: Exception, image: Any, annotation: Any = None) -> None:
        place = {"image": image, "annotation": annotation, "field": getattr(error, "field", None)}
        self.problems.error(str(error), file=self.sources.get(image, self.source), **place)

    def begin(
        self,
        entries: Mapping[str, list[Record]],
        used: Callable[[], set[Any]],
        image_root: str | os.PathLike[str] | None,
    ) -> tuple[str, ...]:
        """Check categories and images; returns the names of the classes."""
        with naming(str(self.source)):
            names = read_categories(entries["categories"], used, self.problems, self.source)
        class_names = tuple(dict.fromkeys(names.values()))
        ranks: dict[Identity, int] = {name: rank for rank, name in enumerate(class_names)}
        self.class_ids = {number: ranks[name] for number, name in names.items()}
        finder = None if image_root is None else PictureFinder(image_root)
        self._read_images(entries["images"], finder, ranks | self.class_ids)
        return class_names

    def in_order(self) -> list[Record]:
        """The images in ascending order of their ids."""
        return [self.images[number] for number in sorted(self.images, key=by_rank)]

    def keep(self, image: Record, annotation: Record) -> None:
        """What becomes of an annotation that is sound."""
        image["annotations"].append(annotation)

    def _read_images(
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

    def read_annotations(self, entries: Iterable[Record], ids: Ids) -> None:
        """Check annotations, and `keep` them."""
        notes: list[tuple[str, Record]] = []

        def note(text: str, **place: Any) -> None:
            notes.append((text, place))

        numbers = Counter[Any]()
        for entry in entries:
            if type(entry) is not dict:
                raise Unusual
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
                    self.keep(image, read_annotation(entry, own, image, category, note))
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


class Packer(Checker):
    """Keeps annotations as bytes, and looks for contradictions while it sees them.

    Attributes:
        parts: the annotations.
        contradictions: what they say against each other.
    """

    def __init__(self, source: str | os.PathLike[str], problems: Problems) -> None:
        super().__init__(source, problems)
        self.parts, self._row = Parts(), 0
        self._ranks: dict[Identity, int] = {}
        self._places: list[np.ndarray] = []  # (n, 3): image, row in the file, class id

    @property
    def places(self) -> np.ndarray:
        """(n, 3) int64: for each of the parts the place of its image, its row, and class id."""
        return np.concatenate([np.zeros((0, 3), dtype=np.int64), *self._places])

    def keep(self, image: Record, annotation: Record) -> None:
        self.contradictions.see(image, annotation)
        place = self._ranks[image["image_id"]], self._row, annotation["category_id"]
        self._places.append(np.array([place]))
        self.parts.add(pack(annotation))

    def read_all(self, entries: Iterable[Record]) -> None:
        """Check and keep the annotations of a file, as `LongLists.entries` gives them.

        Raises:
            Unusual: two have one id, or one has none.
        """
        images, ids = self.in_order(), StatedIds()
        self.contradictions = Contradictions(images)
        self._ranks = {image["image_id"]: rank for rank, image in enumerate(images)}
        free = {n: r for n, r in self._ranks.items() if "image_labels" not in images[r]}
        places, class_ids = by_text(free), by_text(self.class_ids)
        sizes = np.array([(i["width"], i["height"]) for i in images], dtype=np.float64)
        rest, before = iter(entries), 0
        while some := [*islice(rest, _AT_ONCE)]:
            usual = pack_usual(some, places, sizes, class_ids, self.contradictions)
            others = set(range(len(some)))
            if usual is not None:
                others -= {*usual.rows.tolist()}
                ids.claim(usual.ids)
                self._places.append(np.stack([usual.owners, before + usual.rows, usual.classes], 1))
                self.parts.add_many(usual.data, usual.ends)
            for row in sorted(others):
                self._row = before + row
                self.read_annotations((whole(some[row]),), ids)
            before += len(some)
        if not ids.differ():
            raise Unusual


class Ids:
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


class StatedIds(Ids):
    """Those of a file in which every annotation has one of its own."""

    def __init__(self) -> None:
        self._known: set[Identity] = set()
        self._numbers: list[np.ndarray] = []

    def take(self, entry: Record, note: Note) -> Identity:
        """Its id.

        Raises:
            Unusual: it has none, or that of another one.
        """
        own: Identity = field(entry, "id", _stated)
        if own in self._known:
            raise Unusual
        self._known.add(own)
        return own

    def claim(self, numbers: np.ndarray) -> None:
        """Note that annotations have these ids."""
        self._numbers.append(numbers)

    def differ(self) -> bool:
        """Whether no id was there twice."""
        if not self._numbers:
            return True
        found = np.unique(np.concatenate(self._numbers))
        whole = sum(map(len, self._numbers)) == len(found)
        return whole and self._known.isdisjoint(found.tolist())


def _stated(value: Any) -> Identity:
    if value is None:
        raise Unusual
    return identity(value)


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

"""Collects what another tool's file says as the content of a COCO file, which `coco.py` checks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsis.data.checks import field, read_lines, short
from wsis.data.coco import load_coco_dataset
from wsis.data.formats.shapes import union
from wsis.data.images import check_stated_size, read_image_size
from wsis.data.label_colours import NO_CLASS, without_background
from wsis.data.picture_names import PictureFinder
from wsis.data.problems import FieldError, Problems
from wsis.errors import did_you_mean

TURNED = "turned rectangles, which count as masks"  # `Builder.noted`
_TOLD = 3  # names of a message


@dataclass(frozen=True)
class Translated:
    """The content of a COCO file that another tool's files stand for.

    Attributes:
        content: ``images``, ``categories``, ``annotations``.
        source: the file or folder it comes from.
        sources: image id to the label file of that image, where each has its own.
        root: the folder that ``file_name`` is relative to.
    """

    content: dict[str, list[dict[str, Any]]]
    source: Path
    sources: dict[int | str, str]
    root: Path

    def load(self, problems: Problems) -> tuple[Sequence[dict[str, Any]], tuple[str, ...], Any]:
        """As `load_coco_dataset`, which checks it all."""
        return load_coco_dataset(
            self.source, self.root, problems, content=self.content, sources=self.sources
        )


class Builder:
    """Collects images, objects and tags; finds the pictures, whatever path a tool wrote.

    Args:
        source: the file or folder that is read, for messages.
        root: the folder of the pictures and of its folders.
        problems: pictures that are missing, and what is left out.
    """

    def __init__(self, source: str | Path, root: str | Path, problems: Problems) -> None:
        self.source, self.root, self.problems = Path(source), Path(root), problems
        self.finder = PictureFinder(root)
        self.pictures = self.finder.pictures
        self.images: dict[int | str, dict[str, Any]] = {}
        self.sources: dict[int | str, str] = {}
        self.passed: Counter[str] = Counter()  # what nobody can miss, by the reason
        self.noted: Counter[str] = Counter()  # what is read all the same
        self.annotations: list[tuple[str, dict[str, Any]]] = []
        self._groups: dict[tuple[int | str, str, Any], dict[str, Any]] = {}
        self._tags: dict[int | str, list[str]] = {}

    def image(
        self,
        name: Any,
        *,
        identity: int | None = None,
        size: tuple[Any, Any] = (None, None),
        source: str | Path | None = None,
    ) -> int | str | None:
        """Add an image; returns its id, or None, with a problem, where its picture is not found.

        Args:
            name: as the tool writes it, see `PictureFinder`.
            identity: its id in the file; else it is the path of its picture.
            size: (H, W) as stated; what is no size counts as none.
            source: the label file of this image.
        """
        with self.problems.leaving_out(file=source or self.source, image=str(name)[:200]):
            path: str = field({"file_name": name}, "file_name", self.finder.locate)
            own = path if identity is None else identity
            if own in self.images:
                raise FieldError("id", f"{own} is that of {self.images[own]['file_name']}, too")
            self.images[own] = {"id": own, "file_name": path}
            if all(type(side) is int and side > 0 for side in size):
                self.images[own] |= {"height": size[0], "width": size[1]}
            if source is not None:
                self.sources[own] = str(source)
            return own
        return None

    def size(self, image: int | str) -> tuple[int, int]:
        """(H, W) as stated, else from the picture; ValueError where it is absurd or unreadable."""
        about = self.images[image]
        if "height" not in about:
            path = self.root / about["file_name"]
            about["height"], about["width"] = read_image_size(path)
        return check_stated_size((about["height"], about["width"]), None)

    def add(
        self, image: int | str, label: Any, shape: Mapping[str, Any], place: int, group: Any = None
    ) -> None:
        """Add an object, or a part of one: parts have one ``group``, which is not None.
        ``place`` is the number of the object in its image, or the line, for messages.

        Polygons and masks of a group are joined; a box or point joins an object without one.

        Raises:
            FieldError: no label.
        """
        name = _name(label)
        if name in NO_CLASS:
            self.passed[f"object labelled {name}"] += 1
            return
        whole = self._groups.get((image, name, group)) if group is not None else None
        if whole is not None and whole.keys() & shape.keys() == {"segmentation"}:
            both = whole["segmentation"], shape["segmentation"]
            whole["segmentation"] = union(*both, lambda: self.size(image))
            return
        if whole is not None and not whole.keys() & shape.keys():
            whole.update(shape)
            return
        annotation = {"image_id": image, "place": place, **shape}
        self.annotations.append((name, annotation))
        if group is not None:
            self._groups.setdefault((image, name, group), annotation)

    def tag(self, image: int | str, labels: Iterable[Any]) -> None:
        """Say which classes an image has, beside those of its objects."""
        for name in map(_name, labels):
            if name not in NO_CLASS:
                self._tags.setdefault(image, []).append(name)

    def finish(self, classes: Mapping[int, str] | None = None) -> Translated:
        """What was collected, and warnings about what was not.

        Args:
            classes: category id to name, in the tool's order; else the labels found, sorted.
                Without it, a data set that has objects takes tags only of their classes: others
                tell something else about the image.
        """
        used = {name for name, _ in self.annotations}
        tags = {tag for names in self._tags.values() for tag in names}
        if classes is None:
            classes = dict(enumerate(sorted(used or tags), start=1))
        ids = {name: identity for identity, name in classes.items()}
        annotations = []
        for name, annotation in self.annotations:
            if name in ids:
                annotations.append(annotation | {"category_id": ids[name]})
                continue
            image = annotation["image_id"]
            file, place = self.sources.get(image, self.source), self.images[image]["file_name"]
            message = f"{short(name)} is none of the classes ({', '.join(ids)[:200]})"
            message += did_you_mean(name, ids)
            self.problems.error(
                message, file=file, image=place, annotation=annotation["place"], field="label"
            )
        present: dict[int | str, set[int]] = {image: set() for image in self._tags}
        for annotation in annotations:
            if annotation["image_id"] in present:
                present[annotation["image_id"]].add(annotation["category_id"])
        for image, names in self._tags.items():
            present[image] |= {ids[name] for name in names if name in ids}
            self.passed.update(f"tag {short(n)}, which is no class" for n in names if n not in ids)
            self.images[image]["image_labels"] = sorted(present[image])
        for what, count in (+self.passed).items():
            self.problems.warning(f"{what}: {count} left out", left_out=count, file=self.source)
        for what, count in (+self.noted).items():
            self.problems.warning(f"{what}: {count}", file=self.source)
        content = {
            "images": list(self.images.values()),
            "categories": [{"id": identity, "name": name} for identity, name in classes.items()],
            "annotations": annotations,
        }
        return Translated(content, self.source, self.sources, self.root)

    def pass_over_others(self, reason: str) -> None:
        """Count the pictures of the folder that no image of the file has."""
        named = {image["file_name"] for image in self.images.values()}
        others = [picture for picture in self.pictures if picture not in named]
        if others:
            first = ", ".join(others[:_TOLD]) + (", ..." if len(others) > _TOLD else "")
            self.passed[f"{reason} ({first})"] += len(others)


def declared_classes(folders: Iterable[Path]) -> dict[int, str] | None:
    """Category ids from 1 and names of the ``labels.txt`` or ``classes.txt`` in a folder."""
    files = (folder / name for folder in folders for name in ("labels.txt", "classes.txt"))
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return None
    names = without_background(list(filter(None, read_lines(file, "class list"))))
    return dict(enumerate(names, start=1))


def _name(label: Any) -> str:
    """A class name; numbers count as their text."""
    text = str(label) if type(label) in (int, float) else label
    if not isinstance(text, str) or not text.strip():
        raise FieldError("label", f"is {short(label)}, which is no class name")
    return text.strip()

"""YOLO: a text file for each image, a line for each object: boxes, or polygons, in shares of 1."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from wsis.data.checks import integer, number, read_lines, short
from wsis.data.formats.builder import Builder, Translated
from wsis.data.formats.shapes import Shape, outline, rectangle
from wsis.data.images import pictures_below
from wsis.data.picture_names import ends_of
from wsis.data.problems import Problems
from wsis.errors import DataError
from wsis.reading import read_text, read_yaml

NAME_FILES = ("classes.txt", "obj.names", "names.txt", "labels.txt")
_ALSO = {"val": ("valid", "validation"), "valid": ("val",)}  # a split's other names
_LOOKED_AT = 50  # pictures
_REACH = 0.5  # so far outside may a share be that was rounded, or is of an object cut off
_FOUR_CORNERS = "objects, all with 4 corners; turned rectangles count as masks"


def read_yolo(entry: dict[str, Any], problems: Problems) -> Translated:
    """Read ``ROOT``, perhaps a ``SPLIT`` of it, or ``IMAGES`` and ``LABELS``.

    ``ROOT`` is a folder, or its YAML file. The class names are ``CLASSES``, else those of the YAML
    file or of one of `NAME_FILES`, else the numbers in the label files. An image without label file
    has no object.

    Raises:
        DataError: no such split, no label file at all.
    """
    source = root = Path(entry.get("ROOT") or entry["IMAGES"])
    labels = Path(entry["LABELS"]) if "LABELS" in entry else None
    if root.is_file():
        root = source.parent / str(yaml_with_names([source]).get("path", "."))
        root = root if root.is_dir() else source.parent
    own, above = [root], list(root.parents)[:2]  # a root may be images/train
    if labels is not None:
        own, above = [labels, root], [labels.parent, *above]
    yamls = [source, *(file for place in own for file in sorted(place.glob("*.y*ml")))]
    yamls += [place / name for place in above for name in ("data.yaml", "dataset.yaml")]
    config = yaml_with_names(yamls)
    classes = _classes(entry.get("CLASSES"), config, own + above, source)
    builder = Builder(source, root, problems)
    named, used = bool(classes), set()
    missing, corners = 0, set()
    for picture in _pictures(builder, config, entry.get("SPLIT")):
        file = next((f for f in _label_files(picture, root, labels) if f.is_file()), None)
        image = builder.image(picture, source=file)
        missing += file is None
        used.add(file)
        if file is None or image is None:
            continue
        try:
            size = builder.size(image)
        except (ValueError, DataError):  # told when the image is checked
            continue
        for line, category, shape in _objects(file, picture, size, config, problems):
            if not named:
                classes[category] = str(category)
            builder.add(image, classes.get(category, f"class {category}"), shape, line)
            corners.add(len(shape.get("segmentation", [[]])[0]))
    if missing == len(builder.images):
        raise DataError(
            f"{source}: none of {missing} images has a label file: labels/a.txt belongs to "
            "images/a.jpg, or a.txt to a.jpg beside it, or give IMAGES and LABELS"
        )
    if missing:
        builder.noted["images without a label file, which count as without objects"] += missing
    if not entry.get("SPLIT"):
        _tell_unused({file for file in used if file}, source, problems)
    if not named:
        problems.warning(
            "no class names, so that numbers stand for them; add data.yaml with names, or "
            "classes.txt with one name in a line, in the order of their numbers, or give CLASSES",
            file=source,
        )
    if corners == {8}:
        builder.noted[_FOUR_CORNERS] += len(builder.annotations)
    return builder.finish(dict(sorted(classes.items())))


def _tell_unused(used: set[Path], source: Path, problems: Problems) -> None:
    """Warn of label files that no picture takes; lists and class names lie beside some."""
    beside = {*NAME_FILES, *(f"{split}.txt" for split in ("train", "test", *_ALSO))}
    texts = {text for folder in {file.parent for file in used} for text in folder.glob("*.txt")}
    spare = sorted(text for text in texts - used if text.name not in beside)
    if spare:
        said = f"label files without a picture: {len(spare)}, for example {spare[0].name}"
        problems.warning(said, file=source, left_out=len(spare))


def is_yolo(root: Path) -> bool:
    """Whether a folder has a YAML file with class names, or label files of its first pictures."""
    first = pictures_below(root)[:_LOOKED_AT]
    labels = (file for picture in first for file in _label_files(picture, root, None))
    return bool(yaml_with_names(sorted(root.glob("*.y*ml")))) or any(map(Path.is_file, labels))


def yaml_with_names(files: Iterable[Path]) -> dict[str, Any]:
    """The first YAML file with class ``names``, or {}.

    Raises:
        DataError: one that calls itself ``data`` or ``dataset`` is none.
    """
    for file in files:
        if not file.is_file():
            continue
        try:
            content = read_yaml(file)
        except (OSError, ValueError) as error:
            if file.stem not in ("data", "dataset"):
                continue
            raise DataError(f"{file} is not a readable YAML file ({error})") from error
        if isinstance(content, dict) and isinstance(content.get("names"), (list, dict)):
            return content
    return {}


def _classes(
    stated: Any, config: dict[str, Any], places: list[Path], source: Path
) -> dict[int, str]:
    """Class names by YOLO's number; none where nothing states them."""
    names = stated or config.get("names")
    if isinstance(names, dict):
        if not all(str(key).isdecimal() for key in names):
            raise DataError(f"{source}: names has {short(list(names))}, not numbers from 0")
        return {int(key): str(name) for key, name in names.items()}
    if names:
        return {key: str(name) for key, name in enumerate(names)}
    files = [place / name for place in places for name in NAME_FILES]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return {}
    return {key: name for key, name in enumerate(read_lines(file, "class list")) if name}


def _pictures(builder: Builder, config: dict[str, Any], split: str | None) -> list[str]:
    """The pictures of a split, or all; of a tree with ``images`` only those in such a folder."""
    if split is None:
        below = [p for p in builder.pictures if "images" in PurePosixPath(p).parts[:-1]]
        return below or builder.pictures
    names = (split, *_ALSO.get(split, ()))
    stated = next((config[name] for name in names if config.get(name)), None)
    if stated is None:
        lists = (builder.root / f"{name}.txt" for name in names)
        stated = next((file.name for file in lists if file.is_file()), None)
    found: list[str] = []
    for value in stated if isinstance(stated, list) else [] if stated is None else [stated]:
        found += _listed(builder, str(value))
    if stated is None:
        parts = ((p, PurePosixPath(p).parts[:-1]) for p in builder.pictures)
        found = [picture for picture, folders in parts if set(names) & set(folders)]
    if not found:
        raise DataError(
            f"{builder.source}: no image of the split {split}: there is no folder of that name, "
            f"no {split}.txt, and no YAML file whose {split} names a folder with images"
        )
    return list(dict.fromkeys(found))


def _listed(builder: Builder, value: str) -> list[str]:
    """The pictures of a folder, or in a list; of a path of another machine its end counts."""
    parts = [part for part in value.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    for end in ends_of("/".join(parts)):
        if end.endswith(".txt") and (builder.root / end).is_file():
            found = []
            for line in filter(None, read_lines(builder.root / end, "image list")):
                with builder.problems.leaving_out(file=builder.root / end):
                    found.append(builder.finder.locate(line))
            return found
        below = [p for p in builder.pictures if not end or p.startswith(f"{end}/")]
        if below:
            return below
    return []


def _label_files(picture: str, root: Path, labels: Path | None) -> Iterator[Path]:
    """Where the label file of a picture may be."""
    for text in map(PurePosixPath(picture).with_suffix, (".txt", ".TXT")):
        if labels is not None:
            yield from (labels / text, labels / text.name)
            continue
        parts = (root / text).parts
        if "images" in parts[:-1]:
            last = len(parts) - 2 - parts[-2::-1].index("images")
            yield Path(*parts[:last], "labels", *parts[last + 1 :])
        yield from (root / text, root / "labels" / text)


def _objects(
    file: Path, picture: str, size: tuple[int, int], config: dict[str, Any], problems: Problems
) -> Iterator[tuple[int, int, Shape]]:
    """Number, class number and shape of each line; a broken line is a problem."""
    with problems.leaving_out(file=file, image=picture):
        for line, text in enumerate(read_text(file).splitlines(), start=1):
            if fields := text.split():
                with problems.leaving_out(file=file, image=picture, annotation=line):
                    yield line, *_object(fields, size, config.get("kpt_shape"))


def _object(fields: list[str], size: tuple[int, int], keypoints: Any) -> tuple[int, Shape]:
    """A line: class, box [confidence]; or class, x, y of 3 corners or more [confidence]."""
    try:
        category, *values = (number(float(field)) for field in fields)
    except ValueError:
        raise ValueError(f"is {short(' '.join(fields))}, not numbers") from None
    if category < 0 or category != int(category):
        raise ValueError(f"begins with {fields[0]}, not the number of a class")
    pose = isinstance(keypoints, list) and len(values) == 4 + math.prod(map(integer, keypoints))
    if pose or len(values) in (4, 5):
        values = values[:4]
    elif len(values) >= 6:
        values = values[: len(values) // 2 * 2]
    else:
        raise ValueError(f"has {len(fields)} columns; a box has 5, a polygon 7, 9, 11, ...")
    if not -_REACH <= min(values) <= max(values) <= 1 + _REACH:
        raise ValueError(f"holds {max(values, key=abs):g}; shares of width and height are wanted")
    scaled = [value * size[1 - place % 2] for place, value in enumerate(values)]
    if len(scaled) > 4:
        return int(category), outline(scaled)
    x, y, width, height = scaled
    corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return int(category), rectangle(*corners)

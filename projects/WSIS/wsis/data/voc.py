"""PASCAL VOC and every data set laid out like it.

A VOC root holds ``JPEGImages``, ``Annotations`` (XML), ``ImageSets`` (lists), and, with masks,
``SegmentationObject`` and ``SegmentationClass`` (PNG). ``SegmentationObjectAug`` and
``SegmentationClassAug`` hold what ``datasets/prepare_sbd.py`` made of SBD for images without VOC
masks. Nothing is read before Detectron2 asks for the data set.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wsis.data.checks import inside, read_lines, short
from wsis.data.images import IMAGE_SUFFIXES, pictures_in, read_label_map
from wsis.data.label_colours import LABEL_MAP_FILE, read_label_colours, without_background
from wsis.data.problems import Problems, collecting
from wsis.data.voc_xml import names_in_xml, read_voc_xml
from wsis.errors import DataError

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
CLASSES_FILE = "classes.txt"
_CLASSES_FILES = (CLASSES_FILE, "class_names.txt")  # the other one is of labelme
ANNOTATIONS = "Annotations"
_MASKS = {"instance_file_name": "SegmentationObject", "semantic_file_name": "SegmentationClass"}
_FLAGGED = re.compile(r"(.+?)\s+(?:-1|0|1)")  # a line of the lists in ImageSets/Main


def _read_lines(path: Path, what: str) -> list[str]:
    """The lines of a file that are not empty, stripped; at least one."""
    lines = [line for line in read_lines(path, what) if line]
    if not lines:
        raise DataError(f"{what} {path} is empty")
    return lines


def _once(names: Sequence[str], what: str, path: Path) -> None:
    if len(set(names)) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise DataError(f"{what} {path} names {twice} twice")


def read_list(
    path: str | os.PathLike[str], known: Container[str] = (), problems: Problems | None = None
) -> list[str]:
    """Image names in a list file: its lines that are not empty.

    The flags 1, 0 and -1 of the lists in ``ImageSets/Main`` are no part of the names if each line
    has one. ``known`` are the names there are: a line may have the suffix, or folders, besides.
    A name that is there twice or leaves the folder is left out and one of the ``problems``; without
    these it is raised.

    Raises:
        DataError: missing, not text or empty, or as stated.
    """
    path = Path(path)
    lines = _read_lines(path, "image list")
    flagged = [_FLAGGED.fullmatch(line) for line in lines]
    if all(flagged):
        pairs = zip(lines, flagged, strict=True)
        lines = [line if line in known else match[1] for line, match in pairs if match]
    told, names = Problems(strict=True) if problems is None else problems, dict[str, None]()
    for line in lines:
        with told.leaving_out(file=path):
            name = _name_of(line, known)
            if name in names:
                told.warning(f"image list {path} names {name} twice", left_out=1, file=path)
            names[inside(name, colon=True)] = None
    if problems is None:
        told.raise_errors("correct the list")
    return list(names)


def _name_of(line: str, known: Container[str]) -> str:
    stem, suffix = os.path.splitext(line)
    bare = stem if suffix.lower() in IMAGE_SUFFIXES else line
    base = re.split(r"[/\\]", bare)[-1]
    return next((name for name in (line, bare, base) if name in known), line)


def find_lists(root: Path) -> dict[str, Path]:
    """The lists of images by split; those in ``Segmentation`` come before those in ``Main``."""
    kinds = (root / "ImageSets" / kind for kind in ("", "Main", "Segmentation"))
    return {path.stem: path for kind in kinds for path in sorted(kind.glob("*.txt"))}


def xmls_in(folder: Path) -> dict[str, Path]:
    """The XML files in a folder by stem, sorted; none where there is no such folder."""
    return {path.stem: path for path in sorted(folder.glob("*.[xX][mM][lL]"))}


def pictures_by_stem(folder: Path) -> dict[str, Path]:
    """The pictures in a folder, by file name without suffix; if stems are equal, the first."""
    return {path.stem: path for path in reversed(pictures_in(folder))}


def read_classes(root: str | os.PathLike[str]) -> tuple[str, ...] | None:
    """Class names that a root states: the lines of its ``classes.txt`` or ``class_names.txt``, else
    its ``labelmap.txt``.

    Raises:
        DataError: the file cannot be read, or names one twice.
    """
    files = (Path(root) / name for name in _CLASSES_FILES)
    if path := next((path for path in files if path.is_file()), None):
        names = without_background(_read_lines(path, "class list"))
        _once(names, "class list", path)
        return tuple(names)
    path = Path(root) / LABEL_MAP_FILE
    return read_label_colours(path)[0] if path.is_file() else None


def find_classes(xmls: Path, problems: Problems | None = None) -> tuple[str, ...]:
    """Class names where nothing states them: VOC's twenty if the XML files know no others, else
    theirs, ascending, which is told; masks beside them need a list, since they hold numbers."""
    found = {name for path in xmls_in(xmls).values() for name in names_in_xml(path)}
    if found <= set(VOC_CLASSES) or (xmls.parent / _MASKS["semantic_file_name"]).is_dir():
        return VOC_CLASSES
    names = tuple(sorted(found))
    with collecting(problems) as told:
        text = f"its classes are those of the XML files, since no {CLASSES_FILE} names them: "
        told.warning(text + ", ".join(names)[:400], file=xmls)
    return names


def _labels_of_mask(path: str, classes: Sequence[str]) -> tuple[tuple[int, int], list[int]]:
    """(H, W) of a semantic mask and the class ids in it."""
    label = read_label_map(path)
    present = np.unique(label[(label > 0) & (label < 255)]).tolist()
    if present and present[-1] > len(classes):
        raise DataError(f"{path}: label {present[-1]} of {len(classes)} classes")
    return label.shape, [value - 1 for value in present]


def _record(
    xml: Path, image: Path, files: dict[str, str], classes: Sequence[str], problems: Problems
) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    if xml.is_file():
        size, annotations = read_voc_xml(xml, classes, image=image, problems=problems)
        labels = sorted({a["category_id"] for a in annotations})
    elif "semantic_file_name" in files:
        size, labels = _labels_of_mask(files["semantic_file_name"], classes)
    else:
        raise DataError(f"{xml} does not exist; an image without objects needs an XML without any")
    names = {"file_name": str(image), "image_id": xml.stem, "image_key": xml.stem, **files}
    known = {"height": int(size[0]), "width": int(size[1]), "image_labels": labels}
    return names | known | {"annotations": annotations}


def _classes_of(root: Path, given: Sequence[str] | None, problems: Problems) -> tuple[str, ...]:
    classes = given or read_classes(root) or find_classes(root / ANNOTATIONS, problems)
    path = root / LABEL_MAP_FILE
    if path.is_file() and (of_masks := read_label_colours(path)[0]) != tuple(classes):
        raise DataError(
            f"{path} has the classes {short(of_masks)}, the data set {short(tuple(classes))}; put "
            "the same names into the same order, or remove one of the lists"
        )
    return tuple(classes)


def _masks_in(root: Path, folder: str) -> dict[str, str]:
    """Masks by stem; VOC's own hide those of SBD, and PNGs all others."""
    places = [place for name in (f"{folder}Aug", folder) if (place := root / name).is_dir()]
    files = [path for place in places for path in pictures_in(place)]
    files.sort(key=lambda path: path.suffix.lower() == ".png")
    return {path.stem: str(path) for path in files}


def _missing(name: str, folder: Path, listed_in: Path) -> DataError:
    same = (p for p in folder.iterdir() if p.stem == name)
    others = sorted(p.name for p in same if p.suffix.lower() not in (".xml", ".json", ".txt"))
    there = f"has no {name}.*"
    if others:
        there = f"has {others[0]}, which is none of {', '.join(IMAGE_SUFFIXES)}"
    return DataError(f"{listed_in} names {name}, but {folder} {there}")


def load_voc(
    root: str | os.PathLike[str],
    split: str | None,
    classes: Sequence[str] | None = None,
    problems: Problems | None = None,
) -> list[dict[str, Any]]:
    """Dataset dicts of one split of a VOC root, in the order of its list in ``ImageSets``.

    They have the boxes of the XML and, where there are masks, ``instance_file_name`` and
    ``semantic_file_name``; an image without XML gets its labels from its semantic mask.

    Args:
        root: the folder.
        split: name of a list; None: all pictures with XML or a semantic mask.
        classes: names by class id; None: as `read_classes`, else `find_classes`.
        problems: collects what is wrong, which is then left out; None: it is raised.

    Raises:
        DataError: no such folder or list; without ``problems`` all that is missing or damaged.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"the VOC tree {root} does not exist; see datasets/README.md")
    lists, xmls = find_lists(root), xmls_in(root / ANNOTATIONS)
    listed_in = lists.get(split or "", root / "ImageSets" / "Segmentation" / f"{split}.txt")
    if not listed_in.is_file() and split == "trainaug":
        raise DataError(f"{listed_in} does not exist; run python datasets/prepare_sbd.py first")
    if split is not None and not listed_in.is_file():
        there = f"there are {', '.join(sorted(lists))[:200]}" if lists else "nor any other"
        raise DataError(
            f"image list {listed_in} does not exist ({there}); correct SPLIT, or leave it out "
            "to take all pictures (datasets/README.md)"
        )
    # One listing of a folder beats three look-ups an image.
    images = pictures_by_stem(root / "JPEGImages")
    masks = {key: _masks_in(root, folder) for key, folder in _MASKS.items()}
    records = []
    with collecting(problems) as told:
        classes = _classes_of(root, classes, told)
        labelled = {*xmls, *masks["semantic_file_name"]}
        listed = None if split is None else read_list(listed_in, images, told)
        for name in _with_labels(images, labelled, root, told) if listed is None else listed:
            xml = xmls.get(name, root / ANNOTATIONS / f"{name}.xml")
            with told.leaving_out(file=xml, image=name):
                if name not in images:
                    raise _missing(name, root / "JPEGImages", listed_in)
                files = {key: found[name] for key, found in masks.items() if name in found}
                records.append(_record(xml, images[name], files, classes, told))
    return records


def _with_labels(
    pictures: dict[str, Path], labelled: Container[str], place: Path, problems: Problems
) -> list[str]:
    """The pictures that are ``labelled``, by stem; the others are told."""
    bare = [path.name for name, path in pictures.items() if name not in labelled]
    if bare:
        text = f"pictures without XML file: {len(bare)} of {len(pictures)}, for example {bare[0]}: "
        text += "left out; one without objects needs an empty one"
        problems.warning(text, file=place, left_out=len(bare))
    return sorted(name for name in pictures if name in labelled)


def load_flat_voc(
    images: str | os.PathLike[str],
    xmls: str | os.PathLike[str],
    classes: Sequence[str] | None = None,
    problems: Problems | None = None,
) -> list[dict[str, Any]]:
    """Dataset dicts of the pictures of a folder that have an XML of the same stem in ``xmls``.

    Args:
        images: the folder of pictures.
        xmls: that of the XML files, perhaps the same.
        classes: names by class id; None: as `read_classes` of ``xmls``, else `find_classes`.
        problems: as of `load_voc`.

    Raises:
        DataError: no such folder or no XML in it; without ``problems`` all that is damaged.
    """
    xmls, pictures = Path(xmls), pictures_by_stem(Path(images))
    found = xmls_in(xmls)
    if not found:
        raise DataError(f"{xmls} holds no XML file")
    records = []
    with collecting(problems) as told:
        classes = classes or read_classes(xmls) or find_classes(xmls, told)
        _with_labels(pictures, found, xmls, told)
        for name, xml in found.items():
            with told.leaving_out(file=xml, image=name):
                if name not in pictures:
                    raise _missing(name, Path(images), xml)
                records.append(_record(xml, pictures[name], {}, classes, told))
    return records

"""PASCAL VOC and every data set laid out like it.

A VOC root holds ``JPEGImages``, ``Annotations`` (XML), ``ImageSets`` (lists), and, with masks,
``SegmentationObject`` and ``SegmentationClass`` (PNG). ``SegmentationObjectAug`` and
``SegmentationClassAug`` hold what ``datasets/prepare_sbd.py`` made of SBD for images without VOC
masks. Nothing is read before Detectron2 asks for the data set.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from detectron2.structures import BoxMode

from wsis.data.checks import clip_box, inside, naming, number, short
from wsis.data.images import check_stated_size, pictures_in, read_image_size, read_label_map
from wsis.data.problems import Problems, collecting
from wsis.errors import DataError
from wsis.reading import open_file, read_text

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
CLASSES_FILE = "classes.txt"
_MASKS = {"instance_file_name": "SegmentationObject", "semantic_file_name": "SegmentationClass"}
_MAX_XML_BYTES = 4 << 20  # some 8000 objects


def _read_names(path: Path, what: str, *, first_word: bool) -> list[str]:
    """The lines (or their first words) of a file that are not empty, all different."""
    try:
        lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    except FileNotFoundError:
        raise DataError(f"{what} {path} does not exist; see datasets/README.md") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{what} {path} cannot be read ({error})") from error
    names = [line.split()[0] if first_word else line for line in lines]
    if not names:
        raise DataError(f"{what} {path} is empty")
    if len(set(names)) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise DataError(f"{what} {path} names {twice} twice")
    return names


def read_list(path: str | os.PathLike[str]) -> list[str]:
    """Image names in a list file: the first word of every line that is not empty.

    Raises:
        DataError: missing, not text, empty, a name twice, or a name that leaves the folder.
    """
    names = _read_names(Path(path), "image list", first_word=True)
    with naming(f"image list {path}"):
        return [inside(name, colon=True) for name in names]


def pictures_by_stem(folder: Path) -> dict[str, Path]:
    """The pictures in a folder, by file name without suffix; if stems are equal, the first."""
    return {path.stem: path for path in reversed(pictures_in(folder))}


def read_classes(root: str | os.PathLike[str]) -> tuple[str, ...]:
    """Class names of a VOC root: one per line in its ``classes.txt``, else VOC's twenty."""
    path = Path(root) / CLASSES_FILE
    if not path.is_file():
        return VOC_CLASSES
    return tuple(_read_names(path, "class list", first_word=False))


def _text(node: ElementTree.Element | None, tag: str) -> str:
    return "" if node is None else (node.findtext(tag) or "").strip()


def _coordinate(node: ElementTree.Element | None, tag: str) -> float:
    text = _text(node, tag)
    try:
        return number(float(text))
    except ValueError:
        raise ValueError(f"{tag} is {short(text)}, not a number") from None


def _box(node: ElementTree.Element, size: tuple[int, int]) -> list[float]:
    box = node.find("bndbox")
    x0, y0, x1, y1 = (_coordinate(box, tag) for tag in ("xmin", "ymin", "xmax", "ymax"))
    return clip_box((x0 - 1, y0 - 1, x1, y1), size)  # 1-based, both ends inside the object


class _Builder(ElementTree.TreeBuilder):
    """Refuses a document type, in any encoding, before an entity that it declares is expanded."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it declares a document type, which an annotation has no use for")


def _parse(path: Path) -> ElementTree.Element:
    try:
        with open_file(path, limit=_MAX_XML_BYTES) as stream:
            parser = ElementTree.XMLParser(target=_Builder())
            return ElementTree.parse(stream, parser).getroot()
    except (OSError, ValueError, LookupError, ElementTree.ParseError) as error:
        raise DataError(f"{path} is not a readable XML file ({error})") from error


def _size(tree: ElementTree.Element, image: str | os.PathLike[str]) -> tuple[int, int]:
    """(H, W) from the XML if it has it, else from the image."""
    node = tree.find("size")
    if not (_text(node, "height") or _text(node, "width")):
        return read_image_size(image)
    height, width = _coordinate(node, "height"), _coordinate(node, "width")
    return check_stated_size((int(height), int(width)), image)


def read_voc_xml(
    path: str | os.PathLike[str], classes: Sequence[str], *, image: str | os.PathLike[str]
) -> tuple[tuple[int, int], list[dict[str, Any]]]:
    """Read one annotation file, difficult objects included, in the file's order.

    ``image`` gives the size where the XML has none.

    Returns:
        (H, W), and annotations with ``bbox`` (XYXY_ABS, 0-based, far edges exclusive),
        ``category_id`` (place in ``classes``) and ``difficult`` (0 or 1).

    Raises:
        DataError: naming the file and the object: unknown class, bad number, box without area.
    """
    tree = _parse(Path(path))
    with naming(f"{path}: size"):
        size = _size(tree, image)
    annotations = []
    for index, node in enumerate(tree.iterfind("object"), start=1):
        name = _text(node, "name")
        if name not in classes:
            raise DataError(
                f"{path}: object {index}: unknown class {short(name)}; known are "
                f"{', '.join(classes)[:400]} (own classes: one per line in {CLASSES_FILE} of the "
                "data set's root)"
            )
        with naming(f"{path}: object {index} ({name}): bndbox"):
            found = {"bbox": _box(node, size), "bbox_mode": BoxMode.XYXY_ABS, "iscrowd": 0}
        difficult = int(_text(node, "difficult") in ("1", "1.0", "true"))
        about = {"category_id": list(classes).index(name), "difficult": difficult}
        annotations.append(found | about)
    return size, annotations


def _labels_of_mask(path: str, classes: Sequence[str]) -> tuple[tuple[int, int], list[int]]:
    """(H, W) of a semantic mask and the class ids in it."""
    label = read_label_map(path)
    present = np.unique(label[(label > 0) & (label < 255)]).tolist()
    if present and present[-1] > len(classes):
        raise DataError(f"{path}: label {present[-1]} of {len(classes)} classes")
    return label.shape, [value - 1 for value in present]


def _record(
    xml: Path, image: Path, files: dict[str, str], classes: Sequence[str]
) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    if xml.is_file():
        size, annotations = read_voc_xml(xml, classes, image=image)
        labels = sorted({a["category_id"] for a in annotations})
    elif "semantic_file_name" in files:
        size, labels = _labels_of_mask(files["semantic_file_name"], classes)
    else:
        raise DataError(f"{xml} does not exist; an image without objects needs an XML without any")
    names = {"file_name": str(image), "image_id": xml.stem, "image_key": xml.stem, **files}
    known = {"height": int(size[0]), "width": int(size[1]), "image_labels": labels}
    return names | known | {"annotations": annotations}


def load_voc(
    root: str | os.PathLike[str],
    split: str,
    classes: Sequence[str] | None = None,
    problems: Problems | None = None,
) -> list[dict[str, Any]]:
    """Dataset dicts of one split of a VOC root, in the order of its list in ``ImageSets``.

    They have the boxes of the XML and, where there are masks, ``instance_file_name`` and
    ``semantic_file_name``; an image without XML gets its labels from its semantic mask.
    ``classes`` are names by class id; None reads ``classes.txt`` or takes VOC's.

    Raises:
        DataError: a file is missing, damaged, or names an unknown class.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"the VOC tree {root} does not exist; see datasets/README.md")
    classes = read_classes(root) if classes is None else tuple(classes)
    lists = [root / "ImageSets" / kind / f"{split}.txt" for kind in ("Segmentation", "Main")]
    listed_in = next((path for path in lists if path.is_file()), lists[0])
    if not listed_in.is_file() and split == "trainaug":
        raise DataError(f"{listed_in} does not exist; run python datasets/prepare_sbd.py first")
    names = read_list(listed_in)
    # One listing of a folder beats three look-ups an image.
    images = pictures_by_stem(root / "JPEGImages")
    masks = {
        key: {
            path.stem: str(path)
            for own in (f"{folder}Aug", folder)  # VOC's own masks hide those of SBD
            for path in (root / own).glob("*.png")
        }
        for key, folder in _MASKS.items()
    }
    records = []
    with collecting(problems) as told:
        for name in names:
            with told.leaving_out(image=name):
                if name not in images:
                    folder = root / "JPEGImages"
                    raise DataError(f"{listed_in} names {name}, but {folder} has no {name}.*")
                files = {key: found[name] for key, found in masks.items() if name in found}
                xml = root / "Annotations" / f"{name}.xml"
                records.append(_record(xml, images[name], files, classes))
    return records

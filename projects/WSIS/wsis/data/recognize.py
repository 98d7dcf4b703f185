"""Finds the FORMAT of a file or folder by what is in it."""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import Any

from wsis.data.folders import SPLITS, class_folders
from wsis.data.formats.labelme import label_files
from wsis.data.formats.yolo import is_yolo
from wsis.data.images import pictures_below, pictures_in
from wsis.data.voc import find_lists, xmls_in
from wsis.errors import UsageError, WSISError
from wsis.reading import open_file

Entry = dict[str, Any]
_HEAD = 1 << 16  # bytes that tell what a file is
_LOOKED_AT = 1000  # pictures
_APART = ("annotations", "Annotations")  # folders of the files about pictures beside them
_NO_CLASSES = {"images", "jpegimages", "img", "imgs", "photos", "pictures", "masks", "labels"}
_LABELME = re.compile(r'"(shapes|imageData|imagePath)"\s*:')
_COCO = re.compile(r'"(images|annotations|categories|info|licenses)"\s*:')
_LABELS = (".json", ".xml", ".csv", ".tsv")
_TOOLS = {"labelme": "labelme", "yolo": "YOLO", "via": "VIA", "cvat": "CVAT", "voc": "VOC"}
_ADVICE = "describe it with FORMAT (datasets/README.md)"


def recognize(path: Path, role: str) -> Entry:
    """The entry, without NAME, for a path of any FORMAT but ``salient`` and ``detections``.

    A split is the role's: train or val; the single list of a VOC tree is for training. The images
    of a file lie in ``images`` or ``JPEGImages`` beside it or, if it is in ``annotations``, beside
    that; else beside it.

    Raises:
        UsageError: it is nothing that is known.
    """
    entry = _of_file(path, role) if path.is_file() else _of_folder(path, role)
    if entry is None and path.is_dir():
        files = [file.name for file in sorted(path.iterdir()) if file.suffix.lower() in _LABELS]
        if len(files) > 1:
            raise UsageError(
                f"DATA.{role}: {path} has several files that may be its labels; name one of them: "
                f"{', '.join(files[:5])}{', ...' if files[5:] else ''}"
            )
    if entry is None and path.is_dir() and (pictures := pictures_in(path)):
        raise UsageError(
            f"DATA.{role}: {path} has images ({len(pictures)}), but nothing that says what they "
            f"show; name the folder around it ({path.absolute().parent}) if labels or other "
            f"classes are there, sort them into a folder for each class, or {_ADVICE}"
        )
    if entry is None:
        raise UsageError(
            f"DATA.{role}: {path} is no COCO JSON, no VOC tree (it has no JPEGImages), no CSV, "
            "nothing of YOLO, labelme, VIA, Label Studio or CVAT, and has no class folders with "
            f"images; name the folder that holds labels and images, or {_ADVICE}"
        )
    return entry


def tool_of(path: Path) -> str:
    """The annotation tool, or trainer, in whose form a file or folder is; "" for none but COCO's.

    A file may be one of many, as labelme and YOLO write one for each image.
    """
    if path.suffix.lower() == ".txt" and path.is_file():
        return _TOOLS["yolo"]
    try:
        if path.suffix.lower() == ".json" and _LABELME.search(_head(path)):
            return _TOOLS["labelme"]
        return _TOOLS.get(recognize(path, "VAL")["FORMAT"], "")
    except WSISError:
        return ""


def _head(path: Path) -> str:
    try:
        with open_file(path) as stream:
            data = stream.read(_HEAD)
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return data.decode("utf-16" if wide else "utf-8-sig", errors="replace").lstrip()
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error})") from error


def _with_images(kind: str, key: str, path: Path) -> Entry:
    apart = path.parent.name.lower() == "annotations" and not pictures_in(path.parent)
    above = path.parent.parent if apart else path.parent
    near = [folder / name for folder in (path.parent, above) for name in ("images", "JPEGImages")]
    images = next((folder for folder in near if folder.is_dir()), above)
    return {"FORMAT": kind, key: str(path), "IMAGES": str(images)}


def _of_file(path: Path, role: str) -> Entry | None:
    suffix, head = path.suffix.lower(), _head(path)
    if suffix == ".json":
        return _with_images(_kind_of_json(path, head, role), "JSON", path)
    if suffix == ".xml" and "<annotations" in head:
        return _with_images("cvat", "XML", path)
    if suffix in _LABELS[2:]:
        via = "region_shape_attributes" in head
        return _with_images("via", "JSON", path) if via else _with_images("csv", "CSV", path)
    if suffix in (".yaml", ".yml") and "names" in head:
        return {"FORMAT": "yolo", "ROOT": str(path), "SPLIT": SPLITS.get(role, ("train",))[0]}
    if suffix in (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"):
        raise UsageError(f"DATA.{role}: {path} is an archive; unpack it and name its folder")
    return None


def _kind_of_json(path: Path, head: str, role: str) -> str:
    if head.startswith("["):
        if '"category_id"' in head and '"data"' not in head:
            raise UsageError(
                f"DATA.{role}: {path} is a list of results, as a model writes them; {_ADVICE}"
            )
        return "label_studio"
    if _COCO.search(head):
        return "coco"
    if _LABELME.search(head):
        raise UsageError(f"DATA.{role}: {path} is of one image; name its folder, {path.parent}")
    return "via" if '"_via_' in head or '"filename"' in head else "coco"


def _of_folder(path: Path, role: str) -> Entry | None:
    names = SPLITS.get(role, ("train",))
    lists = find_lists(path)
    tree = any((path / name).is_dir() for name in ("JPEGImages", "SegmentationClass"))
    if tree:
        only = role != "VAL" and len(lists) == 1  # CVAT writes default
        split = {"SPLIT": [*lists][0] if only else names[0]} if lists else {}
        return {"FORMAT": "voc", "ROOT": str(path)} | split
    if is_yolo(path):
        below = {part for p in pictures_below(path) for part in Path(p).parts[:-1]}
        splits = [n for n in names if n in below or (path / f"{n}.txt").is_file()]
        return {"FORMAT": "yolo", "ROOT": str(path)} | ({"SPLIT": splits[0]} if splits else {})
    part = next((path / name for name in names if (path / name).is_dir()), None)
    if part is not None and (entry := _of_folder(part, role)):
        return entry
    places = [path, *(folder for name in _APART if (folder := path / name).is_dir())]
    for xmls in places:
        first = next(iter(xmls_in(xmls).values()), None)
        if first is not None and re.search(r"<annotation[ >]", _head(first)):
            return _with_images("voc", "ANNOTATIONS", first) | {"ANNOTATIONS": str(xmls)}
    if any(_LABELME.search(_head(file)) for file in label_files(path)[:5]):
        return {"FORMAT": "labelme", "IMAGES": str(path)}
    found = [file for place in places for file in sorted(place.iterdir()) if file.is_file()]
    files = [file for file in found if file.suffix.lower() in _LABELS[:2]]
    files = [file for file in files if "instances" in file.stem] or files  # COCO has captions, too
    own = [file for file in files if any(name in file.stem.lower() for name in names)]
    tables = [file for file in found if file.suffix.lower() in _LABELS[2:]]
    classes = [name for name in class_folders(path) if pictures_in(path / name)]
    if classes and not {name.lower() for name in classes} <= _NO_CLASSES:
        tables = [file for file in tables if _names_a_picture(file, path)]
    else:
        classes = []
    for some in (files, own, files + tables, [f for f in tables if f.stem.lower() in names]):
        if len(some) == 1:
            return _of_file(some[0], role)
    return {"FORMAT": "folders", "IMAGES": str(path)} if classes else None


def _names_a_picture(table: Path, root: Path) -> bool:
    head = _head(table).lower()
    stems = {Path(picture).stem.lower() for picture in pictures_below(root)[:_LOOKED_AT]}
    return not stems.isdisjoint(part for part in re.split(r"[\s,;\"/\\]|\.\w+", head) if part)

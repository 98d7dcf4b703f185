"""Checks VOC and SBD trees, and converts SBD's ``.mat`` files to PNGs like VOC's.

``trainaug`` is SBD's train and val without VOC's val, plus VOC's train: 10582 images. Images
without VOC masks get SBD's (``SegmentationObjectAug``, ``SegmentationClassAug``). So one reader
serves all, and no stage reads slow ``.mat`` files.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from tqdm import tqdm

from wsis.data.files import write_lines
from wsis.data.images import MOST_PIXELS, read_image_size
from wsis.data.proposals.mat import load_mat
from wsis.data.shapes_files import write_label_png
from wsis.data.voc import VOC_CLASSES, read_list
from wsis.errors import DataError

VOC_SPLITS = {"train": 1464, "val": 1449, "trainval": 2913}  # images in VOC 2012
TRAINAUG_IMAGES = 10582
_PARTS = {
    "JPEGImages": ".jpg",
    "Annotations": ".xml",
    "SegmentationObject": ".png",
    "SegmentationClass": ".png",
}
_MAX_MAT_BYTES = 64 << 20


def missing_in_voc(root: str | os.PathLike[str]) -> list[str]:
    """What the folder ``VOC2012`` lacks, as sentences; empty if it is complete."""
    root = Path(root)
    if not root.is_dir():
        return [f"{root} does not exist"]
    problems = []
    names: set[str] = set()
    for split, expected in VOC_SPLITS.items():
        path = root / "ImageSets" / "Segmentation" / f"{split}.txt"
        if not path.is_file():
            problems.append(f"{path} is missing")
            continue
        found = read_list(path)
        if len(found) != expected:
            problems.append(f"{path} names {len(found)} images, not {expected}")
        names |= set(found)
    for folder, suffix in _PARTS.items():
        there = set(os.listdir(root / folder)) if (root / folder).is_dir() else set()
        absent = sorted(n for n in names if n + suffix not in there)
        if absent or not there:
            example = f", for example {absent[0]}{suffix}" if absent else ""
            problems.append(f"{root / folder} lacks {len(absent) or 'all'} files{example}")
    return problems


def missing_in_sbd(folder: str | os.PathLike[str]) -> list[str]:
    """What an SBD folder (``benchmark_RELEASE/dataset``) lacks; empty if it looks complete."""
    parts = [Path(folder, name) for name in ("train.txt", "val.txt", "inst")]
    return [f"{path} is missing" for path in parts if not path.exists()]


def read_sbd_mat(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Read one of SBD's ``inst/<name>.mat``.

    Returns instances (H, W) uint8 (0 background, 1..K) and labels (H, W) uint8 (class id + 1).

    Raises:
        DataError: not such a file, or numbers out of range.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist")
    try:
        content = load_mat(path, ("GTinst",), limit=_MAX_MAT_BYTES)["GTinst"]
        instances = np.asarray(content["Segmentation"][0, 0])
        categories = np.asarray(content["Categories"][0, 0]).reshape(-1).astype(np.int64)
        if instances.ndim != 2 or not 0 < instances.size <= MOST_PIXELS:
            raise ValueError(f"Segmentation has the shape {instances.shape}")
        if instances.dtype.kind not in "ui" or instances.min() < 0:
            raise ValueError("Segmentation holds no instance numbers")
        if int(instances.max()) > min(len(categories), 254):
            raise ValueError(f"object {int(instances.max())} has no category")
        if len(categories) and not 1 <= categories.min() <= categories.max() <= len(VOC_CLASSES):
            raise ValueError(f"Categories holds a number outside 1..{len(VOC_CLASSES)}")
    except Exception as error:  # whatever else the file holds in place of these
        raise DataError(f"{path} is not an SBD file ({type(error).__name__}: {error})") from error
    table = np.concatenate([[0], categories])
    return instances.astype(np.uint8), table[instances].astype(np.uint8)


def trainaug_names(voc_root: Path, sbd_folder: Path) -> list[str]:
    """Names of ``trainaug``, ascending: (SBD train + SBD val) without VOC val, and VOC train."""
    lists = voc_root / "ImageSets" / "Segmentation"
    names = {*read_list(sbd_folder / "train.txt"), *read_list(sbd_folder / "val.txt")}
    names -= set(read_list(lists / "val.txt"))
    return sorted(names | set(read_list(lists / "train.txt")))


def convert_sbd(voc_root: str | os.PathLike[str], sbd_folder: str | os.PathLike[str]) -> int:
    """Write the PNGs of SBD for images without VOC masks, then the list ``trainaug.txt``.

    Existing files are kept, so an interrupted conversion can go on; the list is written last.
    Returns the number of images in ``trainaug``.

    Raises:
        DataError: a file is missing or damaged, or sizes differ from the photograph's.
    """
    voc_root, sbd_folder = Path(voc_root), Path(sbd_folder)
    names = trainaug_names(voc_root, sbd_folder)
    own = set(os.listdir(voc_root / "SegmentationObject"))
    for name in tqdm(names, desc="masks"):
        folders = ("SegmentationObjectAug", "SegmentationClassAug")
        targets = [voc_root / folder / f"{name}.png" for folder in folders]
        if f"{name}.png" in own or all(t.is_file() for t in targets):
            continue
        source = sbd_folder / "inst" / f"{name}.mat"
        maps = read_sbd_mat(source)
        size = read_image_size(voc_root / "JPEGImages" / f"{name}.jpg")
        if maps[0].shape != size:
            raise DataError(f"{source} is {maps[0].shape}, its photograph {size} (height, width)")
        for target, label in zip(targets, maps, strict=True):
            write_label_png(target, label)
    write_lines(voc_root / "ImageSets" / "Segmentation" / "trainaug.txt", names)
    return len(names)

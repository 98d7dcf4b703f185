"""Prepare salient-object images: find single objects, split, or make a set of COCO annotations.

    python datasets/prepare_salient.py --duts                     # datasets/DUTS, see README.md
    python datasets/prepare_salient.py --images DIR --masks DIR --list single.txt [--val-share 0.1]
    python datasets/prepare_salient.py --coco instances.json --coco-images DIR --output DIR

A list holds the stems of the images whose mask shows one object and next to nothing beside it;
``--val-share`` writes a training and a validation list (``*_train.txt``, ``*_val.txt``) of it.
From COCO come images in which one object covers 5 to 60 % and all others together less than 1 %.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from wsis.commands import command, make_parser
from wsis.data.checks import load_json
from wsis.data.files import write_lines
from wsis.data.root import datasets_root, duts_folders
from wsis.errors import DataError


def split_names(names: Sequence[str], share: float) -> tuple[list[str], list[str]]:
    """Training and validation names; a name's side depends on the name alone."""
    held = {name for name in names if zlib.crc32(name.encode()) % 1000 < 1000 * share}
    return [n for n in names if n not in held], [n for n in names if n in held]


def filter_list(images: Path, masks: Path, path: Path, val_share: float) -> str:
    """Write the list of single objects, and its split; returns what was done."""
    from wsis.data.salient import SALIENT_KEY, is_single_object, load_salient, read_salient_mask

    records = load_salient(images, masks)
    single = [
        record["image_id"]
        for record in records
        if is_single_object(read_salient_mask(record[SALIENT_KEY], required=False))
    ]
    if not single:
        raise DataError(f"none of the {len(records)} masks in {masks} shows a single object")
    write_lines(path, single)
    said = f"{len(single)} of {len(records)} images show a single object: {path}"
    if val_share > 0:
        for part, names in zip(("train", "val"), split_names(single, val_share), strict=True):
            target = path.with_name(f"{path.stem}_{part}{path.suffix}")
            write_lines(target, names)
            said += f"\n{len(names)} in {target}"
    return said


def from_coco(annotations: Path, images: Path, output: Path, names: Path | None) -> str:
    """Write ``images/``, ``masks/`` and ``list.txt`` below ``output``."""
    from wsis.data.coco import load_coco_dataset
    from wsis.data.ground_truth import load_ground_truth
    from wsis.data.salient import single_object_mask

    records, _, _ = load_coco_dataset(annotations, images)
    wanted = None if names is None else load_json(names)
    if wanted is not None and not (isinstance(wanted, list) and {type(n) for n in wanted} <= {str}):
        raise DataError(f"{names} is not a list of file names")
    kept = []
    for record in records:
        path = Path(record["file_name"])
        if wanted is not None and path.name not in wanted:
            continue
        mask = single_object_mask(load_ground_truth(record), checked=wanted is None)
        if mask is None:
            continue
        for folder in ("images", "masks"):
            (output / folder).mkdir(parents=True, exist_ok=True)
        if path.stem in kept:
            raise DataError(f"{annotations} has two images called {path.stem}; rename one of them")
        shutil.copyfile(path, output / "images" / path.name)
        picture = Image.fromarray(mask.astype(np.uint8) * 255)
        picture.save(output / "masks" / f"{path.stem}.png")
        kept.append(path.stem)
    if not kept:
        raise DataError(f"{annotations} has no image with a single object")
    write_lines(output / "list.txt", kept)
    return f"{len(kept)} of {len(records)} images show a single object: {output}"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--duts", action="store_true", help="DUTS below DETECTRON2_DATASETS")
    parser.add_argument("--images", type=Path, help="folder of salient images")
    parser.add_argument("--masks", type=Path, help="folder of their masks")
    parser.add_argument("--list", type=Path, help="the list to write")
    parser.add_argument("--val-share", type=float, default=0.0, help="share of validation (0)")
    parser.add_argument("--coco", type=Path, help="COCO JSON with masks")
    parser.add_argument("--coco-images", type=Path, help="folder of its images")
    parser.add_argument("--names", type=Path, help="JSON list of file names to take instead")
    parser.add_argument("--output", type=Path, help="folder to write")
    given = parser.parse_args(arguments)
    if not 0 <= given.val_share < 1:
        parser.error(f"--val-share {given.val_share} is not from 0 to below 1")
    if given.duts:
        given.images, given.masks = duts_folders()
        given.list = datasets_root() / "DUTS" / "duts_tr_single.txt"
    given.filters = bool(given.images and given.masks and given.list)
    if not given.filters and not (given.coco and given.coco_images and given.output):
        parser.error("give --duts, or --images, --masks and --list, or --coco and its folders")
    return given


def prepare(given: argparse.Namespace) -> None:
    """Do what the command line says."""
    if given.filters:
        print(filter_list(given.images, given.masks, given.list, given.val_share))
    else:
        print(from_coco(given.coco, given.coco_images, given.output, given.names))


main = command(parse, prepare)

if __name__ == "__main__":
    sys.exit(main())

"""Prepare salient-object images: find single objects, split, or make a set of COCO annotations.

    python datasets/prepare_salient.py --duts                     # datasets/DUTS, see README.md
    python datasets/prepare_salient.py --images DIR --masks DIR --list single.txt [--val-share 0.1]
    python datasets/prepare_salient.py --coco masks.json --crops --output photos/salient
    python datasets/prepare_salient.py --coco instances.json --coco-images DIR --output DIR

A list holds the stems of the images whose mask shows one object and next to nothing beside it;
``--val-share`` writes a training and a validation list (``*_train.txt``, ``*_val.txt``) of it.
With ``--crops`` a crop around each masked object of a few photographs of your own becomes a salient
image; without it those images are taken in which one object covers 5 to 60 % and all others
together less than 1 %.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from wsis.commands import command, make_parser
from wsis.data.checks import load_json
from wsis.data.files import write_lines
from wsis.data.root import datasets_root, duts_folders
from wsis.errors import DataError

_ADVICE = {
    True: "an object needs a mask in one piece, at least 32 pixels wide and high",
    False: "--crops takes crops around the objects instead",
}


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


def annotated(
    path: Path, images: Path | None, names: Path | None, on_error: str
) -> list[dict[str, Any]]:
    """Dataset dicts of an annotation file; ``names`` is a JSON list of the file names to take.

    ``on_error`` is a value of WSIS.ON_ERROR: of objects that are broken there may be no crops, but
    an image that shows another object beside them shows no single one.
    """
    from wsis.data.builtin import get_dataset_dicts
    from wsis.data.user import recognize, register_dataset

    entry = recognize(path, "TRAIN") | {"NAME": "masks"}
    if images is not None:
        entry["IMAGES"] = str(images)
    name = register_dataset(entry, where=str(path), anew=True)
    records = get_dataset_dicts(name, on_error)
    if names is None:
        return records
    wanted = load_json(names)
    if not (isinstance(wanted, list) and {type(n) for n in wanted} <= {str}):
        raise DataError(f"{names} is not a list of file names")
    return [record for record in records if Path(record["file_name"]).name in wanted]


class Output:
    """Writes ``images/`` and ``masks/`` of equal stems."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.stems = folder, list[str]()

    def add(self, image: Path | np.ndarray, mask: np.ndarray, stem: str) -> None:
        """Add a file, or pixels (H, W, 3) uint8, with its mask (H, W) bool."""
        for name in ("images", "masks"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        if isinstance(image, Path):
            shutil.copyfile(image, self.folder / "images" / f"{stem}{image.suffix}")
        else:
            Image.fromarray(image).save(self.folder / "images" / f"{stem}.png")
        mask = mask.astype(np.uint8) * 255
        Image.fromarray(mask).save(self.folder / "masks" / f"{stem}.png")
        self.stems.append(stem)

    def finish(self) -> str:
        """Write ``list.txt``; returns what to say of files that were there before."""
        from wsis.data.images import pictures_in

        write_lines(self.folder / "list.txt", self.stems)

        others = {path.stem for path in pictures_in(self.folder / "images")} - {*self.stems}
        return f" (beside {len(others)} that were there before and count, too)" if others else ""


def whole_images(records: list[dict[str, Any]], output: Output, *, checked: bool) -> str:
    """Add the images that show a single object; returns what was done."""
    from wsis.data.ground_truth import has_ground_truth, load_ground_truth
    from wsis.data.salient import single_object_mask

    for record in filter(has_ground_truth, records):
        mask = single_object_mask(load_ground_truth(record), checked=checked)
        if mask is not None:
            output.add(Path(record["file_name"]), mask, record["image_key"])
    return f"{len(output.stems)} of {len(records)} images show a single object"


def crops(records: list[dict[str, Any]], output: Output) -> str:
    """Add a crop around each object that has a mask; returns what was done."""
    from wsis.data.ground_truth import has_ground_truth, load_ground_truth
    from wsis.data.images import read_dataset_image
    from wsis.data.salient import object_windows
    from wsis.data.working_size import MAX_PIXELS, at_working_size

    objects = 0
    for record in records:
        masked = [a for a in record.get("annotations", ()) if "segmentation" in a]
        if "instance_file_name" not in record:  # the others may have boxes only
            record = record | {"annotations": masked, "image_labels": []}
        if not masked and not has_ground_truth(record):
            continue
        small = at_working_size(record, MAX_PIXELS)
        masks = load_ground_truth(small).masks
        objects += len(masks)
        windows = object_windows(masks)
        image = read_dataset_image(small) if windows else None
        for number, window in windows:
            stem = f"{record['image_key']}_{number + 1}"
            output.add(image[window], masks[number][window], stem)
    return f"{len(output.stems)} crops around the {objects} objects with masks"


def from_coco(given: argparse.Namespace) -> str:
    """Write ``images/``, ``masks/`` and ``list.txt`` below the output."""
    on_error = "skip" if given.crops else "raise"
    records = annotated(given.coco, given.coco_images, given.names, on_error)
    output = Output(given.output)
    said = (
        crops(records, output)
        if given.crops
        else whole_images(records, output, checked=given.names is None)
    )
    if not output.stems:
        raise DataError(f"{given.coco}: {said}; {_ADVICE[given.crops]}")
    return f"{said}: {given.output}{output.finish()}"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--duts", action="store_true", help="DUTS below DETECTRON2_DATASETS")
    parser.add_argument("--images", type=Path, help="folder of salient images")
    parser.add_argument("--masks", type=Path, help="folder of their masks")
    parser.add_argument("--list", type=Path, help="the list to write")
    parser.add_argument("--val-share", type=float, default=0.0, help="share of validation (0)")
    parser.add_argument(
        "--coco", type=Path, help="COCO JSON with masks, or another path that DATA.TRAIN takes"
    )
    parser.add_argument("--coco-images", type=Path, help="folder of its images, if not beside it")
    parser.add_argument("--crops", action="store_true", help="crops around the masked objects")
    parser.add_argument("--names", type=Path, help="JSON list of file names to take instead")
    parser.add_argument("--output", type=Path, help="folder to write")
    given = parser.parse_args(arguments)
    if not 0 <= given.val_share < 1:
        parser.error(f"--val-share {given.val_share} is not from 0 to below 1")
    if given.duts:
        given.images, given.masks = duts_folders()
        given.list = datasets_root() / "DUTS" / "duts_tr_single.txt"
    given.filters = bool(given.images and given.masks and given.list)
    if not given.filters and not (given.coco and given.output):
        parser.error("give --duts, or --images, --masks and --list, or --coco and --output")
    return given


def prepare(given: argparse.Namespace) -> None:
    """Do what the command line says."""
    if given.filters:
        print(filter_list(given.images, given.masks, given.list, given.val_share))
    else:
        print(from_coco(given))


main = command(parse, prepare)

if __name__ == "__main__":
    sys.exit(main())

"""Say whether COCO is in place and what is missing. Nothing is downloaded.

Get the archives from cocodataset.org and extract them below coco/ in the data sets' root:
annotations_trainval2017.zip, train2017.zip, val2017.zip (and the same of 2014 if wanted).
"""

import argparse
import os
import sys
from pathlib import Path

from wsis.commands import command, make_parser
from wsis.data.checks import load_json
from wsis.data.root import datasets_root
from wsis.errors import DataError

IMAGES = {"2017": {"train": 118287, "val": 5000}, "2014": {"train": 82783, "val": 40504}}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    root = datasets_root()
    parser.add_argument("--root", type=Path, default=root, help="default: DETECTRON2_DATASETS")
    parser.add_argument("--year", choices=sorted(IMAGES), default="2017")
    return parser.parse_args(arguments)


def missing(root: Path, year: str) -> list[str]:
    """What the tree lacks, as sentences."""
    problems = []
    for split, expected in IMAGES[year].items():
        path = root / "coco" / "annotations" / f"instances_{split}{year}.json"
        folder = root / "coco" / f"{split}{year}"
        try:
            found = len(load_json(path)["images"])
            if found != expected:
                problems.append(f"{path} has {found} images, not {expected}")
        except (DataError, KeyError, TypeError) as error:
            problems.append(f"{error}: extract annotations_trainval{year}.zip in coco/")
        count = sum(e.name.endswith(".jpg") for e in os.scandir(folder)) if folder.is_dir() else 0
        if count < expected:
            problems.append(
                f"{folder} has {count} of {expected} images: extract {split}{year}.zip in coco/"
            )
    return problems


def check(options: argparse.Namespace) -> None:
    """Do what the command line says."""
    problems = missing(options.root, options.year)
    if problems:
        raise DataError("\n".join(problems))
    print(f"{options.root / 'coco'} is complete for {options.year}: coco_{options.year}_train")


main = command(parse, check)

if __name__ == "__main__":
    sys.exit(main())

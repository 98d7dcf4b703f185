"""Make the list and masks of VOC's trainaug (10582 images) from SBD, or say what is missing.

Needs VOC2012 (prepare_voc.py). Takes SBD's folder benchmark_RELEASE/dataset from --sbd, or
extracts it from benchmark.tgz (MD5 82b4d87ceb2ed10f6038a1cba92111cb) in --archive or the root.
Downloads that only with --download (1.4 GB); an interrupted download goes on where it stopped.
Writes SegmentationObjectAug, SegmentationClassAug and ImageSets/Segmentation/trainaug.txt into
VOC2012; images that have VOC masks keep those. A rerun does only what is missing.
"""

import argparse
import sys
from pathlib import Path

from wsis.commands import command, make_parser
from wsis.data.download import add_archive_options, ensure_extracted
from wsis.errors import DataError

NAME = "benchmark.tgz"
URL = (
    "http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/"
    "benchmark.tgz"
)
MD5 = "82b4d87ceb2ed10f6038a1cba92111cb"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    add_archive_options(parser, URL)
    parser.add_argument("--sbd", type=Path, help="default: <root>/SBD/dataset")
    return parser.parse_args(arguments)


def find_sbd(options: argparse.Namespace) -> Path:
    """SBD's folder, extracted and downloaded as far as the options allow."""
    from wsis.data.voc_tree import missing_in_sbd

    folder = options.sbd or options.root / "SBD" / "dataset"
    problems = missing_in_sbd(folder)
    if options.sbd is not None and problems:
        raise DataError(f"{problems[0]}; --sbd names SBD's folder benchmark_RELEASE/dataset")
    ensure_extracted(
        options,
        lambda: missing_in_sbd(folder),
        archive=NAME,
        md5=MD5,
        folder=options.root / "SBD",
        advice="run python datasets/prepare_sbd.py --download (1.4 GB), or name the archive with "
        "--archive or its folder with --sbd",
        wanted=lambda name: "/dataset/" in name and "/img/" not in name and "/cls/" not in name,
    )
    return folder


def prepare(options: argparse.Namespace) -> None:
    """Convert what is missing."""
    from wsis.data.voc_tree import TRAINAUG_IMAGES, VOC_SPLITS, convert_sbd  # after parsing

    tree = options.root / "VOC2012"
    for split in VOC_SPLITS:
        path = tree / "ImageSets" / "Segmentation" / f"{split}.txt"
        if not path.is_file():
            raise DataError(f"{path} does not exist; run python datasets/prepare_voc.py first")
    count = convert_sbd(tree, find_sbd(options))
    print(f"voc_2012_trainaug_instance has {count} images (trainaug.txt in {tree})")
    if count != TRAINAUG_IMAGES:
        print(f"note: with the complete VOC and SBD there are {TRAINAUG_IMAGES}")


main = command(parse, prepare)

if __name__ == "__main__":
    sys.exit(main())

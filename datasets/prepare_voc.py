"""Put PASCAL VOC 2012 in place, or say what is missing.

Checks VOC2012 below the data sets' root. If it is not complete, extracts the archive
VOCtrainval_11-May-2012.tar (MD5 6cd6e144f989b92b3379bac3b3de84fd) from --archive or from the root.
Downloads it only with --download (1.9 GB); an interrupted download goes on where it stopped.
"""

import argparse
import sys
from pathlib import Path

from wsis.commands import command
from wsis.data.download import download, extract_tar, verify_md5
from wsis.data.root import datasets_root
from wsis.errors import DataError

NAME = "VOCtrainval_11-May-2012.tar"
URL = f"http://host.robots.ox.ac.uk/pascal/VOC/voc2012/{NAME}"
MD5 = "6cd6e144f989b92b3379bac3b3de84fd"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    root = datasets_root()
    parser.add_argument("--root", type=Path, default=root, help="default: DETECTRON2_DATASETS")
    parser.add_argument("--archive", type=Path, help=f"where {NAME} lies already")
    parser.add_argument("--download", action="store_true", help="download the archive if needed")
    parser.add_argument("--url", default=URL, help="default: %(default)s")
    return parser.parse_args(arguments)


def prepare(options: argparse.Namespace) -> None:
    """Check, extract, download."""
    from wsis.data.voc_tree import missing_in_voc  # after parsing: --help answers at once

    tree = options.root / "VOC2012"
    problems = missing_in_voc(tree)
    if not problems:
        print(f"{tree} is complete; next: python datasets/prepare_sbd.py (for trainaug)")
        return
    archive = options.archive or options.root / NAME
    if options.download and not archive.is_file():
        download(options.url, archive, md5=MD5)
    if not archive.is_file():
        raise DataError(
            f"{problems[0]} and there is no {archive}; run python datasets/prepare_voc.py "
            "--download (1.9 GB), or name the archive with --archive"
        )
    verify_md5(archive, MD5)
    extract_tar(archive, options.root, strip=1)
    problems = missing_in_voc(tree)
    if problems:
        raise DataError(f"after extracting {archive}, {'; '.join(problems)}")
    print(f"{tree} is complete; next: python datasets/prepare_sbd.py (for trainaug)")


main = command(parse, prepare)

if __name__ == "__main__":
    sys.exit(main())

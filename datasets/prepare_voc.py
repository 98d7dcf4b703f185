"""Put PASCAL VOC 2012 in place, or say what is missing.

Checks VOC2012 below the data sets' root. If it is not complete, extracts the archive
VOCtrainval_11-May-2012.tar (MD5 6cd6e144f989b92b3379bac3b3de84fd) from --archive or from the root.
Downloads it only with --download (1.9 GB); an interrupted download goes on where it stopped.
"""

import argparse
import sys

from wsis.commands import command, make_parser
from wsis.data.download import add_archive_options, ensure_extracted

NAME = "VOCtrainval_11-May-2012.tar"
URL = f"http://host.robots.ox.ac.uk/pascal/VOC/voc2012/{NAME}"
MD5 = "6cd6e144f989b92b3379bac3b3de84fd"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    add_archive_options(parser, URL)
    return parser.parse_args(arguments)


def prepare(options: argparse.Namespace) -> None:
    """Check, extract, download."""
    from wsis.data.voc_tree import missing_in_voc  # after parsing: --help answers at once

    tree = options.root / "VOC2012"
    ensure_extracted(
        options,
        lambda: missing_in_voc(tree),
        archive=NAME,
        md5=MD5,
        folder=options.root,
        advice="run python datasets/prepare_voc.py --download (1.9 GB), or name the archive with "
        "--archive",
    )
    print(f"{tree} is complete; next: python datasets/prepare_sbd.py (for trainaug)")


main = command(parse, prepare)

if __name__ == "__main__":
    sys.exit(main())

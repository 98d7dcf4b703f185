#!/usr/bin/env python
"""Say what a data set holds, what is wrong with it, and what it can train; draw some of it.

Exit code 0: it can be used, perhaps without what the list of problems names. 1: it cannot.
"""

import argparse
import sys
from collections.abc import Sequence

from wsis.commands import command, make_parser, whole

EXAMPLES = """\
examples:
  check_data.py birds
  check_data.py birds/train.json --pictures pictures
  check_data.py shapes_train --json check.json
  check_data.py "{FORMAT: coco, JSON: birds/boxes.json, IMAGES: photos, SUPERVISION: box}"
  check_data.py birds_train --config-file configs/birds.yaml --pictures pictures --images 0
"""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, epilog=EXAMPLES)
    add = parser.add_argument
    add(
        "entry",
        metavar="ENTRY",
        help='as DATA.TRAIN: a name, a path whose format is recognized, or "{FORMAT: ..., ...}"',
    )
    add("--json", metavar="FILE", help="also write counts and all problems to this file")
    add("--pictures", metavar="DIR", help="draw images with their labels into this folder")
    add(
        "--images",
        type=whole,
        default=16,
        metavar="N",
        help="images to draw, those with problems first; default 16, 0 for all",
    )
    add("--decode", action="store_true", help="read every image to its end, not its header alone")
    add("--config-file", metavar="YAML", help="pipeline whose data sets are made known by name")
    return parser.parse_args(arguments)


main = command(parse, "wsis.report.check_data:check")

if __name__ == "__main__":
    sys.exit(main())

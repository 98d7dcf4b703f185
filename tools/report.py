#!/usr/bin/env python
"""Write one HTML file with pictures, plots and figures of a run, finished or not; or set several
runs side by side: their figures in one table, their masks on the same images.

The file needs no network and nothing beside it. Stages of any method appear; what they made is
drawn for a sample of the images.
"""

import argparse
import sys
from collections.abc import Sequence

from wsis.commands import command, finite, make_parser, positive

EXAMPLES = """\
examples:
  report.py output/irnet_voc
  report.py output/irnet_voc output/cim_voc --output both.html
"""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, epilog=EXAMPLES)
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="the OUTPUT_DIR of a run of train_net.py")
    add(
        "--output",
        metavar="FILE",
        help="file to write; default RUN/report.html, of several runs.html",
    )
    add(
        "--images",
        type=positive,
        metavar="N",
        default=8,
        help="images shown of each data set; default %(default)s",
    )
    add(
        "--statistics",
        type=positive,
        metavar="N",
        default=2000,
        help="images measured at most for plots and for the worst and best pseudo labels; "
        "default %(default)s",
    )
    add(
        "--min-score",
        type=finite,
        metavar="S",
        default=0.5,
        help="draw predictions that score at least this; default %(default)s",
    )
    add(
        "--if-changed",
        action="store_true",
        help="leave the file as it is where it is newer than everything in the run folders",
    )
    add("--seed", type=int, metavar="N", default=0, help="choose other images; default 0")
    return parser.parse_args(arguments)


main = command(parse, "wsis.report.compare:make_report")

if __name__ == "__main__":
    sys.exit(main())

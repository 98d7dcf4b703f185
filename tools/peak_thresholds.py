#!/usr/bin/env python
"""Print how high the peaks are in the images of a trained PRM or IAM pipeline, as a histogram:
those of the image's tags beside those of all other classes, and the thresholds that separate them.

MODEL.PEAK_CLASSIFIER.PEAK_THRESHOLD lies on the scale of the training: the paper's 30 suits its own
only. No peak is back-propagated here, so this takes one forward pass for each image.
"""

import argparse
import sys
from collections.abc import Sequence

from wsis.commands import add_pipeline, command, make_parser, positive


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    add_pipeline(parser, "the pipeline")
    parser.add_argument(
        "--images", type=positive, default=200, metavar="N", help="look at so many; default 200"
    )
    return parser.parse_intermixed_args(arguments)


main = command(parse, "wsis.peak_thresholds:print_heights")

if __name__ == "__main__":
    sys.exit(main())

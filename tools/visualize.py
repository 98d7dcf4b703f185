#!/usr/bin/env python
"""Draw proposals, pseudo labels or predictions on their images, one PNG for each.

Where there is ground truth it stands at the right. Images are taken evenly from the whole set.
A data set's own labels are drawn by tools/check_data.py. Photographs without a data set are for
tools/demo.py, which runs a trained network on them.
"""

import argparse
import sys
from collections.abc import Sequence

from wsis.commands import command, finite, make_parser

EXAMPLES = """\
examples:
  visualize.py proposals output/proposals --dataset shapes_train --output pictures --number 20
  visualize.py proposals proposals/mine --images photos --output pictures
  visualize.py pseudo-labels output/irnet_shapes/7_pseudo_labels/pseudo_labels.json \\
      --dataset shapes_train --output pictures
  visualize.py pseudo-labels labels.json --images photos --output pictures
  visualize.py predictions output/irnet_shapes/8_mask_rcnn --output pictures --min-score 0.7
"""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    common = argparse.ArgumentParser(add_help=False)
    add = common.add_argument
    add("--output", required=True, metavar="DIR", help="folder for the PNG files")
    add("--number", type=int, default=20, metavar="N", help="images at most; default 20, 0 for all")
    add("--seed", type=int, default=0, metavar="N", help="choose other images; default 0")
    add("--config-file", metavar="YAML", help="pipeline whose WSIS.DATASETS are made known")
    score = argparse.ArgumentParser(add_help=False)
    score.add_argument(
        "--min-score", type=finite, metavar="S", help="draw what scores at least this"
    )
    parser = make_parser(__doc__, epilog=EXAMPLES)
    kinds = parser.add_subparsers(dest="kind", required=True)
    proposals = kinds.add_parser(
        "proposals", parents=[common], help="segment proposals; with true masks, the best for each"
    )
    proposals.add_argument(
        "folder", metavar="DIR", help="output of datasets/make_proposals.py, or a run folder"
    )
    labels = kinds.add_parser(
        "pseudo-labels", parents=[common, score], help="a pseudo-label JSON file"
    )
    labels.add_argument("file", metavar="FILE", help="COCO JSON with RLE masks and scores")
    for kind, what in ((proposals, "has the proposals"), (labels, "was labelled")):
        place = kind.add_mutually_exclusive_group(required=True)
        place.add_argument("--dataset", metavar="NAME", help=f"the data set that {what}")
        place.add_argument("--images", metavar="DIR", help="the folder of the images")
    run = kinds.add_parser(
        "predictions", parents=[common, score], help="predictions or instances of a run folder"
    )
    run.add_argument("folder", metavar="RUN_FOLDER", help="OUTPUT_DIR/<n>_<stage>")
    return parser.parse_args(arguments)


main = command(parse, "wsis.report.visualize:draw")

if __name__ == "__main__":
    sys.exit(main())

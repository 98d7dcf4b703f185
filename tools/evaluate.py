#!/usr/bin/env python
"""Score anybody's predictions against the true masks (or boxes) of a data set.

The predictions are a JSON in COCO's result format, as every Detectron2 model writes it
(coco_instances_results.json), with the data set's own image and category ids; or a COCO file with
masks, as pseudo labels are, or the folder of a run that has such labels.
docs/evaluation.md says what the protocols measure.
"""

import argparse
import sys
from collections.abc import Sequence

from wsis.commands import command, make_parser

EXAMPLES = """\
examples:
  evaluate.py --predictions coco_instances_results.json --dataset voc_2012_val_instance
  evaluate.py --predictions results.json --dataset birds/val.json --protocol coco --json all.json
  evaluate.py --predictions output/birds/7_pseudo_labels/pseudo_labels.json \\
      --dataset "{FORMAT: coco, JSON: birds/masks.json, IMAGES: birds/images}"
"""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, epilog=EXAMPLES)
    add = parser.add_argument
    add("--predictions", required=True, metavar="PATH", help="COCO results, a COCO file, or a run")
    add(
        "--dataset",
        required=True,
        metavar="NAME|ENTRY",
        help="a registered data set, a path (COCO JSON, VOC tree) or '{FORMAT: ..., ...}'",
    )
    add(
        "--protocol",
        nargs="+",
        metavar="NAME",
        help="voc, coco (masks), coco_bbox (boxes); default voc coco, or coco_bbox where there are "
        "no masks",
    )
    add("--json", metavar="FILE", help="write all figures, those of each class too")
    return parser.parse_args(arguments)


main = command(parse, "wsis.door:print_scores")

if __name__ == "__main__":
    sys.exit(main())

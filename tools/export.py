#!/usr/bin/env python
"""Write pseudo labels, or predictions, in the form of an annotation tool or another trainer.

LABELS is the OUTPUT_DIR of a run, a file pseudo_labels.json, what tools/demo.py --json wrote, or
predictions in COCO's result format, whose images --dataset or --merge names.

--merge puts the masks on the boxes or points of the COCO file that they were made from: nothing
else in it changes.
"""

import argparse
import sys
from collections.abc import Sequence

from wsis.commands import command, finite, make_parser, not_negative, share

EXAMPLES = """\
examples:
  export.py output/birds --format coco-polygons --merge birds/boxes.json --output birds/masks.json
  export.py output/birds --format labelme --output birds/images --min-score 0.3
  export.py output/birds --format yolo --output birds_yolo --tolerance 2
  export.py found/instances.json --format coco-polygons --output found/polygons.json
  export.py results.json --dataset birds/val.json --format coco-rle --output masks.json
"""
FORMATS = ("coco-polygons", "coco-rle", "labelme", "yolo")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, epilog=EXAMPLES)
    add = parser.add_argument
    add("labels", metavar="LABELS", help="OUTPUT_DIR of a run, or a JSON file")
    add("--format", required=True, choices=FORMATS)
    add(
        "--output",
        required=True,
        metavar="PATH",
        help="a JSON file; for labelme a folder, that of the images if the files are to lie beside "
        "them; for yolo a folder, which gets labels/, data.yaml and classes.txt",
    )
    add("--merge", metavar="INPUT.json", help="the COCO file whose annotations get the masks")
    add(
        "--dataset",
        metavar="NAME|ENTRY",
        help="what has the images: a registered data set, a path or '{FORMAT: ..., ...}'",
    )
    add(
        "--min-score",
        type=finite,
        metavar="S",
        help="leave out what scores less; default 0.5 of predictions, nothing of pseudo labels",
    )
    add(
        "--tolerance",
        type=not_negative,
        metavar="PIXELS",
        help="outlines may move so far to have fewer points, less where a mask would change by "
        "more than 2 %% for each pixel; default 1, 0 for exact masks",
    )
    add(
        "--clean",
        type=share,
        default=0.0,
        metavar="SHARE",
        help="leave out parts of a mask that are smaller than this share of its largest part, and "
        "fill holes that are smaller than this share of the mask; default %(default)g, nothing",
    )
    add(
        "--overwrite",
        action="store_true",
        help="replace a JSON file that is there, or in a folder the files of an earlier export",
    )
    options = parser.parse_args(arguments)
    if options.merge is not None and not options.format.startswith("coco"):
        parser.error(f"--merge needs --format coco-polygons or coco-rle, not {options.format}")
    if options.tolerance is not None and options.format == "coco-rle":
        parser.error("--tolerance is for polygons; coco-rle is exact")
    return options


main = command(parse, "wsis.export.tool:export")

if __name__ == "__main__":
    sys.exit(main())

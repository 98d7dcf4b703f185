#!/usr/bin/env python
"""Run a trained network on photographs and draw what it finds, one PNG for each photograph.

By default that is the last stage of the pipeline that makes instances: usually the Mask R-CNN,
whose instances are drawn on the photograph. --stage NAME shows another stage as a row of panels:
class response maps and peaks of PRM and IAM, CAMs, proposals, ... The photographs need no
annotations; what the stage needs of earlier stages is made on the way.
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence

from wsis.commands import add_pipeline, command, finite, make_parser

EXAMPLES = """\
examples:
  demo.py --config-file configs/irnet_shapes.yaml --input a.jpg photos/ 'more/*.png' --output found
  demo.py --config-file configs/irnet_voc.yaml --input photos --output found \\
      --confidence-threshold 0.7 --json found/instances.json
  demo.py --config-file configs/prm_voc.yaml --stage peak_instances --tags dog --input a.jpg \\
      --output found MODEL.PEAK_CLASSIFIER.PEAK_THRESHOLD 10.0
"""
_CONFIG_KEY = re.compile(
    r"([a-z]\w*\.)?((DATALOADER|DATASETS|INPUT|MODEL|SOLVER|TEST|WSIS)(\.[A-Z0-9_]+)+|OUTPUT_DIR|SEED)"
)


def is_config_key(word: str) -> bool:
    """Whether a word is a key of the configs and not the name of a file, such as IMG_0001.JPG."""
    return _CONFIG_KEY.fullmatch(word) is not None and not os.path.lexists(word)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, epilog=EXAMPLES)
    add_pipeline(parser, "the pipeline that was trained")
    add = parser.add_argument
    add(
        "--input",
        required=True,
        nargs="+",
        metavar="PATH",
        help="photographs, folders of photographs, patterns ('photos/*.jpg')",
    )
    add("--output", required=True, metavar="DIR", help="where <image>.<stage>.png goes")
    add("--stage", metavar="NAME", help="the stage to show; default the last that makes instances")
    add(
        "--confidence-threshold",
        type=finite,
        metavar="S",
        help="show instances that score at least this; default 0.5 of a Mask R-CNN, else 0",
    )
    add("--json", metavar="FILE", help="write the instances as COCO JSON too")
    add("--tags", nargs="+", metavar="CLASS", help="classes in the photographs, if known")
    add("--weights", metavar="FILE", help="a checkpoint in place of the stage's own")
    options = parser.parse_intermixed_args(arguments)
    for name in ("input", "tags"):
        key = next(filter(is_config_key, getattr(options, name) or ()), None)
        if key is not None:
            parser.error(
                f"{key} follows --{name}, which takes it; put KEY VALUE after --output DIR"
            )
    return options


main = command(parse, "wsis.demo:draw")

if __name__ == "__main__":
    sys.exit(main())

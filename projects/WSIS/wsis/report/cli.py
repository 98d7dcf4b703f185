"""The command lines of ``tools/{report,visualize,demo,peak_thresholds}.py``.

They are parsed before anything heavy (torch, Detectron2, matplotlib) is imported, so that
``--help`` and a mistyped option answer at once.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import re
from collections.abc import Callable, Sequence

from wsis.errors import run_command
from wsis.report.options import Options

_REPORT = """\
Write one HTML file with pictures, plots and figures of a run, finished or not.

The file needs no network and nothing beside it. Stages of any method appear; what they made is
drawn for a sample of the images.
"""
_VISUALIZE = """\
Draw annotations, proposals, pseudo labels or predictions on their images, one PNG for each image.

Where there is ground truth it stands at the right. Images are taken evenly from the whole set.
Photographs without a data set are for tools/demo.py, which runs a trained network on them.
"""
_VISUALIZE_EXAMPLES = """\
examples:
  visualize.py dataset shapes_train --output pictures --number 20
  visualize.py dataset birds_train --config-file configs/birds.yaml --output pictures
  visualize.py proposals output/proposals --dataset shapes_train --output pictures
  visualize.py proposals proposals/mine --images photos --output pictures
  visualize.py pseudo-labels output/irnet_shapes/7_pseudo_labels/pseudo_labels.json \\
      --dataset shapes_train --output pictures
  visualize.py pseudo-labels labels.json --images photos --output pictures
  visualize.py predictions output/irnet_shapes/8_mask_rcnn --output pictures --min-score 0.7
"""
_DEMO = """\
Run a trained network on photographs and draw what it finds, one PNG for each photograph.

By default that is the last stage of the pipeline that makes instances: usually the Mask R-CNN,
whose instances are drawn on the photograph. --stage NAME shows another stage as a row of panels:
class response maps and peaks of PRM and IAM, CAMs, proposals, ... The photographs need no
annotations; what the stage needs of earlier stages is made on the way.
"""
_DEMO_EXAMPLES = """\
examples:
  demo.py --config-file configs/irnet_shapes.yaml --input a.jpg photos/ 'more/*.png' --output found
  demo.py --config-file configs/irnet_voc.yaml --input photos --output found \\
      --confidence-threshold 0.7 --json found/instances.json
  demo.py --config-file configs/prm_voc.yaml --stage peak_instances --tags dog --input a.jpg \\
      --output found MODEL.PEAK_CLASSIFIER.PEAK_THRESHOLD 10.0
"""
_PEAKS = """\
Print a histogram of the heights of peaks in the images of a trained PRM or IAM pipeline, those of
the image's tags beside those of all other classes, and the thresholds that separate them.

MODEL.PEAK_CLASSIFIER.PEAK_THRESHOLD lies on the scale of the training: the paper's 30 suits its own
only. No peak is back-propagated here, so this takes one forward pass for each image.
"""
_CONFIG_KEY = re.compile(
    r"([a-z]\w*\.)?((DATALOADER|DATASETS|INPUT|MODEL|SOLVER|TEST|WSIS)(\.[A-Z0-9_]+)+|OUTPUT_DIR|SEED)"
)


def _parser(name: str, description: str, epilog: str | None = None) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        name,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _add_opts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "opts", nargs="*", metavar="KEY VALUE", help="config overrides, as for train_net.py"
    )


def _run(work: Callable[[], None]) -> int:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    return run_command(work)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _finite(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is no finite number")
    return value


def _is_config_key(word: str) -> bool:
    """Whether a word is a key of the configs and not the name of a file, such as IMG_0001.JPG."""
    return _CONFIG_KEY.fullmatch(word) is not None and not os.path.lexists(word)


def report_parser() -> argparse.ArgumentParser:
    """The argument parser of ``tools/report.py``."""
    defaults = Options()
    parser = _parser("report.py", _REPORT)
    add = parser.add_argument
    add("output_dir", metavar="OUTPUT_DIR", help="the OUTPUT_DIR of a run of train_net.py")
    add("--output", metavar="FILE", help="file to write; default OUTPUT_DIR/report.html")
    add(
        "--images",
        type=_positive,
        metavar="N",
        default=defaults.images,
        help=f"images shown of each data set; default {defaults.images}",
    )
    add(
        "--statistics",
        type=_positive,
        metavar="N",
        default=defaults.statistics,
        help="images measured at most for plots and for the worst and best pseudo labels; "
        f"default {defaults.statistics}",
    )
    add(
        "--min-score",
        type=_finite,
        metavar="S",
        default=defaults.min_score,
        help=f"draw predictions that score at least this; default {defaults.min_score:g}",
    )
    add(
        "--if-changed",
        action="store_true",
        help="leave the file as it is where it is newer than everything in the run folders",
    )
    add("--seed", type=int, metavar="N", default=0, help="choose other images; default 0")
    return parser


def report(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``tools/report.py``; returns the exit code: 0, 1 (failure) or 2 (usage)."""
    args = report_parser().parse_args(argv)

    def work() -> None:
        from wsis.report.build import make_report

        make_report(args)

    return _run(work)


def visualize_parser() -> argparse.ArgumentParser:
    """The argument parser of ``tools/visualize.py``."""
    common = argparse.ArgumentParser(add_help=False)
    add = common.add_argument
    add("--output", required=True, metavar="DIR", help="folder for the PNG files")
    add("--number", type=int, default=20, metavar="N", help="images at most; default 20, 0 for all")
    add("--seed", type=int, default=0, metavar="N", help="choose other images; default 0")
    add("--config-file", metavar="YAML", help="pipeline whose WSIS.DATASETS are made known")
    score = argparse.ArgumentParser(add_help=False)
    score.add_argument(
        "--min-score", type=_finite, metavar="S", help="draw what scores at least this"
    )
    parser = _parser("visualize.py", _VISUALIZE, _VISUALIZE_EXAMPLES)
    kinds = parser.add_subparsers(dest="kind", required=True)
    dataset = kinds.add_parser("dataset", parents=[common], help="a registered data set")
    dataset.add_argument("name", metavar="NAME", help="as in the configs: shapes_train, ...")
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
    return parser


def visualize(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``tools/visualize.py``; returns the exit code."""
    args = visualize_parser().parse_args(argv)

    def work() -> None:
        from wsis.report.pictures import draw

        draw(args)

    return _run(work)


def demo_parser() -> argparse.ArgumentParser:
    """The argument parser of ``tools/demo.py``."""
    parser = _parser("demo.py", _DEMO, _DEMO_EXAMPLES)
    add = parser.add_argument
    add("--config-file", required=True, metavar="YAML", help="the pipeline that was trained")
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
        type=_finite,
        metavar="S",
        help="show instances that score at least this; default 0.5 of a Mask R-CNN, else 0",
    )
    add("--json", metavar="FILE", help="write the instances as COCO JSON too")
    add("--tags", nargs="+", metavar="CLASS", help="classes in the photographs, if known")
    add("--weights", metavar="FILE", help="a checkpoint in place of the stage's own")
    _add_opts(parser)
    return parser


def demo(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``tools/demo.py``; returns the exit code."""
    parser = demo_parser()
    args = parser.parse_intermixed_args(argv)
    for name in ("input", "tags"):
        key = next(filter(_is_config_key, getattr(args, name) or ()), None)
        if key is not None:
            parser.error(
                f"{key} follows --{name}, which takes it; put KEY VALUE after --output DIR"
            )

    def work() -> None:
        from wsis.report.demo import draw

        draw(args)

    return _run(work)


def peak_thresholds_parser() -> argparse.ArgumentParser:
    """The argument parser of ``tools/peak_thresholds.py``."""
    parser = _parser("peak_thresholds.py", _PEAKS)
    add = parser.add_argument
    add("--config-file", required=True, metavar="YAML", help="the pipeline")
    add("--images", type=_positive, default=200, metavar="N", help="look at so many; default 200")
    _add_opts(parser)
    return parser


def peak_thresholds(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``tools/peak_thresholds.py``; returns the exit code."""
    args = peak_thresholds_parser().parse_intermixed_args(argv)

    def work() -> None:
        from wsis.report.peak_thresholds import print_heights

        print_heights(args)

    return _run(work)

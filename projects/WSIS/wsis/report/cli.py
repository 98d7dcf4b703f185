"""The command line of ``tools/report.py``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from wsis.errors import run_command
from wsis.evaluation.results import format_table
from wsis.report.build import is_current, report_path, write_report
from wsis.report.sections import Options

_DESCRIPTION = """\
Write one HTML file with pictures, plots and figures of a run, finished or not.

The file needs no network and nothing beside it. Stages of any method appear; what they made is
drawn for a sample of the images.
"""


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def build_parser() -> argparse.ArgumentParser:
    """The argument parser of ``tools/report.py``."""
    defaults = Options()
    parser = argparse.ArgumentParser(
        "report.py",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
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
        type=float,
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


def make_report(args: argparse.Namespace) -> None:
    """Write the report, where it is not current, and print the figures."""
    if args.if_changed and is_current(args.output_dir, path=args.output):
        path = report_path(args.output_dir, args.output)
        sys.stdout.write(f"nothing to draw anew\nreport: {path.resolve()}\n")
        return
    options = Options(
        images=args.images,
        statistics=args.statistics,
        seed=args.seed,
        min_score=args.min_score,
    )
    path, entries = write_report(args.output_dir, path=args.output, options=options)
    table = format_table(entries) if entries else "nothing has been evaluated"
    sys.stdout.write(f"{table}\n\nreport: {path.resolve()}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0, 1 (failure) or 2 (usage)."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    return run_command(lambda: make_report(args))

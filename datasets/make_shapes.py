"""Draw the data set "shapes": textured objects of four classes, with every kind of annotation.

No download, no GPU; the default takes about ten seconds. Registered as shapes_train and shapes_val.
Running it again with the same arguments does nothing. Proposals are not among the files: they are
made from the pictures, by the same tool as for any data set.
"""

import argparse
import sys
from pathlib import Path

from wsis.commands import command, make_parser
from wsis.data.root import datasets_root
from wsis.data.shapes_files import ShapesArguments, write_shapes


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    defaults = ShapesArguments()
    sides = [defaults.min_side, defaults.max_side]
    parser = make_parser(__doc__)
    add = parser.add_argument
    add(
        "--output",
        type=Path,
        default=datasets_root() / "shapes",
        help="folder to write (default: shapes below DETECTRON2_DATASETS or datasets/)",
    )
    counts = {"train": "training", "val": "validation", "salient": "single-object salient"}
    for name, what in counts.items():
        number = getattr(defaults, name)
        add(f"--{name}", type=int, default=number, help=f"{what} images (default: {number})")
    add(
        "--size",
        type=int,
        nargs="+",
        default=sides,
        metavar="SIDE",
        help="one side length, or the range of both sides in pixels (default: {} {})".format(
            *sides
        ),
    )
    add("--seed", type=int, default=defaults.seed, help="default: %(default)s")
    add("--force", action="store_true", help="draw again what is there already")
    add("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    if len(options.size) > 2:
        parser.error("--size takes one or two numbers")
    return options


def make(options: argparse.Namespace) -> None:
    """Do what the command line says."""
    same = {name: getattr(options, name) for name in ("train", "val", "salient", "seed")}
    wanted = ShapesArguments(min_side=options.size[0], max_side=options.size[-1], **same)
    made = write_shapes(options.output, wanted, force=options.force, quiet=options.quiet)
    what = "is made" if made else "is there already; nothing to do"
    print(f"shapes {what}: {options.output} ({options.train} train, {options.val} val images)")


main = command(parse, make)

if __name__ == "__main__":
    sys.exit(main())

"""Make segment proposals of images, or convert those of others (MCG, COB, PRM, RLE lists).

Proposals are regions that may be objects, found without learning: PRM and CIM choose among them,
IAM learns from them. One file an image, <image key>.npz, is written; a run that was stopped goes on
where it was. Use the folder in a config:

  WSIS.PROPOSALS.FORMAT npz WSIS.PROPOSALS.ROOT <output>

Where the data set has masks, average best overlap (ABO) and recall are measured afterwards.
"""

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from wsis.commands import command, make_parser
from wsis.data.proposals import FORMATS, GENERATE
from wsis.errors import DataError


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--dataset", metavar="NAME", help="a data set as in the configs")
    what.add_argument("--images", type=Path, metavar="DIR", help="a folder of pictures")
    add("--output", type=Path, required=True, metavar="DIR", help="folder to write")
    add("--config-file", metavar="YAML", help="pipeline whose WSIS.DATASETS are made known")
    add("--jobs", type=int, default=0, help="processes; default 0: this one")
    add(
        "--format",
        default=GENERATE,
        choices=(GENERATE, *FORMATS),
        help="generate (default), or the format of the files to convert",
    )
    add("--root", default="", metavar="DIR", help="folder of the files to convert")
    add("--max-count", type=int, metavar="N", help="proposals of an image at most; 0 for all")
    add("--skip-errors", action="store_true", help="leave out images that fail")
    add("--force", action="store_true", help="make again what is there")
    add("--no-evaluation", action="store_true", help="do not measure ABO and recall")
    add("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    if options.jobs < 0:
        parser.error("--jobs must be 0 or more")
    return options


def summary(results: list[dict[str, Any]]) -> str:
    """ABO and recall as a small table."""
    if not results:
        return "nothing to compare with: no masks"
    metrics = results[0]["metrics"]
    lines = [f"{'first':>9} {'ABO':>7} {'recall@0.5':>11} {'recall@0.7':>11}"]
    for suffix in ("@100", "@300", "@1000", ""):
        cells = [metrics[f"{name}{suffix}"] for name in ("ABO", "recall50", "recall70")]
        lines.append(
            f"{suffix[1:] or 'all':>9} {cells[0]:>7.1f} {cells[1]:>11.1f} {cells[2]:>11.1f}"
        )
    lines.append(f"{metrics['objects']} objects in {metrics['images']} images, per cent")
    return "\n".join(lines)


def evaluate(records: list[dict[str, Any]], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure what was written."""
    from wsis.config import get_wsis_cfg
    from wsis.data.artifacts import ArtifactFolder
    from wsis.data.builtin import class_names
    from wsis.evaluation.proposals import check_proposals

    names, product = class_names(options.dataset), ArtifactFolder(options.output)
    return check_proposals(records, product, names, get_wsis_cfg())


def next_steps(options: argparse.Namespace) -> str:
    """What to do with the folder."""
    source = ["--images", str(options.images)]
    if options.dataset:
        source = ["--dataset", options.dataset]
        source += ["--config-file", options.config_file] if options.config_file else []
    kind = (options.dataset or "").partition("_")[0]
    ours = f"configs/prm_{kind}.yaml" if kind in ("coco", "shapes", "voc") else "PIPELINE.yaml"
    config = options.config_file or ours
    look = ["python tools/visualize.py proposals", shlex.quote(str(options.output))]
    look += [*map(shlex.quote, source), "--output pictures"]
    root = shlex.quote(str(options.output))
    return (
        f"look at them: {' '.join(look)}\n"
        f"use them:     python train_net.py --config-file {shlex.quote(config)} "
        f"WSIS.PROPOSALS.FORMAT npz WSIS.PROPOSALS.ROOT {root}"
    )


def make(options: argparse.Namespace) -> None:
    """Do what the command line says."""
    from wsis.config import get_wsis_cfg  # torch and Detectron2 after parsing
    from wsis.data.builtin import get_dataset_dicts
    from wsis.data.proposals.folder import images_in, write_proposals
    from wsis.engine.pipeline import load_pipeline
    from wsis.stages import proposal_source

    cfg = get_wsis_cfg()
    if options.config_file:
        load_pipeline(options.config_file, ())
    cfg.WSIS.PROPOSALS.FORMAT, cfg.WSIS.PROPOSALS.ROOT = options.format, options.root
    if options.max_count is not None:
        cfg.WSIS.PROPOSALS.MAX_COUNT = options.max_count
    records = images_in(options.images) if options.images else get_dataset_dicts(options.dataset)

    start = time.monotonic()
    try:
        made = write_proposals(
            records,
            options.output,
            source=proposal_source(cfg),
            jobs=options.jobs,
            force=options.force,
            skip_errors=options.skip_errors,
            quiet=options.quiet,
        )
    except DataError as error:
        raise DataError(f"{error} (or --skip-errors)") from error
    seconds = time.monotonic() - start
    for key, reason in made["failed"].items():
        print(f"{key}: {reason}", file=sys.stderr)
    images = made["images"]
    if images:
        print(
            f"{options.output}: {images} images in {seconds:.0f} s ({images / seconds:.2f} a "
            f"second), {made['proposals'] / images:.0f} proposals each"
        )
    else:
        print(f"{options.output}: nothing to do, {made['before']} images are there already")
    if options.dataset and not options.no_evaluation:
        left = [r for r in records if r["image_key"] not in made["failed"]]
        print(summary(evaluate(left, options)))
    print(next_steps(options))


main = command(parse, make)

if __name__ == "__main__":
    sys.exit(main())

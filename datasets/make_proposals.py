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

from tabulate import tabulate
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
    measures = {"ABO": "ABO", "recall@0.5": "recall50", "recall@0.7": "recall70"}
    rows = [
        [suffix[1:] or "all", *(metrics[f"{name}{suffix}"] for name in measures.values())]
        for suffix in ("@100", "@300", "@1000", "")
    ]
    table = tabulate(rows, headers=["first", *measures], tablefmt="plain", floatfmt=".1f")
    return f"{table}\n{metrics['objects']} objects in {metrics['images']} images, per cent"


def next_steps(options: argparse.Namespace) -> str:
    """What to do with the folder."""
    root, config = shlex.quote(str(options.output)), options.config_file
    if options.images:
        source = ["--images", str(options.images)]
    else:
        source = ["--dataset", options.dataset, *(["--config-file", config] if config else [])]
    kind = (options.dataset or "").partition("_")[0]
    ours = f"configs/prm_{kind}.yaml" if kind in ("coco", "shapes", "voc") else "PIPELINE.yaml"
    return (
        f"look at them: python tools/visualize.py proposals {root} {shlex.join(source)} "
        "--output pictures\n"
        f"use them:     python train_net.py --config-file {shlex.quote(config or ours)} "
        f"WSIS.PROPOSALS.FORMAT npz WSIS.PROPOSALS.ROOT {root}"
    )


def make(options: argparse.Namespace) -> None:
    """Do what the command line says."""
    from wsis.config import get_wsis_cfg  # torch and Detectron2 after parsing
    from wsis.data.artifacts import ArtifactFolder
    from wsis.data.builtin import get_dataset_dicts
    from wsis.data.proposals.folder import images_in, write_proposals
    from wsis.engine.pipeline import load_pipeline
    from wsis.evaluation.evaluator import evaluate_product
    from wsis.evaluation.proposals import check_proposals
    from wsis.stages import proposal_source

    cfg = get_wsis_cfg()
    if options.config_file:
        load_pipeline(options.config_file, ())
    cfg.WSIS.PROPOSALS.FORMAT, cfg.WSIS.PROPOSALS.ROOT = options.format, options.root
    if options.max_count is not None:
        cfg.WSIS.PROPOSALS.MAX_COUNT = options.max_count
    on_error = "skip" if options.skip_errors else "raise"
    if options.images:
        records = images_in(options.images)
    else:
        records = get_dataset_dicts(options.dataset, on_error)

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
    images, said = made["images"], f"nothing to do, {made['before']} images are there already"
    if images:
        said = f"{images} images in {seconds:.0f} s ({images / seconds:.2f} a second), "
        said += f"{made['proposals'] / images:.0f} proposals each"
    print(f"{options.output}: {said}")
    if options.dataset and not options.no_evaluation:
        left = [r for r in records if r["image_key"] not in made["failed"]]
        evaluator = check_proposals(options.dataset, cfg)
        print(summary(evaluate_product(evaluator, left, ArtifactFolder(options.output))))
    print(next_steps(options))


main = command(parse, make)

if __name__ == "__main__":
    sys.exit(main())

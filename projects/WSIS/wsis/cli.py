"""The command line of ``train_net.py``, parsed before anything heavy is imported."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from wsis.commands import add_pipeline, let_output_vanish, make_parser
from wsis.errors import WSISError, run_command

_DESCRIPTION = """\
Turn weak labels into instance masks and a trained Mask R-CNN.

Runs the stages of a pipeline in order. Finished and unchanged work is never redone: run the same
command again after an interruption and it goes on where it stopped.

SOLVER.IMS_PER_BATCH is the total over all processes. Half of it, where memory is short, wants half
of SOLVER.BASE_LR and twice SOLVER.MAX_ITER and SOLVER.STEPS.
"""

_OPTS = """config overrides, for every stage; stage.KEY VALUE for one; DATA.TRAIN, DATA.VAL and
DATA.SALIENT take a registered data set, a path or a description"""
_EPILOG = """\
examples:
  train_net.py --config-file configs/irnet_voc.yaml --num-gpus 4
  train_net.py --config-file configs/irnet_voc.yaml --list-stages
  train_net.py --config-file configs/irnet_voc.yaml --stage relation_network SOLVER.IMS_PER_BATCH 16
  train_net.py --config-file configs/irnet_voc.yaml classifier.SOLVER.BASE_LR 0.05
  train_net.py --config-file configs/irnet_voc.yaml --eval-only mask_rcnn.MODEL.WEIGHTS other.pth
  train_net.py --config-file configs/irnet_photos.yaml DATA.TRAIN birds OUTPUT_DIR output/birds
  train_net.py --config-file configs/irnet_voc.yaml --num-gpus 0 --num-processes 2
  torchrun --nnodes 2 --nproc-per-node 4 train_net.py --config-file configs/irnet_voc.yaml
"""

_CHOICES = ("stage", "from_stage", "until_stage", "force", "resume", "eval_only")
_CHOICES += ("num_gpus", "num_processes")


def build_parser() -> argparse.ArgumentParser:
    """The argument parser of ``train_net.py``."""
    parser = make_parser(_DESCRIPTION, prog="train_net.py", epilog=_EPILOG)
    add = parser.add_argument
    add_pipeline(parser, "a pipeline; configs/ has those of the papers", _OPTS)
    add("--num-gpus", type=int, metavar="N", help="GPUs on this machine; default 1 if there is one")
    add("--num-processes", type=int, metavar="N", help="CPU processes, for runs without a GPU")
    add("--stage", metavar="NAME", help="run this stage only")
    add("--from-stage", metavar="NAME", help="run this stage and those after it")
    add("--until-stage", metavar="NAME", help="run the stages up to this one")
    add(
        "--resume",
        action="store_true",
        help="train on where only SOLVER.MAX_ITER has grown since; a run goes on from its last "
        "checkpoint and its last finished image without it, too",
    )
    add("--force", action="store_true", help="redo the chosen stages from scratch")
    add(
        "--eval-only",
        action="store_true",
        help="evaluate what is there; train and make nothing. With MODEL.WEIGHTS FILE among the "
        "overrides, that checkpoint is evaluated on every chosen stage whose network it fits (with "
        "STAGE.MODEL.WEIGHTS on this one); its figures stand beside the run's own",
    )
    add(
        "--verify", action="store_true", help="read all files again: are they as they were written?"
    )
    add(
        "--verify-images",
        action="store_true",
        help="--verify, and compare the images' contents with those of the first time it was given",
    )
    add("--list-stages", action="store_true", help="say what is done, stale, unfinished, missing")
    add(
        "--print-config",
        metavar="STAGE",
        help="print the stage's whole config, without what earlier stages measure; run nothing",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0, 1 (failure), 2 (usage), 130 or 143 (signals)."""
    let_output_vanish()
    args = build_parser().parse_intermixed_args(argv)
    return run_command(lambda: _execute(args))


def _execute(args: argparse.Namespace) -> None:
    verifies = args.verify or args.verify_images
    if not (args.print_config or args.list_stages or verifies):
        import wsis

        wsis.run(args.config_file, args.opts, **{name: getattr(args, name) for name in _CHOICES})
        return
    from wsis.data.builtin import reading_once

    with reading_once():
        _tell(args)


def _tell(args: argparse.Namespace) -> None:
    """Answer a question about the pipeline; nothing is run."""
    from wsis.engine.launch import choose_devices
    from wsis.engine.listing import describe_stages
    from wsis.engine.pipeline import load_pipeline

    device, processes = choose_devices(args.num_gpus, args.num_processes, runs=False)
    overrides = ["MODEL.DEVICE", device, *args.opts]
    pipeline = load_pipeline(args.config_file, overrides, num_processes=processes, networks=False)
    if args.print_config:
        (planned,) = pipeline.select(stage=args.print_config)
        sys.stdout.write(planned.complete_config())
        return
    logging.getLogger("detectron2").setLevel(logging.WARNING)
    selection = {"stage": args.stage, "first": args.from_stage, "last": args.until_stage}
    if args.verify or args.verify_images:
        from wsis.engine.verify import verify

        table, problem = verify(pipeline, selection, images=args.verify_images)
        sys.stdout.write(f"{table}\n")
        if problem:
            raise WSISError(problem)
        return
    sys.stdout.write(describe_stages(pipeline, selection) + "\n")

"""A pipeline small enough for tests: the shipped shapes configs on a handful of tiny pictures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PIPELINE = ROOT / "configs" / "irnet_shapes.yaml"

# Overrides that make every stage of irnet_shapes.yaml run in a second or two.
TINY = (
    ("SOLVER.MAX_ITER", "4"),
    ("SOLVER.IMS_PER_BATCH", "2"),
    ("SOLVER.CHECKPOINT_PERIOD", "2"),
    ("SOLVER.STEPS", "(3,)"),
    ("SOLVER.BASE_LR", "0.001"),
    ("INPUT.CROP_SIDE", "64"),
    ("INPUT.LONGER_SIDE_RANGE", "(48,80)"),
    ("INPUT.SCALES", "(1.0,)"),
    ("INPUT.MIN_SIZE_TRAIN", "(64,)"),
    ("INPUT.MIN_SIZE_TEST", "64"),
    ("MODEL.RESNETS.RES2_OUT_CHANNELS", "16"),
    ("MODEL.RESNETS.STEM_OUT_CHANNELS", "16"),
    ("MODEL.FPN.OUT_CHANNELS", "16"),
    ("MODEL.IRNET.INFERENCE_SIZE", "96"),
    ("MODEL.IRNET.TRAIN_RADIUS", "4"),
    ("MODEL.IRNET.REFINEMENT_STEPS", "20"),
    ("MODEL.IRNET.EXP_TIMES", "4"),
    ("MODEL.ROI_BOX_HEAD.FC_DIM", "32"),
    ("MODEL.ROI_MASK_HEAD.CONV_DIM", "16"),
    ("WSIS.PSEUDO_LABELS.MIN_SCORE", "0.1"),
    ("inter_pixel_label.DATALOADER.NUM_WORKERS", "0"),
    ("mask_rcnn.MODEL.RESNETS.RES2_OUT_CHANNELS", "64"),  # Detectron2 allows no other with depth 18
)


def environment(datasets: Path) -> dict[str, str]:
    """Environment of a subprocess that sees the package of this checkout and these data sets."""
    return {
        **os.environ,
        "DETECTRON2_DATASETS": str(datasets),
        "PYTHONPATH": str(ROOT / "projects" / "WSIS"),
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }


def train_net(
    *arguments: object, datasets: Path, output: Path, prelude: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run ``train_net.py`` on the tiny pipeline.

    Args:
        *arguments: of the command line, beside the config file and the tiny overrides.
        datasets: folder with ``shapes/``.
        output: OUTPUT_DIR.
        prelude: Python code that runs first, in the same process, to break something on purpose.
    """
    command = ["--config-file", str(PIPELINE), *map(str, arguments)]
    command += ["OUTPUT_DIR", str(output), *(word for pair in TINY for word in pair)]
    if prelude:
        code = f"import sys\n{prelude}\nfrom wsis.engine.cli import main\nsys.exit(main())"
        command = [sys.executable, "-c", code, *command]
    else:
        command = [sys.executable, str(ROOT / "train_net.py"), *command]
    return subprocess.run(
        command, env=environment(datasets), capture_output=True, text=True, check=False
    )


def make_shapes(folder: Path, *, train: int = 8, val: int = 4) -> Path:
    """Draw tiny shapes into ``folder/shapes`` through the shipped script; returns ``folder``."""
    script = ROOT / "datasets" / "make_shapes.py"
    sizes = ["--train", train, "--val", val, "--salient", 1, "--size", 56, 72]
    command = [sys.executable, script, "--output", folder / "shapes", "--quiet", *sizes]
    subprocess.run([*map(str, command)], env=environment(folder), check=True)
    return folder

"""A pipeline small enough for tests: the shipped shapes configs on a handful of tiny pictures."""

from __future__ import annotations

import io
import json
import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PIPELINE = ROOT / "configs" / "irnet_shapes.yaml"

Overrides = Sequence[tuple[str, str]]

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

# What boxcaseg_shapes.yaml needs beyond.
TINY_BOXCASEG = (
    ("SOLVER.MAX_ITER", "4"),
    ("SOLVER.IMS_PER_BATCH", "4"),
    ("SOLVER.CHECKPOINT_PERIOD", "2"),
    ("SOLVER.STEPS", "(3,)"),
    ("SOLVER.BASE_LR", "0.001"),
    ("INPUT.MIN_SIZE_TRAIN", "(64,)"),
    ("INPUT.MIN_SIZE_TEST", "64"),
    ("MODEL.HRNET.CHANNELS", "[4,8,8,8]"),
    ("MODEL.HRNET.STEM_CHANNELS", "8"),
    ("MODEL.HRNET.FIRST_PLANES", "4"),
    ("MODEL.BOXCASEG.TRAIN_SIDE", "32"),
    ("MODEL.BOXCASEG.SALIENT_SIDE", "36"),
    ("MODEL.BOXCASEG.INFERENCE_SIDES", "[32]"),
    ("MODEL.FPN.OUT_CHANNELS", "16"),
    ("MODEL.ROI_BOX_HEAD.FC_DIM", "32"),
    ("MODEL.ROI_MASK_HEAD.CONV_DIM", "16"),
    ("WSIS.EVALUATION.GRABCUT_ITERATIONS", "1"),
)


def environment(datasets: Path) -> dict[str, str]:
    """Environment of a subprocess that sees these data sets and the package of this checkout.

    The caller's PYTHONPATH stays behind it: Detectron2 may lie there.
    """
    package = str(ROOT / "projects" / "WSIS")
    return {
        **os.environ,
        "DETECTRON2_DATASETS": str(datasets),
        "PYTHONPATH": os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH")))),
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }


def tiny_overrides(config: Path = PIPELINE, extra: Overrides = ()) -> list[str]:
    """The words ``KEY VALUE ...`` of TINY, as far as a pipeline has their stages, and ``extra``."""
    from wsis.engine.config_files import read_config_files, stage_names

    stages = set(stage_names(read_config_files(config)))
    pairs = [pair for pair in TINY if pair[0][0].isupper() or pair[0].partition(".")[0] in stages]
    return [word for pair in (*pairs, *extra) for word in pair]


def _command(
    arguments: Sequence[object], output: Path, config: Path, extra: Overrides
) -> list[str]:
    words = tiny_overrides(config, extra)
    return ["--config-file", str(config), *map(str, arguments), "OUTPUT_DIR", str(output), *words]


def train_net(
    *arguments: object,
    datasets: Path,
    output: Path,
    config: Path = PIPELINE,
    extra: Overrides = (),
) -> subprocess.CompletedProcess[str]:
    """Run ``train_net.py`` on the tiny pipeline.

    Args:
        *arguments: of the command line, beside the config file and the tiny overrides.
        datasets: folder with ``shapes/``.
        output: OUTPUT_DIR.
        config: another pipeline.
        extra: KEY VALUE pairs that have the last word.
    """
    command = [sys.executable, str(ROOT / "train_net.py")]
    command += _command(arguments, output, config, extra)
    return subprocess.run(
        command, env=environment(datasets), capture_output=True, text=True, check=False
    )


def train_net_forked(
    *arguments: object,
    datasets: Path,
    output: Path,
    prelude: str = "",
    config: Path = PIPELINE,
    extra: Overrides = (),
) -> subprocess.CompletedProcess[str]:
    """As `train_net`, in a process forked from one that has imported everything and done nothing.

    That spares the seconds of the imports, also to the further processes of ``--num-processes``.
    The Python code ``prelude`` runs first, in the same process, to break something on purpose.
    """
    command = _command(arguments, output, config, extra)
    code = f"import sys\n{prelude}\nfrom wsis.cli import main\nsys.exit(main())"
    return forked(code, *command, variables=environment(datasets))


def forked(
    code: str, *arguments: str, variables: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``code`` as a script with these arguments, in a process as `train_net_forked` says."""
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder) / name for name in ("stdout", "stderr")]
        target = (code, arguments, variables or {}, streams)
        process = _SERVER.Process(target=_forked_main, args=target)
        process.start()
        process.join()
        said = [stream.read_text() for stream in streams]
    return subprocess.CompletedProcess(arguments, process.exitcode, *said)


_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["wsis.config", "wsis.engine.run"])


def _forked_main(
    code: str, arguments: Sequence[str], variables: dict[str, str], streams: list[Path]
) -> None:
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.environ.update(variables)
    sys.argv[1:] = arguments
    import torch.multiprocessing as processes
    import wsis  # noqa: F401  (before detectron2)

    processes.spawn = partial(processes.start_processes, start_method="fork")
    exec(code, {"__name__": "__main__"})


def train_net_here(
    *arguments: object,
    datasets: Path,
    output: Path,
    config: Path = PIPELINE,
    extra: Overrides = (),
) -> subprocess.CompletedProcess[str]:
    """As `train_net`, in this process, which spares the seconds of importing everything again.

    Detectron2's loggers hold on to the streams that they first saw, so they start anew each time.
    """
    from wsis.cli import main

    command = _command(arguments, output, config, extra)
    out, err = io.StringIO(), io.StringIO()
    before = os.environ.get("DETECTRON2_DATASETS")
    os.environ["DETECTRON2_DATASETS"] = str(datasets)
    try:
        with (
            redirect_stdout(out),
            redirect_stderr(err),
            _fresh_loggers(),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            try:
                code = main(command)
            except SystemExit as end:
                code = end.code
    finally:
        del os.environ["DETECTRON2_DATASETS"]
        if before is not None:
            os.environ["DETECTRON2_DATASETS"] = before
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())


@contextmanager
def _fresh_loggers() -> Iterator[None]:
    from detectron2.utils.logger import setup_logger

    loggers = [logging.getLogger(name) for name in ("wsis", "fvcore", "detectron2")]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers.clear()
    setup_logger.cache_clear()
    try:
        yield
    finally:
        setup_logger.cache_clear()
        for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
            logger.handlers[:] = handlers
            logger.setLevel(level)
            logger.propagate = propagate


def make_shapes(folder: Path, *, train: int = 8, val: int = 4) -> Path:
    """Draw tiny shapes into ``folder/shapes``; returns ``folder``."""
    from wsis.data.shapes_files import ShapesArguments, write_shapes

    write_shapes(
        folder / "shapes",
        ShapesArguments(train=train, val=val, salient=1, min_side=56, max_side=72),
    )
    return folder


def resize_shapes(root: Path, sizes: Sequence[tuple[int, int]]) -> None:
    """Give the pictures of the shapes in ``root`` these sizes (H, W) in turn, and their masks."""
    from PIL import Image
    from wsis.data.working_size import resize_annotation

    for folder in (root / "JPEGImages", root / "salient" / "images", root / "salient" / "masks"):
        method = Image.Resampling.NEAREST if folder.name == "masks" else None
        for path, size in zip(sorted(folder.iterdir()), cycle(sizes)):  # noqa: B905
            Image.open(path).resize(size[::-1], method).save(path)
    for path in root.glob("instances_*.json"):
        content, changed = json.loads(path.read_text()), {}
        for image in content["images"]:
            new = Image.open(root / "JPEGImages" / image["file_name"]).size[::-1]
            changed[image["id"]] = (image["height"], image["width"]), new
            image["height"], image["width"] = new
        content["annotations"] = [
            resize_annotation(a, *changed[a["image_id"]]) for a in content["annotations"]
        ]
        path.write_text(json.dumps(content))


def labels_of(output: Path) -> bytes:
    """The pseudo-label file of a run."""
    return (output / "7_pseudo_labels" / "pseudo_labels.json").read_bytes()


def manifest_of(output: Path, stage: str) -> dict[str, Any]:
    """The manifest of a stage, ``{}`` where there is none."""
    path = next(iter(output.glob(f"*_{stage}/manifest.json")), None)
    return json.loads(path.read_text()) if path else {}


def make_ready(folder: Path) -> Path:
    """Fill ``folder`` as ``wsis/ready``, with random weights in half precision; returns it."""
    import torch
    import wsis.ready
    from wsis.engine.checkpoint import build_network
    from wsis.trained_stage import open_run

    for path in wsis.ready.FOLDER.glob("*.yaml"):
        shutil.copy(path, folder)
    torch.manual_seed(0)
    cfg = open_run("wsis://boxcaseg_ready").stages[0].cfg
    state = build_network(cfg).state_dict()
    halves = {k: v.half() if v.ndim > 1 else v for k, v in state.items()}
    torch.save({"model": halves}, folder / "boxcaseg_ready.pth")
    return folder

"""Whole stages on generated pictures, as a run does them: there is no plain way.

The networks have their published sizes and random weights. What a stage reads is made before, and
not timed. On a GPU, as in a run, other processes prepare the pictures meanwhile, and a network gets
several together.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import wsis  # noqa: F401  (before detectron2)
from torch import nn
from torch.nn.modules import module as hooks
from wsis.data.artifacts import SUMMARY, write_artifact
from wsis.data.shapes_files import ShapesArguments, write_shapes
from wsis.engine.checkpoint import build_network
from wsis.engine.folder import StageFolder, open_folders
from wsis.engine.image_stages import artifact_maker, work_through
from wsis.engine.pipeline import load_pipeline
from wsis.stage import ExportStage, InferStage, TrainStage

from plain import Benchmark, synchronize

CONFIGS = Path(__file__).parents[2] / "configs"
Maker = tuple[Callable[[dict[str, Any]], Any], Callable[[list[Any]], list[dict[str, Any]]]]


class Stages:
    """The stages of a pipeline, each made when it is asked for; networks have random weights."""

    def __init__(self, config: Path, overrides: Sequence[str]) -> None:
        self.folders = open_folders(load_pipeline(config, overrides))
        self._made: set[str] = set()

    def maker(self, name: str, **values: Any) -> Maker:
        """What makes the artifacts of a stage (`artifact_maker`); the stages before it are made.

        ``values`` are other values of config keys, with ``__`` for a dot.
        """
        folder = self.folders[name]
        for source in folder.sources.values():
            self.make(source.name)
        products = {product: source.reader for product, source in folder.sources.items()}
        changed = {key.replace("__", "."): value for key, value in values.items()}
        stage = folder.planned.stage
        if isinstance(stage, InferStage) and stage.measured is not None:
            changed |= stage.measured(products)
        return artifact_maker(folder.planned.with_values(changed), products)

    def make(self, name: str) -> StageFolder:
        """The folder of a stage with its product."""
        folder, stage = self.folders[name], self.folders[name].planned.stage
        if name in self._made:
            return folder
        assert not isinstance(stage, ExportStage)
        if isinstance(stage, TrainStage):
            torch.manual_seed(0)
            folder.path.mkdir(parents=True, exist_ok=True)
            state = build_network(folder.planned.cfg).state_dict()
            torch.save({"model": state}, folder.reader.weights)
            self._made.add(name)
            return folder
        self.run(name, self.maker(name))
        if isinstance(stage, InferStage) and stage.reduce is not None:
            artifacts = ((key, folder.reader[key]) for key in folder.image_keys)
            write_artifact(
                folder.path / f"{SUMMARY}.npz", stage.reduce(artifacts, folder.planned.cfg)
            )
        return folder

    def run(self, name: str, maker: Maker) -> None:
        """Make the artifacts of a stage, anew."""
        folder = self.folders[name]
        shutil.rmtree(folder.path, ignore_errors=True)
        folder.path.mkdir(parents=True)
        with contextlib.redirect_stderr(io.StringIO()):  # the progress bar
            work_through(folder, *maker)
        self._made.add(name)


@contextlib.contextmanager
def network_clock() -> Iterator[list[float]]:
    """Seconds that networks take forwards meanwhile, without what ROI heads make of their maps."""
    total, depth, start = [0.0], 0, 0.0

    def counts(part: nn.Module) -> bool:
        name = type(part).__name__
        return not (name.endswith("ROIHeads") or type(part).__module__.endswith("meta_arch"))

    def before(part: nn.Module, _: Any) -> None:
        nonlocal depth, start
        if counts(part):
            depth += 1
            if depth == 1:
                synchronize()
                start = time.perf_counter()

    def after(part: nn.Module, *_: Any) -> None:
        nonlocal depth
        if counts(part):
            depth -= 1
            if depth == 0:
                synchronize()
                total[0] += time.perf_counter() - start

    handles = [
        hooks.register_module_forward_pre_hook(before),
        hooks.register_module_forward_hook(after),
    ]
    try:
        yield total
    finally:
        for handle in handles:
            handle.remove()


@cache
def pictures(count: int) -> Path:
    """A folder with ``count`` generated pictures of VOC's size, as a data set."""
    folder = TemporaryDirectory()
    atexit.register(folder.cleanup)
    arguments = ShapesArguments(train=count, val=1, salient=0, min_side=375, max_side=500)
    write_shapes(Path(folder.name) / "shapes", arguments)
    return Path(folder.name)


@cache
def stages_of(config: str, device: str, count: int, own: tuple[str, ...]) -> Stages:
    """The stages of a shipped pipeline on generated pictures."""
    folder = pictures(count)
    os.environ["DETECTRON2_DATASETS"] = str(folder)
    words = ["MODEL.DEVICE", device, "MODEL.WEIGHTS", "", "OUTPUT_DIR", str(folder / config)]
    words += ["DATA.TRAIN", "shapes_train", "DATA.EVALUATION", "shapes_train"]
    words += ["DATA.VAL", "shapes_val", "DATA.SALIENT", "shapes_salient"]
    if device == "cpu":
        words += ["DATALOADER.NUM_WORKERS", "0"]
    return Stages(CONFIGS / f"{config}.yaml", [*words, *own])


def build(
    config: str, name: str, own: tuple[str, ...], note: str, device: str = "cpu"
) -> Benchmark:
    """A stage of a pipeline; on a GPU on more pictures, since other processes have to start."""
    count = 2 if device == "cpu" else 64
    stages = stages_of(config, device, count, own)
    maker = stages.maker(name)

    def share() -> float:
        with network_clock() as seconds:
            start = time.perf_counter()
            stages.run(name, maker)
        return seconds[0] / (time.perf_counter() - start)

    return Benchmark(
        ours=partial(stages.run, name, maker), images=count, network_share=share, note=note
    )


_PEAKS = ("MODEL.PEAK_CLASSIFIER.MAX_PEAKS", "5", "MODEL.PEAK_CLASSIFIER.PEAK_THRESHOLD", "-1e9")
_FEWER = ("WSIS.PROPOSALS.MAX_COUNT", "200", "INPUT.LONGER_SIDES_TEST", "(480,)")
_ROWS = {
    "irnet/cam": ("irnet_voc", (), "4 scales and their mirror images"),
    "irnet/inter_pixel_label": ("irnet_voc", (), "dense CRF of two seed maps"),
    "irnet/instances": ("irnet_voc", (), "image and mirror image, walk of 256 steps"),
    "prm/proposals": ("prm_voc", _PEAKS, "generated"),
    "prm/peak_instances": ("prm_voc", _PEAKS, "5 peaks, 448 x 448"),
    "iam/filled_instances": ("iam_voc", _PEAKS, "5 peaks, 448 x 448"),
    "boxcaseg/box_masks": ("boxcaseg_voc", (), "HRNet-W48, crops of 320"),
    "cim/class_peaks": ("cim_voc", _FEWER, "448 x 448"),
    "cim/mined_instances": ("cim_voc", _FEWER, "200 proposals, one scale and its mirror image"),
}
BENCHMARKS = {
    f"stage/{name}": partial(build, config, name.split("/")[1], own, note)
    for name, (config, own, note) in _ROWS.items()
}

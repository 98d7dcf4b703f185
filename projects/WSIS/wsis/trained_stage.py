"""A trained stage that takes any image: which stages can, and how they are loaded and run."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode

from wsis.config import get_wsis_cfg
from wsis.data.artifacts import ProductReader
from wsis.data.mappers import build_mapper
from wsis.data.working_size import enlarge_instances, working_size
from wsis.engine.checkpoint import build_inference_model
from wsis.engine.folder import StageFolder
from wsis.engine.image_stages import artifact_maker
from wsis.engine.launch import check_device, choose_devices
from wsis.engine.manifest import Images, Manifest, defaults_among, relevant_config
from wsis.engine.pipeline import Pipeline, PlannedStage, find_sources, load_pipeline
from wsis.errors import DataError, UsageError, WSISError, known_words
from wsis.reading import read_yaml
from wsis.ready import ADDRESS, packaged, ready_file, ready_names
from wsis.stage import DeriveStage, InferStage, Stage, TrainStage, get_stage
from wsis.stages import detection_evaluator

logger = logging.getLogger(__name__)

Record = dict[str, Any]
Arrays = Mapping[str, np.ndarray]
INSTANCE_ARRAYS = {"classes", "scores", "masks"}
_OF_INSTANCES = {*INSTANCE_ARRAYS, "boxes", "confidence", "ignore", "instance_peaks", "proposals"}
_OF_TRAINING = ("SOLVER.", "SEED", "WSIS.", "DATASETS.", "DATALOADER.")
_CONFIDENT = 0.5  # as Detectron2's demo


def open_pipeline(config_file: str, overrides: Sequence[str]) -> Pipeline:
    """A pipeline as it was trained, on this machine's GPU if it has one.

    Raises:
        UsageError: the run folders hold networks of other classes than the data have.
        DataError: the data cannot be read.
    """
    device, _ = choose_devices(None, None)
    try:
        pipeline = load_pipeline(config_file, ["MODEL.DEVICE", device, *overrides])
    except DataError as error:
        raise DataError(
            f"the data that the network was trained on are not there: {error}. If they were given "
            "on the command line of train_net.py, repeat that here (DATA.TRAIN ..., OUTPUT_DIR ...)"
        ) from None
    for planned in pipeline.stages:
        check_device(planned.cfg)
        path = planned.folder / "config.yaml"
        if isinstance(planned.stage, TrainStage) and path.is_file():
            with _reading(path):
                trained = list(read_yaml(path)["WSIS"]["CLASSES"])
            if trained != planned.cfg.WSIS.CLASSES:
                raise UsageError(
                    f"{planned.folder} has learnt other classes ({', '.join(trained[:5])}, ...) "
                    "than the data of this command have; repeat DATA.TRAIN, or give the run's own "
                    "config"
                )
    return pipeline


def open_run(run: str | os.PathLike[str], imports: Sequence[str] = ()) -> Pipeline:
    """The stages of a run as their folders hold them; neither pipeline file nor data are needed.

    Args:
        run: its OUTPUT_DIR. Or the name of a network that comes with WSIS, whose one stage makes
            the class "object"; a folder of that name comes first, ``wsis://NAME`` before it.
        imports: the names of WSIS.IMPORTS that may be imported; a run's files import nothing else.

    Raises:
        WSISError: the folder holds no stage that has run, or a config that cannot be read.
    """
    output_dir, name = Path(run), os.fspath(run)
    if name.startswith(ADDRESS) or (name in ready_names() and not output_dir.exists()):
        cfg = _stage_config(ready_file(name, ".yaml"), ())
        planned = PlannedStage(get_stage(cfg.WSIS.STAGE), cfg, Path(cfg.OUTPUT_DIR))
        return Pipeline(name, planned.folder, (planned,))
    found = [path for path in output_dir.glob("*_*/config.yaml") if _number(path).isdecimal()]
    if not found:
        raise WSISError(
            f"{output_dir} holds no stage that has run (<n>_<stage>/config.yaml), nor is that a "
            f"network that comes with WSIS ({known_words(name, ready_names())})"
        )
    stages: list[PlannedStage] = []
    for path in sorted(found, key=lambda path: int(_number(path))):
        cfg = _stage_config(path, imports)
        stage, sources = get_stage(cfg.WSIS.STAGE), {}
        with suppress(UsageError):  # a folder is gone: stages that need it cannot be shown
            sources = find_sources(stage, cfg, stages)
        stages.append(PlannedStage(stage, cfg, path.parent, sources))
    return Pipeline(output_dir.name, output_dir, tuple(stages))


def _number(config_file: Path) -> str:
    return config_file.parent.name.partition("_")[0]


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What is wrong with a run folder's ``config.yaml`` becomes one DataError."""
    try:
        yield
    except WSISError:
        raise
    except (OSError, KeyError, TypeError, ValueError, AssertionError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path} is no stage's config of this version ({reason})") from None


def _stage_config(path: Path, imports: Sequence[str]) -> CfgNode:
    """A stage's whole config, as in a run folder; it may only import what ``imports`` names."""
    with _reading(path):
        said = read_yaml(path)
        asked = said["WSIS"].get("IMPORTS", [])
        wanted = [name for name in asked if name not in imports]
        if "_BASE_" in said:
            raise ValueError("it has a _BASE_, which no run writes")
        if wanted:
            raise UsageError(f"{path} imports {wanted[0]}; if you trust it, name it in imports=")
        cfg = get_wsis_cfg(asked)
        cfg.merge_from_other_cfg(CfgNode(said))
    cfg.WSIS.CLASSES = cfg.WSIS.CLASSES or ["object"]
    cfg.MODEL.TIMM.WEIGHTS, cfg.MODEL.TIMM.PRETRAINED = "", False  # as written: nothing is fetched
    cfg.OUTPUT_DIR, (cfg.MODEL.DEVICE, _) = str(path.parent), choose_devices(None, None)
    cfg.freeze()
    return cfg


def is_detector(stage: Stage) -> bool:
    """Whether a stage trains a network that makes ``Instances`` from an image alone."""
    return isinstance(stage, TrainStage) and stage.evaluation is detection_evaluator


def has_instances(arrays: Arrays) -> bool:
    """Whether an artifact has instances; a detector of boxes alone has no masks."""
    return INSTANCE_ARRAYS - {"masks"} <= set(arrays)


def choose_instances(arrays: Arrays, keep: np.ndarray) -> dict[str, np.ndarray]:
    """An artifact with some of its instances: a mask or indices."""
    return {k: v[keep] if k in _OF_INSTANCES else v for k, v in arrays.items()}


def _is_for_all_images(stage: Stage) -> bool:
    """Whether a product belongs to all images together: weights, or a summary."""
    return isinstance(stage, TrainStage) or getattr(stage, "reduce", None) is not None


def _can_show(planned: PlannedStage, levels: Sequence[str]) -> bool:
    """Whether a stage works on a photograph with annotations of these levels at most."""
    stage = planned.stage
    if isinstance(stage, TrainStage):
        return is_detector(stage)
    if not isinstance(stage, InferStage | DeriveStage) or _is_for_all_images(stage):
        return False
    lacking = set(stage.consumes) - planned.sources.keys()
    if isinstance(stage, InferStage) and planned.cfg.MODEL.WEIGHTS:  # perhaps trained elsewhere
        lacking -= {stage.weights_from}
    if stage.supervision not in levels or lacking:
        return False
    sources = planned.sources.values()
    return all(_is_for_all_images(s.stage) or _can_show(s, levels) for s in sources)


def takes_boxes(planned: PlannedStage) -> bool:
    """Whether a stage makes something of the boxes in an image, itself or by those before it."""
    if isinstance(planned.stage, TrainStage):
        return False
    return planned.stage.supervision == "box" or any(map(takes_boxes, planned.sources.values()))


def choose_stage(
    pipeline: Pipeline, name: str | None = None, levels: Sequence[str] = ("image",)
) -> PlannedStage:
    """The stage to show: ``name``, or the last detector, or else the last maker of instances.

    Args:
        pipeline: as it was trained.
        name: of the stage.
        levels: what may be known of the photograph: tags ("image"), boxes ("box").

    Raises:
        UsageError: it is not there, or cannot be shown; the message lists those that can.
    """
    shown = [planned for planned in pipeline.stages if _can_show(planned, levels)]
    names = ", ".join(planned.name for planned in shown)
    advice = f"--stage shows {names}" if shown else "give another pipeline"
    if name is None:
        products = ("instances", "box_masks")
        detectors = [p for p in shown if is_detector(p.stage)]
        makers = detectors or [p for p in shown if p.stage.produces in products]
        if makers:
            return makers[-1]
        raise UsageError(
            f"no stage of pipeline {pipeline.name} makes instances of a photograph; {advice}"
        )
    (planned,) = pipeline.select(stage=name)
    if planned not in shown:
        raise UsageError(f"stage {name} makes nothing of a photograph alone; {advice}")
    return planned


class _Fresh(dict[str, Arrays]):
    """Artifacts of a stage by image key, made of the image at hand when they are asked for."""

    def __init__(self, make: Callable[[], Arrays]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: str) -> Arrays:
        return self.setdefault(key, self._make())


class TrainedStage:
    """A trained stage that takes any image; earlier stages are run on it as far as needed.

    Args:
        planned: of a pipeline as it was trained (`choose_stage`).
        weights: a checkpoint of the stage's network; by default the one that the pipeline trained.
        min_score: instances with a lower score are left out; None for 0.5 of a detector, else 0.

    Attributes:
        classes: class names by class id.
        takes_boxes: it makes something of the boxes in an image, and nothing without.
        max_pixels: ``INPUT.MAX_PIXELS``.

    Raises:
        UsageError: weights for a stage without a network.
        WSISError: it is not trained.
    """

    def __init__(
        self,
        planned: PlannedStage,
        *,
        weights: Path | None = None,
        min_score: float | None = None,
    ) -> None:
        self.is_detector = is_detector(planned.stage)
        if min_score is None:
            min_score = _CONFIDENT if self.is_detector else 0.0
        self.name, self.min_score = planned.name, min_score
        self.takes_boxes = takes_boxes(planned)
        self.classes = tuple(planned.cfg.WSIS.CLASSES)
        self.max_pixels = planned.cfg.INPUT.MAX_PIXELS
        for change in dict.fromkeys(_changes(planned) if weights is None else ()):
            logger.warning("%s", change)
        self._record: Record = {}
        self._fresh: dict[str, _Fresh] = {}
        self._make = self._maker(planned, weights)

    def _products(self, planned: PlannedStage) -> dict[str, Any]:
        products: dict[str, Any] = {}
        for product, source in planned.sources.items():
            if _is_for_all_images(source.stage):
                products[product] = ProductReader(source.folder, source.name)
                continue
            if source.name not in self._fresh:
                self._fresh[source.name] = _Fresh(self._maker(source, None))
            products[product] = self._fresh[source.name]
        return products

    def _maker(self, planned: PlannedStage, weights: Path | None) -> Callable[[], Arrays]:
        """A function that makes a stage's artifact of the image at hand."""
        stage, cfg = planned.stage, planned.cfg
        if isinstance(stage, TrainStage):
            mapper = build_mapper(cfg, stage.mapper, is_train=False, products={})
            trained = weights or ProductReader(planned.folder, planned.name).weights
            model = build_inference_model(with_threshold(cfg, self.min_score), trained)
            return lambda: self._detections(model([mapper(self._record)])[0]["instances"])
        if weights is not None and isinstance(stage, DeriveStage):
            raise UsageError(f"--weights: stage {planned.name} has no network of its own")
        own = weights is None and _was_trained_elsewhere(planned)
        if own and "://" in packaged(cfg.MODEL.WEIGHTS):  # the run may be a stranger's
            raise UsageError(
                f"stage {planned.name} has its weights from {cfg.MODEL.WEIGHTS}, and nothing is "
                "fetched for a picture: download them yourself and name the file as MODEL.WEIGHTS "
                f"of that stage ({planned.folder / 'config.yaml'} of a run)"
            )
        products = self._products(planned)
        if isinstance(stage, InferStage) and stage.measured is not None:
            planned = planned.with_values(stage.measured(products))
        prepare, finish = artifact_maker(planned, products, weights)
        return lambda: finish([prepare(self._record)])[0]

    def _detections(self, instances: Any) -> Arrays:
        """``Instances`` of the image at hand as arrays; only of its tags, if these are known."""
        found = instances.to("cpu")
        arrays = {
            "classes": found.pred_classes.numpy(),
            "scores": found.scores.numpy(),
            "boxes": found.pred_boxes.tensor.numpy(),
        }
        if found.has("pred_masks"):
            arrays["masks"] = found.pred_masks.numpy().astype(bool)
        if "image_labels" not in self._record:
            return arrays
        keep = np.isin(arrays["classes"], self._record["image_labels"])
        return {name: values[keep] for name, values in arrays.items()}

    @torch.no_grad()
    def run(self, record: Record) -> dict[str, np.ndarray]:
        """The stage's artifact of an image, without instances that score too low; a box stays.

        Args:
            record: ``file_name``, ``image_key``, ``height``, ``width`` and, where the classes in it
                are known, ``image_labels``; for a stage that takes boxes ``annotations``.

        Returns:
            arrays at the size of `wsis.data.working_size.at_working_size`, see `enlarged`.
        """
        self._record = record
        for fresh in self._fresh.values():
            fresh.clear()
        made = {k: np.asarray(v) for k, v in self._make().items()}
        return made if self.takes_boxes else drop_below(made, self.min_score)

    def enlarged(self, record: Record, arrays: Arrays) -> dict[str, np.ndarray]:
        """An artifact with its instances at the size of the image file."""
        size = int(record["height"]), int(record["width"])
        return enlarge_instances(arrays, working_size(size, self.max_pixels), size)

    def class_ids(self, names: Sequence[str]) -> list[int]:
        """Class ids of tags.

        Raises:
            UsageError: a class that the network does not know.
        """
        for name in names:
            if name not in self.classes:
                known = known_words(name, self.classes)
                raise UsageError(f"there is no class {name!r}; it knows {known}")
        return sorted({self.classes.index(name) for name in names})


def _changes(planned: PlannedStage) -> Iterator[str]:
    """In words, how settings and weights differ from those that the run was made with."""
    for source in () if isinstance(planned.stage, TrainStage) else planned.sources.values():
        yield from _changes(source)
    with suppress(WSISError, ModuleNotFoundError):  # whoever loads the network tells
        before = Manifest.read(planned.folder)
        if before is not None and _was_trained_elsewhere(planned):
            own = StageFolder(planned, {}, Images()).initial_weights()
            if any(before.inputs.get(name, found) != found for name, found in own.items()):
                yield f"{planned.folder} was made with other weights than it has now"
        if before is not None and isinstance(planned.stage, TrainStage):
            now = relevant_config(planned)
            known = defaults_among(now, planned.cfg.WSIS.IMPORTS)
            before, after = (
                replace(before, config=_of_network(config), inputs={}, defaults=defaults)
                for config, defaults in ((before.config, before.defaults), (now, known))
            )
            if changes := before.change(after):
                yield (
                    f"{planned.folder}: {changes}: the network was trained with other settings "
                    "than these; repeat the overrides of its run (KEY VALUE)"
                )


def _was_trained_elsewhere(planned: PlannedStage) -> bool:
    """Whether a stage runs a network that no stage of its run has trained."""
    stage = planned.stage
    return isinstance(stage, InferStage) and stage.weights_from not in planned.sources


def _of_network(config: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a flat config that a network has still after its training."""
    return {key: value for key, value in config.items() if not key.startswith(_OF_TRAINING)}


def with_threshold(cfg: CfgNode, min_score: float) -> CfgNode:
    """Let a detector make exactly what is shown, as Detectron2's demo does: no masks in vain."""
    cfg = cfg.clone()
    cfg.defrost()
    for node in (cfg.MODEL.ROI_HEADS, cfg.MODEL.RETINANET):
        node.SCORE_THRESH_TEST = min_score
    return cfg


def drop_below(arrays: Arrays, min_score: float) -> dict[str, np.ndarray]:
    """An artifact without the instances that score less, where it has instances."""
    if not has_instances(arrays):
        return dict(arrays)
    # a stage gives score 0 to what it rejects
    return choose_instances(arrays, (arrays["scores"] >= min_score) & (arrays["scores"] > 0))

"""Reads a pipeline: which stages, in which order, with which config, in which folders."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from wsis.config import (
    check_config,
    default_config,
    flatten,
    load_modules,
    set_class_count,
    stated_imports,
    stock_values,
)
from wsis.data.builtin import class_names, is_salient, safe_name
from wsis.data.salient import without_salient
from wsis.data.user import ROLES, entries_of, register_role
from wsis.data.weights import find_weights
from wsis.engine.config_files import (
    base_stage,
    lines_of_stage,
    merge_lines,
    read_config_files,
    read_overrides,
    stage_names,
)
from wsis.errors import UsageError, did_you_mean, known_words
from wsis.stage import INSTANCE_MAPPERS, InferStage, Stage, TrainStage, get_stage

MODEL_FINAL = "model_final.pth"
PIPELINE = "pipeline.json"  # in OUTPUT_DIR: the names of all stages


@dataclass(frozen=True, eq=False)
class PlannedStage:
    """A stage with its place in a pipeline.

    Attributes:
        stage: the registered one.
        cfg: its frozen config, OUTPUT_DIR being its own run folder.
        folder: its run folder, ``OUTPUT_DIR/<n>_<name>``.
        sources: the stages whose products it reads, by product; also that of its initial weights.
        unscaled: its config before it was scaled by SOLVER.REFERENCE_WORLD_SIZE.
    """

    stage: Stage
    cfg: CfgNode
    folder: Path
    sources: Mapping[str, PlannedStage] = field(default_factory=dict)
    unscaled: CfgNode | None = None

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.stage.name

    def on_processes(self, number: int) -> PlannedStage:
        """The stage as ``number`` processes train it.

        If SOLVER.REFERENCE_WORLD_SIZE is another number, batch, rate and schedule are scaled as
        Detectron2 does it.
        """
        if not isinstance(self.stage, TrainStage):
            return self
        unscaled = self.unscaled or self.cfg
        if unscaled.SOLVER.REFERENCE_WORLD_SIZE in (0, number):  # Detectron2 changes nothing, too
            return replace(self, cfg=unscaled, unscaled=unscaled)
        from detectron2.engine import DefaultTrainer

        try:
            cfg = DefaultTrainer.auto_scale_workers(unscaled, number)
        except AssertionError:
            keys = unscaled.SOLVER
            raise UsageError(
                f"SOLVER.IMS_PER_BATCH {keys.IMS_PER_BATCH} of stage {self.name} is not divisible "
                f"by SOLVER.REFERENCE_WORLD_SIZE {keys.REFERENCE_WORLD_SIZE}"
            ) from None
        return replace(self, cfg=cfg, unscaled=unscaled)

    def with_values(self, values: Mapping[str, Any]) -> PlannedStage:
        """The same stage with other config values, by their full names."""
        cfg = self.cfg.clone()
        cfg.defrost()
        for key, value in values.items():
            _set(cfg, key, value)
        cfg.freeze()
        return replace(self, cfg=cfg)

    def complete_config(self) -> str:
        """The config as YAML, with the path of the weights that the stage ends with.

        `wsis.config.get_wsis_cfg` and Detectron2's ``DefaultPredictor`` need nothing else to run
        the stage's network.
        """
        values = {"MODEL.TIMM.WEIGHTS": "", "MODEL.TIMM.PRETRAINED": False}
        if isinstance(self.stage, TrainStage):
            values["MODEL.WEIGHTS"] = str(self.folder / MODEL_FINAL)
            keys = self.cfg.MODEL
            values["WSIS.INITIAL_WEIGHTS"] = keys.WEIGHTS or keys.TIMM.WEIGHTS
        return self.with_values(values).cfg.dump()


@dataclass(frozen=True)
class Pipeline:
    """Stages in order.

    Attributes:
        name: the config file's stem, for headings.
        output_dir: holds the run folders.
        stages: in the order in which they run.
        left_out: names of stages that have nothing to do without DATA.VAL.
    """

    name: str
    output_dir: Path
    stages: tuple[PlannedStage, ...]
    left_out: tuple[str, ...] = ()

    def select(
        self, *, stage: str | None = None, first: str | None = None, last: str | None = None
    ) -> tuple[PlannedStage, ...]:
        """The stages that ``--stage``, ``--from-stage`` and ``--until-stage`` choose.

        Raises:
            UsageError: a name that is not in the pipeline, or an empty choice.
        """
        if stage is not None:
            if first is not None or last is not None:
                raise UsageError("--stage excludes --from-stage and --until-stage")
            first = last = stage
        start = 0 if first is None else self._place(first)
        stop = len(self.stages) - 1 if last is None else self._place(last)
        if start > stop:
            raise UsageError(f"--from-stage {first} comes after --until-stage {last}")
        return self.stages[start : stop + 1]

    def _place(self, name: str) -> int:
        names = [planned.name for planned in self.stages]
        if name in names:
            return names.index(name)
        if name in self.left_out:
            told = f"stage {name} of pipeline {self.name} has nothing to do without DATA.VAL"
            raise UsageError(told)
        known = known_words(name, names)
        raise UsageError(f"there is no stage '{name}' in pipeline {self.name}; it has: {known}")


def find_sources(
    stage: Stage, cfg: CfgNode, earlier: Sequence[PlannedStage]
) -> dict[str, PlannedStage]:
    """For each product that a stage reads, the last of the stages before it that makes it.

    Raises:
        UsageError: none of them makes it.
    """
    initial = cfg.WSIS.INIT_FROM if isinstance(stage, TrainStage) else ""
    wanted = (*stage.consumes, initial) if initial else stage.consumes
    made = {planned.stage.produces: planned for planned in earlier}
    if isinstance(stage, InferStage) and cfg.MODEL.WEIGHTS and stage.weights_from not in made:
        wanted = tuple(name for name in wanted if name != stage.weights_from)  # trained elsewhere
    if absent := [product for product in wanted if product not in made]:
        raise UsageError(f"stage {stage.name} needs '{absent[0]}', which no stage before it makes")
    return {product: made[product] for product in wanted}


def _set(cfg: CfgNode, key: str, value: Any) -> None:
    *nodes, leaf = key.split(".")
    for node in nodes:
        cfg = cfg[node]
    cfg[leaf] = value


class _Plan:
    """All that the files and the command line say, before stages are made from it."""

    def __init__(self, path: Path, overrides: Sequence[str]) -> None:
        self.path = path
        self.files = read_config_files(path)
        self.names = stage_names(self.files)
        if not self.names:
            said = [file.parts[""].lines[0][1].get("WSIS") for file in self.files]
            alone = any(isinstance(node, dict) and "STAGE" in node for node in said)
            raise UsageError(
                f"{path} is the config of one stage, made by a run; run its pipeline with --stage"
                if alone
                else f"{path} has no STAGES: it is no pipeline (see configs/)"
            )
        self._names: dict[tuple[str, str, str], tuple[str, ...]] = {}
        parts = [part for file in self.files for part in file.parts.values()]
        for lines in [values for part in parts for _, values in part.lines]:
            load_modules(stated_imports(lines))  # these may register stages
        self.files.append(read_overrides(overrides, self.names))
        self.names = stage_names(self.files)
        self.records = {name: get_stage(name) for name in self.names}

    def data(self, name: str) -> dict[str, tuple[str, ...]]:
        """Names of the registered data sets of a stage by role, in lower case."""
        said: dict[str, tuple[str, Any, str]] = {}
        alone = safe_name(self.path.stem)
        for owner, stem in (("", alone), (name, f"{alone}_{name}")):
            for file in self.files:
                data = file.parts[owner].data if owner in file.parts else {}
                if "TRAIN" in data:  # data that belong to other training images do not count
                    for role in ("EVALUATION",) if owner else ("EVALUATION", "VAL"):
                        said.pop(role, None)
                source = f"{file.source}: stage {owner}" if owner else file.source
                said |= {role: (source, value, stem) for role, value in data.items()}
        return {
            role.lower(): self._registered(role, value, stem, source)
            for role, (source, value, stem) in said.items()
            if value is not None
        }

    def _registered(self, role: str, value: Any, stem: str, source: str) -> tuple[str, ...]:
        """Names of data sets, which are registered once for all stages."""
        if (role, stem, source) not in self._names:
            found = register_role(role, value, stem=stem, source=source)
            self._names[role, stem, source] = found
        return self._names[role, stem, source]

    def chain(self, name: str) -> list[str]:
        """The stages from whose configs stage ``name`` starts, and itself last."""
        start, record = base_stage(self.files, name), self.records[name]
        before, own = self.names[: self.names.index(name)], [name]
        if not any(start in file.parts for file in self.files):
            said = f"{start!r}, which is no stage or file{did_you_mean(start, before)}"
            raise UsageError(f"stage {name}: _BASE_ names {said}")
        if start in self.names and start not in before:
            raise UsageError(f"stage {name}: _BASE_ names {start}, which does not come before it")
        if start and start not in before:  # a stage that is left out still has lines
            start, own = "", [start, name]
        if not start and isinstance(record, InferStage):
            makers = [n for n in before if self.records[n].produces == record.weights_from]
            start = makers[-1] if makers else ""
        return [*(self.chain(start) if start else []), *own]

    def config(self, name: str) -> CfgNode:
        """The config of a stage, its data sets and class counts filled in; not frozen."""
        lines = lines_of_stage(self.files, self.chain(name))
        imports = [name for _, values in lines for name in stated_imports(values)]
        cfg = default_config(imports)
        for found in lines:
            merge_lines(cfg, found)
        record = self.records[name]
        for key, value in record.config.items():
            _set(cfg, key, value)
        cfg.WSIS.STAGE, cfg.WSIS.IMPORTS = name, list(dict.fromkeys(imports))
        stock = stock_values()
        for key, value in flatten(cfg, "").items():
            if value is None and stock.get(key) is not None:
                raise UsageError(f"stage {name}: {key} has no value")
        check_config(cfg)
        cfg.OUTPUT_DIR = os.path.expanduser(cfg.OUTPUT_DIR)
        return cfg

    def fill_in(self, cfg: CfgNode, record: Stage, classes: bool) -> bool:
        """Set keys by the data sets, ``classes`` by reading them; whether it has any image."""
        data = self.data(record.name)
        roles = self._roles(cfg, record, data)
        if not roles:
            return False
        names = {role: data.get(role, ()) for role in ("train", "val")}
        own = tuple(name for role in roles for name in _names_of_role(role, record, data))
        is_train = isinstance(record, TrainStage)
        cfg.DATASETS.TRAIN = own if is_train else names["train"]
        cfg.DATASETS.TEST = names["val"]
        cfg.WSIS.IMAGES = names["train"] if is_train else own
        if "train" in roles and "evaluation" in data:
            cfg.WSIS.EVALUATION.IMAGES = data["evaluation"]
        cfg.WSIS.DATASETS = entries_of([*cfg.DATASETS.TRAIN, *names["val"], *own])
        if classes:
            _set_classes(cfg, record)
        find_weights(cfg, begins=isinstance(record, TrainStage))
        if getattr(record, "mapper", "") not in INSTANCE_MAPPERS:
            # The size that its mapper gives images, so that Detectron2's predictor gives the same.
            cfg.INPUT.MIN_SIZE_TEST = cfg.INPUT.MAX_SIZE_TEST = cfg.INPUT.LONGER_SIDE
            if is_train and cfg.INPUT.CROP.ENABLED:
                raise UsageError(
                    f"stage {record.name}: INPUT.CROP is Detectron2's, for its own networks alone; "
                    "write mask_rcnn.INPUT.CROP.ENABLED True (INPUT.CROP_SIDE is for this stage)"
                )
        return True

    def _roles(self, cfg: CfgNode, record: Stage, data: Mapping[str, Any]) -> list[str]:
        """The roles of the images that a stage treats; empty if it has nothing to do."""
        stated = [str(role) for role in cfg.WSIS.IMAGES]
        if unknown := [role for role in stated if role.upper() not in ROLES]:
            raise UsageError(
                f"stage {record.name}: WSIS.IMAGES names roles of DATA "
                f"({', '.join(ROLES).lower()}), not {unknown[0]!r}{did_you_mean(unknown[0], ROLES)}"
            )
        roles = stated if stated and not isinstance(record, TrainStage) else list(record.images)
        absent = {"val"} - data.keys()
        if cfg.SOLVER.MAX_ITER == 0:  # a network trained elsewhere needs nothing to learn from
            absent |= {"salient"} - data.keys()
        there = [role for role in roles if role not in absent]
        needed = any(record.produces in other.consumes for other in self.records.values())
        return there or (["train"] if needed else [])


def _names_of_role(
    role: str, record: Stage, data: Mapping[str, tuple[str, ...]]
) -> tuple[str, ...]:
    if role == "evaluation" and role not in data:
        role = "train"
    if not data.get(role):
        wanted = "DATA.TRAIN: a folder of class folders, a COCO JSON, a VOC tree or a known name"
        if role == "salient":
            wanted = f"DATA.SALIENT: {without_salient('photos/salient')}"
        raise UsageError(f"stage {record.name} needs {wanted} (datasets/README.md)")
    return data[role]


def _set_classes(cfg: CfgNode, record: Stage) -> None:
    """Set class names and counts; refuse a stage whose data sets have different classes."""
    users = {
        "DATA.TRAIN": (*cfg.DATASETS.TRAIN, *cfg.WSIS.IMAGES),
        "DATA.EVALUATION": cfg.WSIS.EVALUATION.IMAGES,
        "DATA.VAL": cfg.DATASETS.TEST,
    }
    known: dict[str, tuple[str, ...]] = {}
    for role, name in ((role, name) for role, found in users.items() for name in found):
        try:
            if not is_salient(name):
                known[name] = class_names(name)
            elif "salient" not in record.images:
                raise UsageError(
                    f"data set {name} has salient images and no classes; its role is SALIENT"
                )
        except UsageError as error:
            raise UsageError(f"{role}: {error}") from None
    (first, classes), *others = [*known.items()] or [("", ())]
    for name, found in () if getattr(record, "class_agnostic", False) else others:
        pairs = zip_longest(map(repr, classes), map(repr, found), fillvalue="none")
        for number, (one, other) in enumerate(pairs, start=1):
            if one != other:
                raise UsageError(
                    f"the data sets of one stage have different classes: {first} has "
                    f"{len(classes)}, {name} has {len(found)}; number {number} is {one} in the "
                    f"first and {other} in the second"
                )
    cfg.WSIS.CLASSES = list(class_names(cfg.WSIS.IMAGES[0]))
    set_class_count(cfg, len(cfg.WSIS.CLASSES))


def load_pipeline(
    config_file: str | os.PathLike[str],
    overrides: Sequence[str],
    *,
    num_processes: int = 1,
    networks: bool = True,
    classes: bool = True,
) -> Pipeline:
    """Read a pipeline YAML and make the configs of its stages.

    A stage's config is made, in this order, from Detectron2's defaults with those of WSIS; from
    each file, those of ``_BASE_`` first, its lines for all stages and then those for this one; from
    ``KEY VALUE`` and ``stage.KEY VALUE`` of the command line. A stage that runs a trained network
    starts from the lines of the stage that trains it. Keys that data sets decide are filled in.

    Args:
        config_file: YAML with STAGES, or one whose ``_BASE_`` has them.
        overrides: pairs from the command line.
        num_processes: how many will train, see `PlannedStage.on_processes`.
        networks: register what a config names, too (`wsis.networks`); False takes 3 CPU s less.
        classes: set the names and number of classes; False reads no data set.

    Raises:
        UsageError: a missing file, an unknown key, stage or data set.
    """
    if networks:
        importlib.import_module("wsis.networks")
    plan = _Plan(Path(config_file), overrides)
    stages, output_dir, left_out = list[PlannedStage](), Path(), list[str]()
    for number, (name, record) in enumerate(plan.records.items(), start=1):
        cfg = plan.config(name)
        if number > 1 and Path(cfg.OUTPUT_DIR) != output_dir:
            raise UsageError(f"stage {name}: OUTPUT_DIR is one for all stages, {output_dir}")
        output_dir = Path(cfg.OUTPUT_DIR)
        if not plan.fill_in(cfg, record, classes):
            left_out.append(name)
            continue
        folder = output_dir / f"{number}_{name}"
        cfg.OUTPUT_DIR = str(folder)
        sources = find_sources(record, cfg, stages)
        if isinstance(record, InferStage) and (trained := sources.get(record.weights_from)):
            cfg.MODEL.WEIGHTS = str(trained.folder / MODEL_FINAL)
        cfg.freeze()
        planned = PlannedStage(record, cfg, folder, sources)
        stages.append(planned.on_processes(num_processes))
    return Pipeline(Path(config_file).stem, output_dir, tuple(stages), tuple(left_out))

"""Reads a pipeline: which stages, in which order, with which config, in which folders."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer

from wsis.config import (
    check_config,
    flatten,
    get_wsis_cfg,
    import_modules,
    set_class_count,
    stock_values,
)
from wsis.data.builtin import class_names, is_salient
from wsis.data.root import find_in_datasets
from wsis.data.user import ROLES, entries_of, register_role
from wsis.engine.config_files import (
    COMMAND_LINE,
    ConfigFile,
    Overrides,
    apply_overrides,
    base_stage,
    lines_of_stage,
    merge_lines,
    read_config_files,
    split_overrides,
    stage_names,
)
from wsis.errors import UsageError
from wsis.stage import InferStage, Stage, TrainStage, get_stage

MODEL_FINAL = "model_final.pth"


@dataclass(frozen=True, eq=False)
class PlannedStage:
    """A stage with its place in a pipeline.

    Attributes:
        stage: the registered stage.
        cfg: its frozen config, OUTPUT_DIR being its own run folder.
        folder: its run folder, ``OUTPUT_DIR/<n>_<name>``.
    """

    stage: Stage
    cfg: CfgNode
    folder: Path

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.stage.name

    @property
    def consumes(self) -> tuple[str, ...]:
        """Products that it reads, the one that gives its initial weights included."""
        initial = self.cfg.WSIS.INIT_FROM if isinstance(self.stage, TrainStage) else ""
        return self.stage.consumes + ((initial,) if initial else ())

    def with_values(self, values: Mapping[str, Any]) -> PlannedStage:
        """The same stage with other config values, by their full names."""
        cfg = self.cfg.clone()
        cfg.defrost()
        for key, value in values.items():
            _set(cfg, key, value)
        cfg.freeze()
        return replace(self, cfg=cfg)

    def complete_config(self) -> str:
        """The config as YAML, with the weights that the stage ends with: nothing else is needed.

        With `wsis.config.get_wsis_cfg` and Detectron2's ``DefaultPredictor`` it gives the stage's
        own network.
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
    """

    name: str
    output_dir: Path
    stages: tuple[PlannedStage, ...]

    def producer(self, product: str, consumer: PlannedStage) -> tuple[str, Path]:
        """Name and run folder of the last stage before ``consumer`` that makes ``product``."""
        names = [planned.name for planned in self.stages]
        for planned in reversed(self.stages[: names.index(consumer.name)]):
            if planned.stage.produces == product:
                return planned.name, planned.folder
        raise UsageError(
            f"stage {consumer.name} needs '{product}', which no stage before it in pipeline "
            f"{self.name} makes"
        )

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
        names = [planned.name for planned in self.stages]
        for name in (first, last):
            if name is not None and name not in names:
                raise UsageError(
                    f"there is no stage '{name}' in pipeline {self.name}; it has: "
                    + ", ".join(names)
                )
        start = names.index(first) if first is not None else 0
        stop = names.index(last) if last is not None else len(names) - 1
        if start > stop:
            raise UsageError(f"--from-stage {first} comes after --until-stage {last}")
        return self.stages[start : stop + 1]


def _set(cfg: CfgNode, key: str, value: Any) -> None:
    *nodes, leaf = key.split(".")
    for node in nodes:
        cfg = cfg[node]
    cfg[leaf] = value


class _Plan:
    """Everything that the files and the command line say, before stages are made of it."""

    def __init__(self, path: Path, overrides: Sequence[str]) -> None:
        self.path = path
        self.files: list[ConfigFile] = read_config_files(path)
        self.names = stage_names(self.files)
        if not self.names:
            alone = any("STAGE:" in str(f.values.get("WSIS")).replace("'", "") for f in self.files)
            raise UsageError(
                f"{path} is the config of one stage, made by a run; run its pipeline with --stage"
                if alone
                else f"{path} has no STAGES: it is no pipeline (see configs/)"
            )
        self._names: dict[tuple[str, str, str], tuple[str, ...]] = {}
        for lines in self._all_lines():
            import_modules(_imports(lines))  # they may register stages
        self.records = {name: get_stage(name) for name in self.names}
        self.overrides: Overrides = split_overrides(overrides, self.names)

    def _all_lines(self) -> list[Mapping[str, Any]]:
        own = [one for f in self.files for s in f.stages.values() for _, one in s.lines]
        return [*(file.values for file in self.files), *own]

    def data(self, name: str) -> dict[str, tuple[str, ...]]:
        """Names of the registered data sets of a stage by role, in lower case."""
        told = [(file.source, file.data, self.path.stem) for file in self.files]
        told.append((COMMAND_LINE, self.overrides.data[""], self.path.stem))
        said: dict[str, tuple[str, Any, str]] = {}
        for source, data, stem in told:
            if "TRAIN" in data:  # these belong to the training images of the same file
                said = {role: value for role, value in said.items() if role == "SALIENT"}
            said |= {role: (source, value, stem) for role, value in data.items()}
        own = [(file.source, file.stages[name].data) for file in self.files if name in file.stages]
        for source, data in [*own, (COMMAND_LINE, self.overrides.data[name])]:
            if "TRAIN" in data:
                said.pop("EVALUATION", None)
            stem = f"{self.path.stem}_{name}"
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
        """The stages from whose configs stage ``name`` starts, and itself at the end."""
        start = base_stage(self.files, name)
        record = self.records[name]
        if start and start not in self.names:
            raise UsageError(f"stage {name}: _BASE_ names {start!r}, which is no stage or file")
        if not start and isinstance(record, InferStage):
            start = self._producer(record.weights_from, name)
        if start and self.names.index(start) >= self.names.index(name):
            raise UsageError(f"stage {name}: _BASE_ names {start}, which does not come before it")
        return [*(self.chain(start) if start else []), name]

    def _producer(self, product: str, consumer: str) -> str:
        earlier = self.names[: self.names.index(consumer)]
        makers = [name for name in earlier if self.records[name].produces == product]
        return makers[-1] if makers else ""

    def config(self, name: str) -> CfgNode:
        """The config of a stage, its data sets and class counts filled in; not frozen."""
        cfg, chain = get_wsis_cfg(), self.chain(name)
        lines = lines_of_stage(self.files, chain)
        imports = [name for _, values in lines for name in _imports(values)]
        import_modules(imports, cfg)
        for found in lines:
            merge_lines(cfg, found)
        apply_overrides(cfg, self.overrides.common)
        for link in chain:
            apply_overrides(cfg, self.overrides.special[link])
        record = self.records[name]
        for key, value in record.config.items():
            _set(cfg, key, value)
        cfg.WSIS.STAGE, cfg.WSIS.IMPORTS = name, list(dict.fromkeys(imports))
        stock = stock_values()
        for key, value in flatten(cfg, "").items():
            if value is None and stock.get(key) is not None:
                raise UsageError(f"stage {name}: {key} has no value")
        check_config(cfg)
        return cfg

    def fill_in(self, cfg: CfgNode, record: Stage) -> bool:
        """Set what follows from the data sets; whether there is an image for the stage."""
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
        _check_classes_of(cfg, record)
        cfg.WSIS.CLASSES = list(class_names(cfg.WSIS.IMAGES[0]))
        set_class_count(cfg, len(cfg.WSIS.CLASSES))
        cfg.MODEL.WEIGHTS = find_in_datasets(cfg.MODEL.WEIGHTS)
        cfg.MODEL.TIMM.WEIGHTS = find_in_datasets(cfg.MODEL.TIMM.WEIGHTS)
        if getattr(record, "mapper", "") != "InstanceMapper":
            # As its mapper sizes images, so that Detectron2's own predictor does no other thing.
            cfg.INPUT.MIN_SIZE_TEST = cfg.INPUT.MAX_SIZE_TEST = cfg.INPUT.LONGER_SIDE
        return True

    def _roles(self, cfg: CfgNode, record: Stage, data: Mapping[str, Any]) -> list[str]:
        """The roles of the images that a stage treats; none where it has nothing to do."""
        stated = [str(role) for role in cfg.WSIS.IMAGES]
        if unknown := [role for role in stated if role.upper() not in ROLES]:
            raise UsageError(
                f"stage {record.name}: WSIS.IMAGES names roles of DATA "
                f"({', '.join(ROLES).lower()}), not {unknown[0]!r}"
            )
        roles = stated if stated and not isinstance(record, TrainStage) else list(record.images)
        absent = {"val"} - data.keys()
        if cfg.SOLVER.MAX_ITER == 0:  # a network trained elsewhere needs nothing to learn from
            absent |= {"salient"} - data.keys()
        there = [role for role in roles if role not in absent]
        needed = any(
            record.produces in (*other.consumes, getattr(other, "weights_from", ""))
            for other in self.records.values()
        )
        return there or (["train"] if needed else [])


def _names_of_role(
    role: str, record: Stage, data: Mapping[str, tuple[str, ...]]
) -> tuple[str, ...]:
    if role == "evaluation" and role not in data:
        role = "train"
    if not data.get(role):
        wanted = "DATA.TRAIN: a folder of class folders, a COCO JSON, a VOC tree or a known name"
        if role == "salient":
            wanted = "DATA.SALIENT: single objects with their masks"
        raise UsageError(f"stage {record.name} needs {wanted} (datasets/README.md)")
    return data[role]


def _for_processes(cfg: CfgNode, num_processes: int) -> CfgNode:
    try:
        cfg = DefaultTrainer.auto_scale_workers(cfg, num_processes)
    except AssertionError:
        raise UsageError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} of stage {cfg.WSIS.STAGE} is not "
            f"divisible by SOLVER.REFERENCE_WORLD_SIZE {cfg.SOLVER.REFERENCE_WORLD_SIZE}"
        ) from None
    cfg.defrost()
    return cfg


def _imports(values: Mapping[str, Any]) -> list[str]:
    node = values.get("WSIS")
    found = node.get("IMPORTS") or [] if isinstance(node, Mapping) else []
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise UsageError(f"WSIS.IMPORTS is {found!r}; it is a list of modules")
    return found


def _check_classes_of(cfg: CfgNode, record: Stage) -> None:
    """Refuse a stage whose data sets have different classes."""
    users = {
        "DATA.TRAIN": (*cfg.DATASETS.TRAIN, *cfg.WSIS.IMAGES),
        "DATA.EVALUATION": cfg.WSIS.EVALUATION.IMAGES,
        "DATA.VAL": cfg.DATASETS.TEST,
    }
    known: dict[str, tuple[str, ...]] = {}
    for role, name in ((role, name) for role, found in users.items() for name in found):
        try:
            if is_salient(name):
                if "salient" not in record.images:
                    raise UsageError(
                        f"data set {name} has salient images and no classes; its role is SALIENT"
                    )
                continue
            known[name] = class_names(name)
        except UsageError as error:
            raise UsageError(f"{role}: {error}") from None
        first = next(iter(known))
        if not getattr(record, "class_agnostic", False):
            _check_classes(first, known[first], name, known[name])


def _check_classes(
    first: str, classes: tuple[str, ...], second: str, others: tuple[str, ...]
) -> None:
    if others == classes:
        return
    place = next(
        (i for i, (one, other) in enumerate(zip(classes, others, strict=False)) if one != other),
        min(len(classes), len(others)),
    )
    one, other = (
        repr(names[place]) if place < len(names) else "none" for names in (classes, others)
    )
    raise UsageError(
        f"the data sets of one stage have different classes: {first} has {len(classes)}, {second} "
        f"has {len(others)}; number {place + 1} is {one} in the first and {other} in the second"
    )


def load_pipeline(
    config_file: str | os.PathLike[str], overrides: Sequence[str], *, num_processes: int = 1
) -> Pipeline:
    """Read a pipeline YAML and make the configs of its stages.

    A stage's config is, in this order: Detectron2's defaults with WSIS's; file by file, those of
    ``_BASE_`` first, what the file says to all stages and then what it says to this one; ``KEY
    VALUE`` and ``stage.KEY VALUE`` of the command line. A stage that runs a trained network starts
    from the lines of the stage that trains it. What depends on the data sets is filled in.

    Args:
        config_file: YAML with STAGES, or one whose ``_BASE_`` has them.
        overrides: pairs from the command line.
        num_processes: that will train; where ``SOLVER.REFERENCE_WORLD_SIZE`` names another number,
            batch, rate and schedule are scaled as Detectron2 does it.

    Raises:
        UsageError: a missing file, an unknown key, stage or data set.
    """
    plan = _Plan(Path(config_file), overrides)
    planned: list[PlannedStage] = []
    output_dir = Path()
    for number, (name, record) in enumerate(plan.records.items(), start=1):
        cfg = plan.config(name)
        if planned and Path(cfg.OUTPUT_DIR) != output_dir:
            raise UsageError(f"stage {name}: OUTPUT_DIR is one for all stages, {output_dir}")
        output_dir = Path(cfg.OUTPUT_DIR)
        folder = output_dir / f"{number}_{name}"
        if not plan.fill_in(cfg, record):
            continue
        cfg.OUTPUT_DIR = str(folder)
        if isinstance(record, TrainStage):
            cfg = _for_processes(cfg, num_processes)
        if isinstance(record, InferStage):
            makers = [p for p in planned if p.stage.produces == record.weights_from]
            cfg.MODEL.WEIGHTS = str(makers[-1].folder / MODEL_FINAL) if makers else ""
            cfg.MODEL.TIMM.WEIGHTS = ""
        cfg.freeze()
        planned.append(PlannedStage(record, cfg, folder))
    return Pipeline(Path(config_file).stem, output_dir, tuple(planned))

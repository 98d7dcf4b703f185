"""Reads a pipeline: which stages, in which order, with which config, in which folders."""

from __future__ import annotations

import ast
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from wsis.config import METHOD_NODES, check_config, flatten, get_wsis_cfg
from wsis.data.builtin import class_names, is_salient
from wsis.data.user import register_user_datasets
from wsis.engine.manifest import MANIFEST
from wsis.errors import UsageError
from wsis.stage import Stage, TrainStage, get_stage


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
        """Name and run folder of the stage that makes ``product`` for ``consumer``.

        That is the last stage before it in the pipeline; a stage config that runs alone takes what
        lies in its OUTPUT_DIR.
        """
        earlier = self.stages[: self.stages.index(consumer)]
        for planned in reversed(earlier):
            if planned.stage.produces == product:
                return planned.name, planned.folder
        if len(self.stages) == 1:
            for path in sorted(self.output_dir.glob(f"*_*/{MANIFEST}"), reverse=True):
                name = path.parent.name.partition("_")[2]
                if get_stage(name).produces == product:
                    return name, path.parent
        raise UsageError(
            f"stage {consumer.name} needs '{product}', which no stage before it in pipeline "
            f"{self.name} makes and which is not in {self.output_dir}"
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


def _load_yaml(path: Path) -> dict[str, Any]:
    try:
        if not isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict):
            raise UsageError(f"{path} is not a set of keys; it needs WSIS.STAGES or WSIS.STAGE")
        return CfgNode.load_yaml_with_base(str(path), allow_unsafe=False)
    except FileNotFoundError as error:
        raise UsageError(f"no config file {error.filename or path}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not readable YAML: {error}") from None


def _as_word(value: Any) -> Any:
    """A number, or text that yacs would take for one, so that it remains a word to yacs."""
    number = value
    if isinstance(value, str):
        with suppress(ValueError, SyntaxError):
            number = ast.literal_eval(value)
    if isinstance(number, int | float) and not isinstance(number, bool):
        return repr(str(value))
    return value


def _with_words(values: dict[str, Any], cfg: Any) -> dict[str, Any]:
    """Numbers as words where the config has a word: a key may take either (a peak filter)."""
    made = {}
    for key, value in values.items():
        known = cfg.get(key) if isinstance(cfg, CfgNode) else None
        if isinstance(value, dict):
            value = _with_words(value, known)
        elif isinstance(known, str):
            value = _as_word(value)
        made[key] = value
    return made


def _merge(cfg: CfgNode, values: dict[str, Any], source: Path | str) -> None:
    try:
        cfg.merge_from_other_cfg(CfgNode(_with_words(values, cfg)))
    except (KeyError, ValueError, AssertionError) as error:
        reason = error.args[0] if error.args else error
        raise UsageError(f"{source}: {reason}") from None


def split_overrides(
    overrides: Sequence[str], stage_names: Sequence[str]
) -> tuple[list[str], dict[str, list[str]]]:
    """Separate ``KEY VALUE`` pairs for all stages from ``stage.KEY VALUE`` pairs for one.

    Args:
        overrides: as left on the command line.
        stage_names: stages of the pipeline.

    Returns:
        pairs for every stage, and pairs by stage name.
    """
    if len(overrides) % 2:
        raise UsageError(f"overrides come as KEY VALUE pairs; '{overrides[-1]}' has no value")
    common: list[str] = []
    special: dict[str, list[str]] = {name: [] for name in stage_names}
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        prefix, _, rest = key.partition(".")
        if prefix in special:
            special[prefix] += [rest, value]
        elif prefix.isupper():
            common += [key, value]
        else:
            raise UsageError(
                f"'{key}' is neither a config key nor <stage>.KEY; stages: {', '.join(stage_names)}"
            )
    return common, special


def _override_value(known: Any, text: str) -> Any:
    """What is written for a key whose value is ``known``, as the YAML files have it.

    Lists and dicts need no quotes around words, nor do numbers where the config has a word.
    """
    if isinstance(known, str) and _as_word(text) != text:
        return _as_word(text)
    if text.lstrip().startswith(("[", "{")):
        try:
            ast.literal_eval(text)
        except (ValueError, SyntaxError):
            with suppress(yaml.YAMLError):
                return yaml.safe_load(text)
    return text


def _apply_overrides(cfg: CfgNode, pairs: list[str]) -> None:
    known = flatten(cfg, "")
    values = [
        word
        for key, text in zip(pairs[::2], pairs[1::2], strict=True)
        for word in (key, _override_value(known.get(key), text))
    ]
    try:
        cfg.merge_from_list(values)
    except (KeyError, ValueError, AssertionError) as error:
        reason = error.args[0] if error.args else error
        hint = _hint(cfg, pairs[::2], str(reason))
        raise UsageError(f"command line: {reason}{hint}") from None


def _hint(cfg: CfgNode, keys: Sequence[str], reason: str) -> str:
    """What may have been meant, for the two commonest mistakes."""
    if reason.startswith("Type mismatch") and "tuple" in reason:
        return '; a list is written "[a, b]", with one element too'
    unknown = next((key for key in keys if reason == f"Non-existent key: {key}"), "")
    known = get_close_matches(unknown, list(flatten(cfg, "")), n=1) if unknown else []
    return f"; did you mean {known[0]}?" if known else ""


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


def _check_place_of_salient(name: str, key: str) -> None:
    if key != "DATASETS.TRAIN":
        raise UsageError(
            f"data set {name} has salient images and no classes; name it in DATASETS.TRAIN of the "
            "stage that learns from it, and give that stage WSIS.IMAGES"
        )


def _fit_to_datasets(cfg: CfgNode, stage: Stage) -> None:
    """Class counts come from the data set, so that a new data set needs no other edit."""
    register_user_datasets(cfg.WSIS.DATASETS)
    if not cfg.WSIS.IMAGES:
        cfg.WSIS.IMAGES = tuple(cfg.DATASETS.TRAIN)
    if not cfg.WSIS.IMAGES:
        raise UsageError("DATASETS.TRAIN and WSIS.IMAGES are both empty: name a data set")
    users = {
        "DATASETS.TRAIN": cfg.DATASETS.TRAIN,
        "WSIS.IMAGES": cfg.WSIS.IMAGES,
        "WSIS.EVALUATION.IMAGES": cfg.WSIS.EVALUATION.IMAGES,
        "DATASETS.TEST": cfg.DATASETS.TEST,
    }
    classes: dict[str, tuple[str, ...]] = {}
    for key, name in ((key, name) for key, found in users.items() for name in found):
        try:
            if is_salient(name):
                _check_place_of_salient(name, key)
                continue
            classes[name] = class_names(name)
        except UsageError as error:
            raise UsageError(f"{key}: {error}") from None
        first = next(iter(classes))
        if not getattr(stage, "class_agnostic", False):
            _check_classes(first, classes[first], name, classes[name])
    for node in ("MODEL.ROI_HEADS", *METHOD_NODES):
        keys = cfg.MODEL[node.removeprefix("MODEL.")]
        if "NUM_CLASSES" in keys:
            keys.NUM_CLASSES = len(classes[first])


def load_pipeline(config_file: str | os.PathLike[str], overrides: Sequence[str]) -> Pipeline:
    """Read a pipeline YAML (or a single stage's) and the configs of its stages.

    A stage's config is, in this order: Detectron2's defaults, the stage YAML, what the pipeline
    YAML says besides WSIS.STAGES, ``KEY VALUE`` and ``stage.KEY VALUE`` of the command line.

    Args:
        config_file: YAML with WSIS.STAGES or with WSIS.STAGE.
        overrides: pairs from the command line.

    Raises:
        UsageError: a missing file, an unknown key, stage or data set.
    """
    path = Path(config_file)
    values = _load_yaml(path)
    wsis = values.get("WSIS") or {}
    stage_files = [path.parent / name for name in wsis.pop("STAGES", [])]
    if not stage_files and not wsis.get("STAGE"):
        raise UsageError(f"{path} names neither WSIS.STAGES (a pipeline) nor WSIS.STAGE (a stage)")
    stage_values = [_load_yaml(file) for file in stage_files] or [values]
    names = [str((v.get("WSIS") or {}).get("STAGE", "")) for v in stage_values]
    records = [get_stage(name) for name in names]
    if len(set(names)) != len(names):
        raise UsageError(f"{path} lists a stage twice: {', '.join(names)}")
    common, special = split_overrides(overrides, names)
    planned, output_dir = [], None
    for number, (record, own) in enumerate(zip(records, stage_values, strict=True), start=1):
        cfg = get_wsis_cfg()
        if stage_files:
            _merge(cfg, own, stage_files[number - 1])
        _merge(cfg, values, path)
        _apply_overrides(cfg, common)
        _apply_overrides(cfg, special[record.name])
        check_config(cfg)
        _fit_to_datasets(cfg, record)
        output_dir = Path(cfg.OUTPUT_DIR)
        folder = output_dir / f"{number}_{record.name}"
        if not stage_files:  # alone, a stage finds its place among the folders that are there
            places = sorted(output_dir.glob(f"*_{record.name}"))
            own = (place for place in places if place.name.partition("_")[2] == record.name)
            folder = next(own, folder)
        cfg.OUTPUT_DIR = str(folder)
        cfg.freeze()
        planned.append(PlannedStage(record, cfg, folder))
    return Pipeline(path.stem, output_dir, tuple(planned))

"""What lies in an OUTPUT_DIR: the run folders of its stages, whatever the method."""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from wsis.data.artifacts import ProductReader
from wsis.data.checks import load_json
from wsis.data.user import register_datasets
from wsis.data.working_size import MAX_PIXELS
from wsis.engine.evaluate import EVALUATION, METRICS, PREDICTIONS, read_evaluation
from wsis.engine.manifest import MANIFEST, Manifest, seen_of_the_data_set
from wsis.engine.pipeline import PIPELINE
from wsis.errors import DataError, UsageError, WSISError
from wsis.evaluation.coco import FILE_NAME
from wsis.evaluation.results import are_results
from wsis.reading import read_yaml
from wsis.stage import get_stage
from wsis.stages import PSEUDO_LABELS_FILE

logger = logging.getLogger(__name__)

_NUMBER = re.compile(r"(\d+)_")
_HIGHLIGHTS = {
    "MODEL.META_ARCHITECTURE": "model",
    "MODEL.BACKBONE.NAME": "backbone",
    "SOLVER.MAX_ITER": "iterations",
    "SOLVER.IMS_PER_BATCH": "images per batch",
    "SOLVER.BASE_LR": "learning rate",
}
_SHOWN = 6  # settings of the stage's own method


@dataclass(frozen=True)
class RunFolder:
    """The run folder of one stage."""

    folder: Path  # OUTPUT_DIR/<n>_<stage>
    manifest: Manifest  # its manifest.json
    config: Mapping[str, Any]  # its config.yaml as plain values; {} where that is missing

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.manifest.stage

    @property
    def title(self) -> str:
        """The stage's name for people."""
        return self.name.replace("_", " ")

    @property
    def supervision(self) -> str:
        """The strongest supervision that the stage looks at: image, point, box or mask."""
        try:
            return seen_of_the_data_set(get_stage(self.name))
        except UsageError:  # a stage of a method that is not installed here
            return "image"

    @property
    def reader(self) -> ProductReader:
        """Its artifacts."""
        return ProductReader(self.folder, self.name)

    @property
    def has_artifacts(self) -> bool:
        """Whether there is one file for each image (perhaps not yet for all)."""
        return (self.folder / "artifacts").is_dir()

    @property
    def pseudo_labels(self) -> Path | None:
        """The exported pseudo-label file, if this stage wrote one."""
        path = self.folder / PSEUDO_LABELS_FILE
        return path if path.is_file() else None

    @property
    def predictions(self) -> dict[str, Path]:
        """By data set, predictions in COCO's result format, where the network was evaluated."""
        return {p.parent.name: p for p in sorted(self.folder.glob(f"{PREDICTIONS}/*/{FILE_NAME}"))}

    def value(self, key: str, default: Any = None) -> Any:
        """A config value by its full name, ``DATASETS.TEST``."""
        node: Any = self.config
        for part in key.split("."):
            node = node.get(part, default) if isinstance(node, Mapping) else default
        return node

    @property
    def max_pixels(self) -> int:
        """``INPUT.MAX_PIXELS`` of the stage."""
        return int(self.value("INPUT.MAX_PIXELS", MAX_PIXELS))

    def dataset_names(self, key: str) -> tuple[str, ...]:
        """Data set names under a config key, ``WSIS.IMAGES``."""
        names = self.value(key, ())
        return tuple(str(n) for n in names) if isinstance(names, list | tuple) else ()

    @property
    def highlights(self) -> dict[str, str]:
        """The few settings that a reader asks for first."""
        settings = self.manifest.config
        model = str(settings.get("MODEL.META_ARCHITECTURE", ""))
        if self.manifest.kind == "train":
            start = self.value("WSIS.INIT_FROM") or self.value("WSIS.INITIAL_WEIGHTS")
            known = {_HIGHLIGHTS[key]: str(settings[key]) for key in _HIGHLIGHTS if key in settings}
            return known | {"starts from": os.path.basename(str(start or "random weights"))}
        prefix, found = f"MODEL.{model.upper()}." if model else "", {}
        for key, value in settings.items():
            if key.startswith(prefix) and not isinstance(value, bool | list):
                name = key.removeprefix(prefix) if prefix else key.rpartition(".")[2]
                found[name.lower().replace(".", " ").replace("_", " ")] = str(value)
        return ({"model": model} if model else {}) | dict(islice(found.items(), _SHOWN))

    @property
    def min_confidence(self) -> float:
        """``MODEL.ROI_MASK_HEAD.MIN_CONFIDENCE`` of a training stage; 0: none."""
        value = self.value("MODEL.ROI_MASK_HEAD.MIN_CONFIDENCE")
        trains = self.manifest.kind == "train" and isinstance(value, int | float)
        return float(value) if trains else 0.0

    def losses(self) -> dict[str, list[tuple[float, float]]]:
        """Losses of a training stage: name to (iteration, value), in the order of iterations.

        If an interrupted run did an iteration twice, its last record counts.
        """
        found: defaultdict[str, dict[int, float]] = defaultdict(dict)
        path = self.folder / METRICS
        text = path.read_text("utf-8", errors="replace") if path.is_file() else ""
        for line in text.splitlines():
            # the half line of a killed process, or a damaged file
            with suppress(ValueError, AttributeError, TypeError, OverflowError, RecursionError):
                record = json.loads(line)
                iteration = int(record.get("iteration") or 0)
                for key, value in record.items():
                    if "loss" in key and isinstance(value, int | float) and math.isfinite(value):
                        found[key][iteration] = float(value)
        return {key: sorted(values.items()) for key, values in found.items()}


def read_json(path: Path) -> Any:
    """The content of a JSON file, None where there is none; `WSISError` where it is no JSON."""
    if not path.exists():
        return None
    try:
        return load_json(path)
    except DataError as error:
        raise WSISError(f"{error}; delete it and run again") from None


def read_run_folder(folder: Path) -> RunFolder:
    """One run folder; `WSISError` where it has no manifest, or a damaged one."""
    manifest = Manifest.read(folder)
    if manifest is None:
        stages = ", ".join(sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST}")))
        advice = f"name one of its folders: {stages}" if stages else "run a stage first"
        raise WSISError(f"{folder} is no run folder: it has no {MANIFEST}; {advice}")
    try:
        config = read_yaml(folder / "config.yaml")
    except FileNotFoundError:
        config = {}
    except ValueError as error:
        raise WSISError(f"{folder / 'config.yaml'} is not readable YAML: {error}") from None
    run = RunFolder(folder, manifest, config if isinstance(config, dict) else {})
    more = read_evaluation(folder / EVALUATION).get("datasets", [])  # perhaps not the config's
    register_datasets([*(run.value("WSIS.DATASETS") or []), *more], replace=True)
    return run


def find_run_folders(output_dir: Path) -> list[RunFolder]:
    """The run folders of an OUTPUT_DIR in order; registers the user's own data sets.

    Raises:
        WSISError: there is no such folder, or no run in it.
    """
    if not output_dir.is_dir():
        what = "is a file" if output_dir.exists() else "does not exist"
        raise WSISError(f"{output_dir} {what}; give the OUTPUT_DIR of a run of train_net.py")
    if (output_dir / MANIFEST).is_file():
        raise WSISError(
            f"{output_dir} is the run folder of one stage; give the folder around it, "
            f"{output_dir.resolve().parent}"
        )
    folders = {}
    for path in output_dir.glob(f"*/{MANIFEST}"):
        number = _NUMBER.match(path.parent.name)
        folders[float(number[1]) if number else math.inf, path.parent.name] = path.parent
    if not folders:
        runs = sorted({str(path.parents[1]) for path in output_dir.glob(f"*/*/{MANIFEST}")})
        advice = "run train_net.py --config-file ... first"
        if runs:
            advice = f"runs are {', '.join(runs[:_SHOWN])}"
        raise WSISError(f"{output_dir} holds no run folder (<n>_<stage>/{MANIFEST}); {advice}")
    return [read_run_folder(folder) for _, folder in sorted(folders.items())]


def find_labels(path: Path) -> Path:
    """The pseudo labels of a run, or of one of its stages; what is no folder itself.

    Raises:
        WSISError: there are none in the folder.
    """
    if not path.is_dir():
        return path
    stage = (path / MANIFEST).is_file()
    folders = [read_run_folder(path)] if stage else find_run_folders(path)
    found = [folder.pseudo_labels for folder in folders if folder.pseudo_labels is not None]
    if not found:
        predicted = [str(file) for folder in folders for file in folder.predictions.values()]
        raise WSISError(
            f"{path} holds no pseudo labels; run the stage pseudo_labels first, or give a file of "
            f"predictions{''.join(f', such as {file}' for file in predicted[-1:])}"
        )
    return found[-1]


def given_level(folders: Sequence[RunFolder]) -> str:
    """The strongest supervision of weak stages in ``folders``: "box", "point", or "" for tags."""
    levels = {folder.supervision for folder in folders}
    return next((level for level in ("box", "point") if level in levels), "")


def level_around(path: Path) -> str:
    """`given_level` of the pipeline in whose run folder ``path`` lies; "" elsewhere."""
    folder = path if path.is_dir() else path.parent
    if not (folder / MANIFEST).is_file():
        return ""
    try:
        return given_level(find_run_folders(folder.resolve().parent))
    except WSISError:  # a damaged neighbour is no reason to draw nothing
        return ""


def read_stage_names(output_dir: Path) -> list[str]:
    """The stages of the last pipeline that was run, begun or not; [] where they were not noted."""
    names = read_json(output_dir / PIPELINE)
    return [str(name) for name in names] if isinstance(names, list) else []


def read_figures(output_dir: Path, folders: Sequence[RunFolder]) -> list[dict[str, Any]]:
    """Entries of ``metrics.json``, and of stages evaluated since it was written."""
    entries = _figures(output_dir / METRICS, "stages")
    known = {entry["stage"] for entry in entries if not entry.get("weights")}
    for folder in folders:
        if folder.name not in known:
            entries += _figures(folder.folder / EVALUATION, "results")
    return entries


def _figures(path: Path, name: str) -> list[dict[str, Any]]:
    """The entries under ``name`` of a file of figures; none where there is no file."""
    stored = read_json(path)
    found = stored.get(name, []) if isinstance(stored, dict) else []
    if not are_results(found):
        raise WSISError(f"{path} is damaged; delete it and run again with --eval-only")
    return found

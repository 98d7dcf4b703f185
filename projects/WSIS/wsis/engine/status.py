"""What is done, stale, unfinished or missing."""

from __future__ import annotations

import enum
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm

from wsis.config import METHOD_NODES, flatten, stock_values
from wsis.data.artifacts import SUMMARY
from wsis.data.supervision import restrict_supervision
from wsis.data.weights import how_to_get
from wsis.engine.images import Images
from wsis.engine.manifest import (
    DONE,
    DamagedManifest,
    Manifest,
    artifact_sizes,
    describe_change,
    digest_of_weights,
    read_index,
)
from wsis.engine.pipeline import Pipeline, PlannedStage
from wsis.errors import DataError
from wsis.stage import ExportStage, InferStage, Stage, TrainStage

# Config nodes on which a product depends, by kind; a stage adds its own (Stage.config_keys).
_KIND_KEYS = {
    "train": ("MODEL", "INPUT", "SOLVER", "SEED", "WSIS.SOLVER", "WSIS.INIT_FROM")
    + ("DATASETS.TRAIN", "DATALOADER.FILTER_EMPTY_ANNOTATIONS", "DATALOADER.ASPECT_RATIO_GROUPING"),
    "infer": ("MODEL", "INPUT", "WSIS.IMAGES"),
    "derive": ("WSIS.IMAGES",),
    "export": ("WSIS.IMAGES",),
}
# Where the work runs and how often it is saved changes no product; weights count by content.
_NEVER = (
    "MODEL.DEVICE",
    "MODEL.WEIGHTS",
    "MODEL.TIMM.WEIGHTS",
    "MODEL.PEAK_CLASSIFIER.MEMORY_MB",
    "SOLVER.CHECKPOINT_PERIOD",
)

_INITIAL_WEIGHTS = {"weights": "MODEL.WEIGHTS", "trunk": "MODEL.TIMM.WEIGHTS"}

NOT_YET_RUN = "not yet run"
_BUILDS_ON = "it builds on "


class State(enum.Enum):
    """Of a stage's product."""

    DONE = "done"
    STALE = "stale"
    UNFINISHED = "unfinished"
    MISSING = "missing"


@dataclass(frozen=True)
class Status:
    """State of a stage and one line that explains it."""

    state: State
    detail: str = ""


def look_up(cfg: CfgNode, key: str) -> Any:
    """The value of a dotted key."""
    value: Any = cfg
    for part in key.split("."):
        value = value[part]
    return value


def relevant_config(planned: PlannedStage) -> dict[str, Any]:
    """The flat config values on which a stage's product depends."""
    stage, cfg = planned.stage, planned.cfg
    flat: dict[str, Any] = {}
    for key in _KIND_KEYS[stage.kind]:
        flat.update(flatten(look_up(cfg, key), key))
    dropped = [node + "." for node in METHOD_NODES]
    flat = {k: v for k, v in flat.items() if not k.startswith(tuple(dropped)) and k not in _NEVER}
    if isinstance(stage, TrainStage):
        flat = {k: v for k, v in flat.items() if not k.endswith(("_TEST", "_TEST_IMAGE"))}
    if stage.kind in ("train", "infer"):  # nodes of projects, which WSIS.IMPORTS adds
        for node in sorted(set(cfg) - {key.partition(".")[0] for key in stock_values()}):
            flat.update(flatten(cfg[node], node))
    for key in stage.config_keys:
        flat.update(flatten(look_up(cfg, key), key))
    if flat.get("SOLVER.WEIGHT_DECAY_BIAS", 0) is None:  # newer releases' word for "as all others"
        flat["SOLVER.WEIGHT_DECAY_BIAS"] = flat["SOLVER.WEIGHT_DECAY"]
    return flat


def defaults_among(config: Mapping[str, Any], planned: PlannedStage) -> list[str]:
    """Keys of a flat config that hold the default of this version of WSIS and Detectron2.

    Class counts are among them: every network's is that of the data set.
    """
    stock = stock_values(tuple(planned.cfg.WSIS.IMPORTS))
    return sorted(
        key
        for key, value in config.items()
        if key.endswith(".NUM_CLASSES") or (key in stock and stock[key] == value)
    )


def fingerprint(dataset_dicts: Sequence[Mapping[str, Any]], supervision: str) -> str:
    """Digest of what a stage may see of a data set: image keys, sizes and labels up to a level.

    Folders do not count, so a data set may move; image files are not read. Of mask files, where
    masks may be seen, the sizes in bytes count. The digest of a list is computed once.
    """
    known = _FINGERPRINTS.get((id(dataset_dicts), supervision))
    if known is not None:
        return known[1]
    sha = hashlib.sha256()
    for sample in dataset_dicts:
        seen = restrict_supervision(dict(sample), supervision)
        sizes = [_size_of(path) for key, path in sorted(seen.items()) if key in _MASK_FILES]
        seen = {k: v for k, v in seen.items() if not k.endswith("file_name")}
        sha.update(json.dumps([seen, sizes], sort_keys=True, default=_jsonable).encode())
    digest = sha.hexdigest()[:16]
    _FINGERPRINTS[id(dataset_dicts), supervision] = (dataset_dicts, digest)
    return digest


_MASK_FILES = ("instance_file_name", "semantic_file_name", "salient_file_name")
# By identity of the list, which is kept so that no other list can take its place.
_FINGERPRINTS: dict[tuple[int, str], tuple[Sequence[Mapping[str, Any]], str]] = {}


def _size_of(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # whoever reads the file says so
        return -1


def _jsonable(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("ascii", "replace")
    return value.tolist() if hasattr(value, "tolist") else str(value)


def seen_of_the_data_set(stage: Stage) -> str:
    """Level of supervision that a stage takes from the data set itself, not from pseudo labels."""
    return "image" if "pseudo_labels" in stage.consumes else stage.supervision


def current_inputs(
    pipeline: Pipeline, planned: PlannedStage, dataset_dicts: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    """Digests of everything a stage reads, as they are now ("" for a product not yet made)."""
    stage, cfg = planned.stage, planned.cfg
    inputs = {}
    for product in planned.consumes:
        _, folder = pipeline.producer(product, planned)
        try:
            upstream = Manifest.read(folder)
        except DamagedManifest:
            upstream = None
        inputs[product] = upstream.product if upstream and upstream.status == DONE else ""
    for key in stage.file_keys:
        if look_up(cfg, key):
            inputs[key] = digest_of_sizes(Path(look_up(cfg, key)))
    inputs["images"] = fingerprint(dataset_dicts, seen_of_the_data_set(stage))
    if isinstance(stage, TrainStage) and not cfg.WSIS.INIT_FROM:
        for name, key in _INITIAL_WEIGHTS.items():
            if look_up(cfg, key):
                inputs[name] = _digest_of_initial(look_up(cfg, key), name, planned)
    return inputs


def digest_of_sizes(path: Path) -> str:
    """Digest of the size of a file, or of the names and sizes of all files below a folder.

    Contents are not read: such files may have many gigabytes.
    """
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    found = [[str(p.relative_to(path)), _size_of(str(p))] for p in files]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]


def _digest_of_initial(weights: str, name: str, planned: PlannedStage) -> str:
    """Digest of initial weights; of a file that is gone, what the run folder remembers of it."""
    if "://" in weights:
        return weights
    path = Path(weights)
    if not path.is_file():
        manifest = Manifest.read(planned.folder)
        if manifest is not None and name in manifest.inputs:
            return manifest.inputs[name]
        key = f"{planned.name}.{_INITIAL_WEIGHTS[name]}"
        advice = how_to_get(path)
        raise DataError(
            f"stage {planned.name} starts from {path}, which does not exist; "
            + (f"{advice}, or set {key}" if advice else f"correct {key}")
            + ' ("" for random weights)'
        )
    return digest_of_weights(path)


def missing_artifacts(planned: PlannedStage, keys: Sequence[str]) -> list[str]:
    """Image keys without a whole artifact, in the given order.

    An artifact is whole if it is there and, where the index knows it, has the size it had when it
    was written. Images that were skipped count as done.
    """
    sizes, index = artifact_sizes(planned.folder), read_index(planned.folder)
    missing = []
    for key in keys:
        record = index.get(key, {})
        if "skipped" in record:
            continue
        if key not in sizes or sizes[key] != record.get("bytes", sizes[key]):
            missing.append(key)
    return missing


def product_files(planned: PlannedStage) -> list[Path]:
    """Files that a stage's product has beside its artifacts."""
    if isinstance(planned.stage, TrainStage):
        return [planned.folder / "model_final.pth"]
    if isinstance(planned.stage, ExportStage):
        return [planned.folder / planned.stage.file_name]
    if isinstance(planned.stage, InferStage) and planned.stage.reduce is not None:
        return [planned.folder / f"{SUMMARY}.npz"]
    return []


def _lost_file(planned: PlannedStage, manifest: Manifest) -> str | None:
    """Name a product file that is missing or has changed its size since it was written."""
    for path in product_files(planned):
        if not path.is_file():
            return f"{path.name} missing"
        size, expected = path.stat().st_size, manifest.files.get(path.name)
        if expected is not None and size != expected:
            return f"{path.name} has {size} bytes instead of {expected}"
    return None


def _holds_work(folder: Path) -> bool:
    """Whether a run folder holds anything that a run would build on."""
    return any(next(folder.glob(pattern), None) for pattern in ("artifacts/*.npz", "*.pth"))


class Statuses:
    """The state of every stage of a pipeline, worked out once and again where work was done.

    The main process looks, since others may see an older state of a network drive; every process
    asks in the same order and is told.

    Args:
        pipeline: the pipeline.
        images: gives the dataset dicts.
    """

    def __init__(self, pipeline: Pipeline, images: Images) -> None:
        self._pipeline, self._images = pipeline, images
        self._known: dict[str, Status] = {}

    def of(self, planned: PlannedStage) -> Status:
        """The state of a stage; what builds on a stale stage is stale too."""
        found = self._look(planned) if comm.is_main_process() else None
        return comm.all_gather(found)[0]

    def worked_on(self, planned: PlannedStage) -> None:
        """Forget what was known of a stage and of those after it."""
        stages = self._pipeline.stages
        names = [other.name for other in stages]
        for name in names[names.index(planned.name) :]:
            self._known.pop(name, None)

    def _look(self, planned: PlannedStage) -> Status:
        if planned.name not in self._known:
            status = stage_status(self._pipeline, planned, self._images.of(planned))
            if status != Status(State.MISSING, NOT_YET_RUN):
                status = self._inherited(planned) or status
            self._known[planned.name] = status
        return self._known[planned.name]

    def _inherited(self, planned: PlannedStage) -> Status | None:
        stages = {other.name: other for other in self._pipeline.stages}
        for product in planned.consumes:
            name, _ = self._pipeline.producer(product, planned)
            upstream = self._look(stages[name])
            if upstream.state is State.STALE:
                reason = f"{_BUILDS_ON}{name}, which is stale: {upstream.detail}"
                is_told = upstream.detail.startswith(_BUILDS_ON)
                return Status(State.STALE, upstream.detail if is_told else reason)
        return None


def stage_status(
    pipeline: Pipeline, planned: PlannedStage, dataset_dicts: Sequence[Mapping[str, Any]]
) -> Status:
    """Compare a stage's run folder with its present config and inputs."""
    try:
        manifest = Manifest.read(planned.folder)
    except DamagedManifest as error:
        return Status(State.STALE, f"{error}, so nothing tells how its files were made")
    holds_work = _holds_work(planned.folder)
    if manifest is None and holds_work:
        return Status(State.STALE, "it has no manifest.json that tells how its files were made")
    if manifest is None or (manifest.status != DONE and not holds_work):
        return Status(State.MISSING, NOT_YET_RUN)
    config = relevant_config(planned)
    inputs = current_inputs(pipeline, planned, dataset_dicts)
    change = describe_change(manifest, config, inputs, defaults_among(config, planned))
    if change:
        return Status(State.STALE, change)
    if planned.stage.kind in ("infer", "derive"):
        keys = [sample["image_key"] for sample in dataset_dicts]
        absent = missing_artifacts(planned, keys)
        if absent and manifest.status == DONE:
            return Status(State.MISSING, f"{len(absent)} of {len(keys)} artifacts missing")
        if manifest.status != DONE:
            return Status(State.UNFINISHED, f"{len(keys) - len(absent)} of {len(keys)} artifacts")
    if manifest.status != DONE:
        return Status(State.UNFINISHED, "interrupted; runs on where it stopped")
    lost = _lost_file(planned, manifest)
    if lost:
        return Status(State.MISSING, lost)
    counts = ", ".join(f"{number} {what}" for what, number in manifest.counts.items())
    return Status(State.DONE, counts)

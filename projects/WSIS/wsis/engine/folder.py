"""The run folder of a stage: what it holds, and whether that is what the config asks for.

``manifest.json`` says how the product was made, ``index.json`` lists the artifacts with sizes and
checksums, ``log.<process>.jsonl`` those that are not yet in the index.
"""

from __future__ import annotations

import enum
import json
import logging
import shutil
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.utils import comm

from wsis.commands import writing
from wsis.data.artifacts import SUMMARY, ProductReader
from wsis.data.builtin import left_out_of
from wsis.data.checks import load_json
from wsis.data.files import atomic_write, write_json
from wsis.data.model_folders import digest_of_model
from wsis.data.records import Record, heads_of
from wsis.data.weights import ADDRESSES, how_to_get
from wsis.engine.manifest import (
    DONE,
    IMAGE_FILES,
    IMAGES,
    RUNNING,
    DamagedManifest,
    Images,
    Manifest,
    defaults_among,
    digest_of_input,
    digest_of_sizes,
    digest_of_weights,
    look_up,
    package_versions,
    product_of,
    relevant_config,
    seen_of_the_data_set,
)
from wsis.engine.pipeline import Pipeline, PlannedStage
from wsis.errors import DataError, WSISError
from wsis.reading import read_yaml
from wsis.ready import packaged
from wsis.stage import ExportStage, InferStage, TrainStage

logger = logging.getLogger(__name__)

INDEX, LOG = "index.json", "log.*.jsonl"
INITIAL_WEIGHTS = {"weights": "MODEL.WEIGHTS", "trunk": "MODEL.TIMM.WEIGHTS"}
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
    extends: bool = False  # stale only for want of iterations, see `Manifest.extends`


NOT_YET_RUN = Status(State.MISSING, "not yet run")


def open_folders(pipeline: Pipeline) -> dict[str, StageFolder]:
    """The run folders of a pipeline's stages by name, whether they exist or not."""
    skip = any(planned.cfg.WSIS.ON_ERROR == "skip" for planned in pipeline.stages)
    images = Images("skip" if skip else "raise")
    found: dict[str, StageFolder] = {}
    for planned in pipeline.stages:
        sources = {product: found[source.name] for product, source in planned.sources.items()}
        found[planned.name] = StageFolder(planned, sources, images)
    return found


class StageFolder:
    """The files of a stage, and what it reads. Only this class writes manifest, log and index.

    Args:
        planned: the stage.
        sources: the run folders that it reads, by product.
        images: gives the dataset dicts.

    Attributes:
        manifest: that of the present run; set by `open`.
    """

    manifest: Manifest
    _start: float

    def __init__(
        self, planned: PlannedStage, sources: Mapping[str, StageFolder], images: Images
    ) -> None:
        self.planned, self.sources, self.images = planned, sources, images
        self.path, self.name = planned.folder, planned.name
        self.reader = ProductReader(self.path, self.name)
        self._status: Status | None = None
        self._users: list[StageFolder] = []
        for source in sources.values():
            source._users.append(self)

    # What the stage reads.

    @property
    def dataset_names(self) -> tuple[str, ...]:
        """The data sets that the stage treats: DATASETS.TRAIN for training, else WSIS.IMAGES."""
        cfg, is_train = self.planned.cfg, isinstance(self.planned.stage, TrainStage)
        return tuple(cfg.DATASETS.TRAIN if is_train else cfg.WSIS.IMAGES)

    @property
    def dataset_dicts(self) -> Sequence[Record]:
        """The images that the stage treats."""
        return self.images.named(self.dataset_names)

    @property
    def image_keys(self) -> list[str]:
        """The keys of all images that the stage treats."""
        return [record["image_key"] for record in heads_of(self.dataset_dicts)]

    def inputs(self) -> dict[str, str]:
        """Present digests of everything the stage reads; "" for a product that is not yet made.

        Raises:
            DataError: there are no initial weights.
        """
        stage, cfg = self.planned.stage, self.planned.cfg
        found = {product: source.product for product, source in self.sources.items()}
        files = {key: look_up(cfg, key) for key in stage.file_keys}
        found |= {key: digest_of_sizes(Path(path)) for key, path in files.items() if path}
        found[IMAGES] = self.images.fingerprint(self.dataset_names, seen_of_the_data_set(stage))
        found[IMAGE_FILES] = self.images.sizes(self.dataset_names)
        return found | self.initial_weights()

    def initial_weights(self) -> dict[str, str]:
        """Digests of the files that training starts from, and of a network trained elsewhere.

        Raises:
            DataError: one of them does not exist.
        """
        stage, cfg = self.planned.stage, self.planned.cfg
        if isinstance(stage, InferStage) and stage.model_key:
            known = digest_of_input(self.path, "model")
            return {"model": digest_of_model(look_up(cfg, stage.model_key), known)}
        trained = stage.weights_from if isinstance(stage, InferStage) else cfg.WSIS.INIT_FROM
        if not isinstance(stage, TrainStage | InferStage) or trained in self.sources:
            return {}
        named = {name: look_up(cfg, key) for name, key in INITIAL_WEIGHTS.items()}
        return {name: self._digest_of_initial(path, name) for name, path in named.items() if path}

    def _digest_of_initial(self, weights: str, name: str) -> str:
        """Digest of initial weights; if the file is gone, the one that the manifest has."""
        path, address = Path(weights := packaged(weights)), "://" in weights
        if address and weights not in ADDRESSES.values():  # these only if no file is here
            return weights
        if path.is_file():
            return digest_of_weights(path)
        if (noted := digest_of_input(self.path, name)) or address:
            return noted or weights
        advice = f"{how}, or set" if (how := how_to_get(path)) else "correct"
        advice += f" {self.name}.{INITIAL_WEIGHTS[name]}"
        if isinstance(self.planned.stage, TrainStage):
            advice += ' ("" for random weights)'
        raise DataError(f"stage {self.name} starts from {path}, which does not exist; {advice}")

    def started_from_its_weights(self) -> bool:
        """Whether the run in the folder started from what MODEL.WEIGHTS names now."""
        try:
            said = read_yaml(self.path / "config.yaml")
            return said["WSIS"]["INITIAL_WEIGHTS"] == self.planned.cfg.MODEL.WEIGHTS
        except (OSError, ValueError, KeyError, TypeError):  # none, or damaged
            return False

    def _manifest_of(self, planned: PlannedStage) -> Manifest:
        """The manifest that a run would write when it starts."""
        kind, config = planned.stage.kind, relevant_config(planned)
        known = defaults_among(config, planned.cfg.WSIS.IMPORTS)
        return Manifest(self.name, kind, RUNNING, config, self.inputs(), defaults=known)

    # What is there.

    @property
    def product(self) -> str:
        """Digest of the finished product, "" if there is none."""
        return product_of(self.path)

    def status(self) -> Status:
        """The state of the stage, found once; a stage that builds on a stale one is stale too.

        Only the main process looks, since others may see an older state of a network drive. All
        processes must call this in the same order.
        """
        return comm.all_gather(self._look() if comm.is_main_process() else None)[0]

    def forget(self) -> None:
        """The product has changed: find the state again, also of stages that build on it."""
        self._status = None
        for user in self._users:
            user.forget()

    def _look(self) -> Status:
        if self._status is None:
            self._status = self._compare()
            stale = [s for s in self.sources.values() if s._look().state is State.STALE]
            if stale and self._status != NOT_YET_RUN:
                reason = stale[0]._look().detail
                if not reason.startswith(_BUILDS_ON):
                    reason = f"{_BUILDS_ON}{stale[0].name}, which is stale: {reason}"
                self._status = Status(State.STALE, reason)
        return self._status

    def _compare(self) -> Status:
        """The state, as far as the folder itself tells."""
        try:
            manifest = Manifest.read(self.path)
        except DamagedManifest as error:
            return Status(State.STALE, f"{error}, so nothing tells how its files were made")
        holds_work = next(self.path.glob("*.pth"), None) or next(self.reader.keys(), None)
        if manifest is None and holds_work:
            return Status(State.STALE, "it has no manifest.json that tells how its files were made")
        if manifest is None or (manifest.status != DONE and not holds_work):
            return NOT_YET_RUN
        planned, done = self.planned, manifest.status == DONE
        processes = manifest.config.get("SOLVER.REFERENCE_WORLD_SIZE") if done else None
        if isinstance(processes, int) and processes > 0:  # as many as trained it, not as run now
            planned = planned.on_processes(processes)
        if change := manifest.change(self._manifest_of(planned)):
            longer = self._manifest_of(self.planned)  # with the processes of this run
            return Status(State.STALE, change, extends=longer.extends(manifest))
        if planned.stage.kind in ("infer", "derive"):
            absent, count = len(self.missing()), len(self.image_keys)
            if absent and done:
                return Status(State.MISSING, f"{absent} of {count} artifacts missing")
            if not done:
                return Status(State.UNFINISHED, f"{count - absent} of {count} artifacts")
            if not (self.path / INDEX).is_file():
                return Status(State.MISSING, f"{INDEX} missing")
        if not done:
            return Status(State.UNFINISHED, "interrupted; runs on where it stopped")
        if lost := self._lost_file(manifest):
            return Status(State.MISSING, lost)
        ends = [f"extended from {end}" for end in manifest.extended]
        return Status(State.DONE, ", ".join([_listed(manifest.counts), *ends]))

    def missing(self) -> list[str]:
        """Image keys without a whole artifact, in the order of the data set.

        An artifact is whole if it exists and has the size that the index says, if it is there.
        Images that were skipped count as done.
        """
        files, index = self.reader.files(), self.index()
        sizes = {f.name[:-4]: f.stat().st_size for f in files if f.name.endswith(".npz")}

        def is_whole(key: str) -> bool:
            size, record = sizes.get(key), index.get(key, {})
            return "skipped" in record or (size is not None and size == record.get("bytes", size))

        return [key for key in self.image_keys if not is_whole(key)]

    def product_files(self) -> list[Path]:
        """Files that the product has beside its artifacts."""
        stage = self.planned.stage
        if isinstance(stage, TrainStage):
            return [self.reader.weights]
        if isinstance(stage, ExportStage):
            return [self.path / stage.file_name]
        summary = isinstance(stage, InferStage) and stage.reduce is not None
        return [self.path / f"{SUMMARY}.npz"] if summary else []

    def _lost_file(self, manifest: Manifest) -> str:
        """Which file of the product is missing or has another size than when it was written."""
        for path in self.product_files():
            if not path.is_file():
                return f"{path.name} missing"
            size, expected = path.stat().st_size, manifest.files.get(path.name)
            if expected not in (None, size):
                return f"{path.name} has {size} bytes instead of {expected}"
        return ""

    # The work.

    def open(self, *, force: bool) -> None:
        """Prepare the folder for a run; in the main process.

        ``force`` empties it. Otherwise all files stay, except for half-written ones of a killed
        process.

        Raises:
            WSISError: the folder cannot be written.
        """
        self._start = time.perf_counter()
        before = None if force else Manifest.read(self.path)
        self.manifest = self._manifest_of(self.planned)
        if before is not None and any(self.path.glob("*.pth")):
            self.manifest.go_on_from(before)
        with writing(self.path, "another OUTPUT_DIR"):
            if force:
                shutil.rmtree(self.path, ignore_errors=True)
            halves = [Path(file) for file in self.reader.files() if file.name.endswith(".tmp")]
            for path in (*self.path.glob(".*.tmp"), *halves):
                path.unlink(missing_ok=True)
            self.path.mkdir(parents=True, exist_ok=True)
            if self.planned.stage.kind in ("infer", "derive"):
                self.reader.spread(len(self.dataset_dicts))
            self.manifest.write(self.path)
            with atomic_write(self.path / "config.yaml", "w") as stream:
                stream.write(self.planned.complete_config())

    def log(self, key: str, record: Mapping[str, Any]) -> None:
        """Note what was written for image ``key``, or ``{"skipped": reason}``; in every process.

        A killed process may have written a file without this note; `write_index` reads it again.
        """
        path = self.path / LOG.replace("*", str(comm.get_rank()))
        with open(path, "a", encoding="utf-8") as stream:
            # the line break comes first, so that the half line of a killed process stays alone
            stream.write("\n" + json.dumps({"key": key, **record}))

    def logged(self) -> dict[str, dict[str, Any]]:
        """The latest record of each key, from the index and all logs."""
        known = self.index()
        for path in sorted(self.path.glob(LOG)):
            for line in path.read_text("utf-8", errors="replace").splitlines():
                try:
                    record = json.loads(line)
                    record["key"], record.get("bytes")
                except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                    continue  # the half line of a killed process
                known[record.pop("key")] = record
        return known

    def index(self) -> dict[str, dict[str, Any]]:
        """The index: ``{image key: {"bytes", "crc32"} or {"skipped"}}``; empty without one."""
        path = self.path / INDEX
        if not path.exists():
            return {}
        try:
            index = load_json(path)
            if not isinstance(index, dict) or not all(isinstance(r, dict) for r in index.values()):
                raise ValueError("not records by image key")
        except ValueError:
            raise WSISError(f"{path} is damaged; delete it and rerun") from None
        return index

    def write_index(self) -> dict[str, dict[str, Any]]:
        """Write all logs into ``index.json``, by ascending image key, and return its content."""
        known, index = self.logged(), {}
        for key in sorted(self.image_keys):
            path, record = self.reader.path(key), known.get(key, {})
            if path.is_file() and record.get("bytes") != path.stat().st_size:
                data = path.read_bytes()
                record = {"bytes": len(data), "crc32": zlib.crc32(data)}
            index[key] = record
        write_json(self.path / INDEX, index, indent=None)
        for path in self.path.glob(LOG):
            path.unlink()
        return index

    def close(
        self,
        product: str,
        counts: Mapping[str, int],
        skipped: Mapping[str, str] | None = None,
        examples: Mapping[str, str] | None = None,
    ) -> None:
        """Write into the manifest that the stage is done and what it made; in the main process."""
        manifest = self.manifest
        manifest.status, manifest.product = DONE, product
        manifest.counts, manifest.skipped = dict(counts), dict(skipped or {})
        manifest.examples = dict(examples or {})
        if skipped:
            manifest.counts["skipped"] = len(skipped)
        if left_out := sum(map(left_out_of, self.dataset_names)):
            manifest.counts["left out of the annotations"] = left_out
        manifest.files = {path.name: path.stat().st_size for path in self.product_files()}
        manifest.versions = package_versions()
        manifest.seconds = round(time.perf_counter() - self._start, 1)
        manifest.write(self.path)
        made = _listed(manifest.counts)
        logger.info("%s: %s, %.1f s, %s", self.name, made, manifest.seconds, self.path)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {what}" for what, number in counts.items())

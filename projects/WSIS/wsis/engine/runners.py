"""Runs one stage of each kind; they all leave a run folder that says what it holds."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils import comm

from wsis.data.artifacts import SUMMARY, ProductReader, write_artifact
from wsis.data.files import sha256_of_file
from wsis.data.mappers import build_mapper
from wsis.data.pseudo_labels import load_pseudo_labels
from wsis.data.stream import Failure, derive_seed, seeded, single_pass_loader
from wsis.engine.evaluate import evaluate_on_test_sets
from wsis.engine.manifest import (
    ArtifactLog,
    Manifest,
    digest_of_artifacts,
    digest_of_weights,
    write_index,
)
from wsis.engine.models import build_inference_model
from wsis.engine.pipeline import PlannedStage
from wsis.engine.progress import progress
from wsis.engine.status import missing_artifacts
from wsis.engine.trainer import Trainer, keep_weights
from wsis.engine.versions import package_versions
from wsis.errors import DataError, UsageError, WSISError
from wsis.stage import DeriveStage, ExportStage, InferStage, TrainStage

logger = logging.getLogger(__name__)

DatasetDicts = Sequence[dict[str, Any]]
_WRITERS = 2  # threads that write artifacts while the network computes
_WAITING = 16  # artifacts that may wait for them, so that memory stays bounded


@dataclass
class Outcome:
    """What a runner leaves for the manifest.

    Attributes:
        product: digest of the product.
        counts: what was made.
        skipped: images left out, with the reason.
    """

    product: str
    counts: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def run_train(
    planned: PlannedStage, dataset_dicts: DatasetDicts, products: Mapping[str, ProductReader]
) -> Outcome:
    """Train to the end, from the last checkpoint if there is one."""
    stage, cfg = planned.stage, planned.cfg
    assert isinstance(stage, TrainStage)
    dataset_dicts = training_dicts(planned, dataset_dicts, products)
    mapper = build_mapper(cfg, stage.mapper, is_train=True, products=products)
    weights = str(products[cfg.WSIS.INIT_FROM].weights) if cfg.WSIS.INIT_FROM else None
    if cfg.SOLVER.MAX_ITER == 0:
        keep_weights(cfg, weights)
        comm.synchronize()
        return Outcome(digest_of_weights(planned.folder / "model_final.pth"), {"iterations": 0})
    order = None
    if stage.samples is not None:
        dataset_dicts, order = stage.samples(dataset_dicts, cfg)
    if cfg.TEST.EVAL_PERIOD > 0 and not (stage.evaluation and cfg.DATASETS.TEST):
        logger.warning("%s: TEST.EVAL_PERIOD: there is nothing to evaluate on", planned.name)
    log = ArtifactLog(planned.folder, comm.get_rank())
    trainer = Trainer(
        cfg,
        dataset_dicts,
        mapper=mapper,
        weights=weights,
        order=order,
        on_skip=lambda failure: log.append(failure.key, {"skipped": failure.message}),
        evaluate=partial(evaluate_on_test_sets, planned)
        if stage.evaluation and cfg.DATASETS.TEST
        else None,
    )
    trainer.resume_or_load()
    trainer.train()
    comm.synchronize()
    if not comm.is_main_process():
        return Outcome("")
    records = ArtifactLog.collect(planned.folder)
    skipped = {key: str(records[key]["skipped"]) for key in sorted(records)}
    counts = {"images": len(dataset_dicts) - len(skipped), "iterations": cfg.SOLVER.MAX_ITER}
    if skipped:
        counts["skipped"] = len(skipped)
    return Outcome(digest_of_weights(planned.folder / "model_final.pth"), counts, skipped)


class _ArtifactSink:
    """Writes artifacts in background threads and logs them; waits where too many queue up."""

    def __init__(self, reader: ProductReader) -> None:
        self._reader = reader
        self._log = ArtifactLog(reader.folder, comm.get_rank())
        self._pool = ThreadPoolExecutor(_WRITERS)
        self._pending: list[tuple[str, Future]] = []

    def put(self, key: str, arrays: dict[str, np.ndarray]) -> None:
        self._pending.append(
            (key, self._pool.submit(write_artifact, self._reader.path(key), arrays))
        )
        self._drain(_WAITING)

    def skip(self, key: str, reason: str) -> None:
        self._log.append(key, {"skipped": reason})

    def _drain(self, allowed: int) -> None:
        while len(self._pending) > allowed:
            key, future = self._pending.pop(0)
            self._log.append(key, future.result())

    def close(self) -> None:
        try:
            self._drain(0)
        finally:
            self._pool.shutdown()


def _to_arrays(values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {
        name: value.cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        for name, value in values.items()
    }


def _shard(planned: PlannedStage, dataset_dicts: DatasetDicts) -> tuple[list[dict[str, Any]], int]:
    """This process's part of the images that are still to do, and how many are to do in all."""
    keys = [sample["image_key"] for sample in dataset_dicts]
    todo = comm.all_gather(missing_artifacts(planned, keys))[0]  # as the main process sees it
    chosen = set(todo)
    rest = [sample for sample in dataset_dicts if sample["image_key"] in chosen]
    return rest[comm.get_rank() :: comm.get_world_size()], len(rest)


def _work_through(
    planned: PlannedStage,
    dataset_dicts: DatasetDicts,
    *,
    prepare: Callable[[dict[str, Any]], Any],
    finish: Callable[[Any], dict[str, np.ndarray]] | None,
) -> None:
    """Make the artifacts that are missing.

    ``prepare`` runs in the data-loading processes, ``finish`` (the network) in this one.
    """
    cfg = planned.cfg
    mine, _ = _shard(planned, dataset_dicts)
    sink = _ArtifactSink(ProductReader(planned.folder, planned.name))
    loader = single_pass_loader(mine, prepare, num_workers=cfg.DATALOADER.NUM_WORKERS)
    total = -(-len(dataset_dicts) // comm.get_world_size())
    done = max(total - len(mine), 0)
    with closing(sink), progress(loader, planned.name, total=total, done=done) as bar:
        for sample, made in zip(mine, bar, strict=True):
            key = sample["image_key"]
            try:
                if isinstance(made, Failure):
                    raise made.error()
                with seeded(max(cfg.SEED, 0), derive_seed(*key.encode())):
                    sink.put(key, _to_arrays(finish(made) if finish else made))
            except WSISError as error:
                if cfg.WSIS.ON_ERROR != "skip" or isinstance(error, UsageError):
                    raise
                logger.warning("%s skips %s: %s", planned.name, key, error)
                sink.skip(key, str(error))


def _finish_artifacts(planned: PlannedStage, dataset_dicts: DatasetDicts) -> Outcome:
    """Check that nothing is missing, write index and summary; on the main process."""
    comm.synchronize()
    if not comm.is_main_process():
        return Outcome("")
    stage, folder = planned.stage, planned.folder
    reader = ProductReader(folder, planned.name)
    keys = [sample["image_key"] for sample in dataset_dicts]
    index = write_index(folder, keys, reader.path)
    skipped = {key: record["skipped"] for key, record in index.items() if "skipped" in record}
    lost = [key for key, record in index.items() if not record]
    if lost:
        raise WSISError(
            f"{planned.name}: {len(lost)} artifacts are missing, {lost[0]} first; rerun"
        )
    if isinstance(stage, InferStage) and stage.reduce is not None:
        present = ((key, reader[key]) for key in keys if key not in skipped)
        summary = _to_arrays(stage.reduce(present, planned.cfg))
        write_artifact(folder / f"{SUMMARY}.npz", summary)
    counts = {"images": len(keys) - len(skipped)}
    if skipped:
        counts["skipped"] = len(skipped)
    return Outcome(digest_of_artifacts(folder, index), counts, skipped)


def run_infer(
    planned: PlannedStage, dataset_dicts: DatasetDicts, products: Mapping[str, ProductReader]
) -> Outcome:
    """Run the network over the images that have no artifact yet."""
    stage, cfg = planned.stage, planned.cfg
    assert isinstance(stage, InferStage)
    mapper = build_mapper(cfg, stage.mapper, is_train=False, products=products)
    model = build_inference_model(cfg, products[stage.weights_from].weights)

    @torch.no_grad()
    def finish(sample: dict[str, Any]) -> dict[str, Any]:
        return stage.to_artifact(model([sample])[0])

    _work_through(planned, dataset_dicts, prepare=mapper, finish=finish)
    return _finish_artifacts(planned, dataset_dicts)


class _Derive:
    """A derive stage's function with its inputs; picklable for data-loading processes."""

    def __init__(
        self, stage: DeriveStage, products: Mapping[str, ProductReader], cfg: CfgNode
    ) -> None:
        self.stage, self.products, self.cfg = stage, products, cfg

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        artifacts = {name: reader[sample["image_key"]] for name, reader in self.products.items()}
        return self.stage.function(sample, artifacts, self.cfg)


def run_derive(
    planned: PlannedStage, dataset_dicts: DatasetDicts, products: Mapping[str, ProductReader]
) -> Outcome:
    """Compute the artifacts that are missing, in DATALOADER.NUM_WORKERS processes."""
    assert isinstance(planned.stage, DeriveStage)
    function = _Derive(planned.stage, products, planned.cfg)
    _work_through(planned, dataset_dicts, prepare=function, finish=None)
    return _finish_artifacts(planned, dataset_dicts)


def run_export(
    planned: PlannedStage, dataset_dicts: DatasetDicts, products: Mapping[str, ProductReader]
) -> Outcome:
    """Write one file from all artifacts; on the main process."""
    stage = planned.stage
    assert isinstance(stage, ExportStage)
    if not comm.is_main_process():
        return Outcome("")
    path = planned.folder / stage.file_name
    manifest = Manifest.read(planned.folder)
    assert manifest is not None
    info = {
        "description": "pseudo labels made by WSIS",
        "method": planned.cfg.WSIS.METHOD,
        "config": manifest.digest,
        "versions": package_versions(),
    }
    summary = stage.function(path, dataset_dicts, products, planned.cfg, info)
    counts = {what: number for what, number in summary.items() if isinstance(number, int)}
    return Outcome(sha256_of_file(path)[:16], counts)


RUNNERS: dict[str, Callable[..., Outcome]] = {
    "train": run_train,
    "infer": run_infer,
    "derive": run_derive,
    "export": run_export,
}


def clear_folder(folder: Path, *, leftovers_only: bool) -> None:
    """Empty a run folder for ``--force``, or remove what a killed process left half-written."""
    if not leftovers_only:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for path in _temporary_files(folder):
        path.unlink(missing_ok=True)


def _temporary_files(folder: Path) -> Iterator[Path]:
    yield from folder.glob(".*.tmp")
    yield from (folder / "artifacts").glob(".*.tmp")


def training_dicts(
    planned: PlannedStage, dataset_dicts: DatasetDicts, products: Mapping[str, ProductReader]
) -> list[dict[str, Any]]:
    """What a training stage trains on: the data set, or the pseudo labels made for it.

    Raises:
        DataError: tags are to be learnt and no image has any.
    """
    found = list(dataset_dicts)
    if planned.stage.supervision == "image" and not any(d["image_labels"] for d in found):
        names = ", ".join(planned.cfg.DATASETS.TRAIN)
        raise DataError(
            f"stage {planned.name}: no image of {names} has a tag (image_labels, or annotations "
            "with a category); see datasets/README.md"
        )
    if "pseudo_labels" in planned.consumes:
        found = load_pseudo_labels(products["pseudo_labels"].folder / "pseudo_labels.json", found)
    if planned.stage.supervision == "mask" and planned.cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        found = [d for d in found if any(not a.get("iscrowd") for a in d.get("annotations", ()))]
    return found

"""Runs the chosen stages of a pipeline, in every process of the run."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from wsis.data.artifacts import ProductReader
from wsis.data.builtin import check_supervision
from wsis.data.files import atomic_write, write_json
from wsis.engine.evaluate import Evaluations
from wsis.engine.images import Images
from wsis.engine.lock import check_shared
from wsis.engine.manifest import DONE, PIPELINE, RUNNING, Manifest
from wsis.engine.memory import keep_freed_memory
from wsis.engine.pipeline import Pipeline, PlannedStage, load_pipeline
from wsis.engine.runners import RUNNERS, Outcome, clear_folder
from wsis.engine.status import (
    State,
    Statuses,
    current_inputs,
    defaults_among,
    product_files,
    relevant_config,
)
from wsis.engine.versions import package_versions
from wsis.errors import DataError, UsageError, WSISError
from wsis.stage import InferStage, TrainStage

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What the command line asks for; crosses process borders.

    Attributes:
        config_file: pipeline or stage YAML.
        overrides: KEY VALUE pairs.
        stage: run this one only.
        first: run from this one.
        last: run until this one.
        force: redo the chosen stages from scratch.
        eval_only: evaluate what is there and make nothing.
    """

    config_file: str
    overrides: tuple[str, ...] = field(default=())
    stage: str | None = None
    first: str | None = None
    last: str | None = None
    force: bool = False
    eval_only: bool = False

    def chosen(self, pipeline: Pipeline) -> tuple[PlannedStage, ...]:
        """The stages of ``pipeline`` that this request names."""
        return pipeline.select(stage=self.stage, first=self.first, last=self.last)


def run(request: Request) -> None:
    """Do what was asked; every process of the run calls this with the same request.

    Raises:
        WSISError: a stale stage, a missing product, bad data, a diverged training.
    """
    setup_logger(distributed_rank=comm.get_rank(), name="wsis", abbrev_name="wsis")
    setup_logger(distributed_rank=comm.get_rank(), name="fvcore")
    setup_logger(distributed_rank=comm.get_rank(), name="detectron2")
    pipeline = load_pipeline(
        request.config_file, request.overrides, num_processes=comm.get_world_size()
    )
    if pipeline.stages[0].cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()
    check_shared(pipeline.output_dir)
    images = Images()
    evaluations = Evaluations(pipeline, images)
    chosen = request.chosen(pipeline)
    _check_chosen(chosen, images)
    if not request.eval_only:
        _note_stages(pipeline)
    statuses = Statuses(pipeline, images)
    worked = False
    for planned in chosen:
        if not request.eval_only:
            worked |= run_stage(pipeline, planned, images, statuses, force=request.force)
        status = statuses.of(planned)
        if status.state is State.DONE:
            evaluations.evaluate(planned, again=request.eval_only)
        elif planned.stage.evaluation:
            detail = f"{status.state.value} ({status.detail})"
            logger.warning("%s is %s and is not evaluated", planned.name, detail)
        comm.synchronize()
    done = [p for p in pipeline.stages if statuses.of(p).state is State.DONE]
    if comm.is_main_process():
        evaluations.report(done, shown=chosen)
    if request.eval_only and not done:
        raise WSISError(
            f"nothing to evaluate: no stage of {pipeline.name} is done and up to date in "
            f"{pipeline.output_dir}; run without --eval-only first, or correct OUTPUT_DIR and what "
            "--list-stages names"
        )
    if not worked and not request.eval_only:
        logger.info("Nothing to do: every chosen stage of %s is done", pipeline.name)


def _note_stages(pipeline: Pipeline) -> None:
    """Tell reports which stages there will be; a stage config that runs alone changes nothing."""
    if comm.is_main_process() and len(pipeline.stages) > 1:
        path = pipeline.output_dir / PIPELINE
        try:
            write_json(path, [planned.name for planned in pipeline.stages])
        except OSError as error:
            raise WSISError(f"cannot write {path} ({error.strerror}); set OUTPUT_DIR") from None


def _check_chosen(chosen: Sequence[PlannedStage], images: Images) -> None:
    """Find what would stop a later stage before the first one starts."""
    processes = comm.get_world_size()
    for planned in chosen:
        images.of(planned)
        if not isinstance(planned.stage, TrainStage):
            check_supervision(planned.cfg.WSIS.IMAGES, planned.stage.supervision, planned.name)
            continue
        batch = planned.cfg.SOLVER.IMS_PER_BATCH
        if batch % processes:
            raise UsageError(
                f"SOLVER.IMS_PER_BATCH {batch} of stage {planned.name} is not divisible by "
                f"{processes} processes; set {planned.name}.SOLVER.IMS_PER_BATCH"
            )
        if "pseudo_labels" not in planned.consumes:
            check_supervision(planned.cfg.DATASETS.TRAIN, planned.stage.supervision, planned.name)


def run_stage(
    pipeline: Pipeline,
    planned: PlannedStage,
    images: Images,
    statuses: Statuses,
    *,
    force: bool = False,
) -> bool:
    """Bring one stage to its end, from where it stands.

    Returns:
        whether there was anything to do.
    """
    dataset_dicts = images.of(planned)
    _check_upstream(pipeline, planned, statuses)
    status = statuses.of(planned)
    if not force:
        if status.state is State.DONE:
            logger.info("%s: done (%s)", planned.name, status.detail)
            return False
        if status.state is State.STALE:
            raise WSISError(
                f"stage {planned.name} in {planned.folder} is stale: {status.detail}. Redo it and "
                f"what follows with --from-stage {planned.name} --force, or take the change back"
            )
    products = {
        product: ProductReader(folder, name)
        for product in planned.consumes
        for name, folder in [pipeline.producer(product, planned)]
    }
    if isinstance(planned.stage, InferStage) and planned.stage.measured is not None:
        planned = planned.with_values(planned.stage.measured(products))
    config, inputs = relevant_config(planned), current_inputs(pipeline, planned, dataset_dicts)
    manifest = Manifest(
        planned.name,
        planned.stage.kind,
        RUNNING,
        config,
        inputs,
        defaults=defaults_among(config, planned),
    )
    if comm.is_main_process():
        _open_folder(planned, manifest, force=force)
    comm.synchronize()
    logger.info("%s: %s", planned.name, planned.stage.title)
    start = time.perf_counter()
    outcome = RUNNERS[planned.stage.kind](planned, dataset_dicts, products)
    if comm.is_main_process():
        manifest.seconds = round(time.perf_counter() - start, 1)
        _close_folder(planned, manifest, outcome)
    comm.synchronize()
    statuses.worked_on(planned)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return True


def _check_upstream(pipeline: Pipeline, planned: PlannedStage, statuses: Statuses) -> None:
    """Refuse to build on what is not there: a product missing, unfinished or stale."""
    stages = {other.name: other for other in pipeline.stages}
    for product in planned.consumes:
        name, folder = pipeline.producer(product, planned)
        status = statuses.of(stages[name])
        if status.state is State.DONE:
            continue
        advice = f"run --stage {name} first"
        if status.state is State.STALE:
            advice = (
                "take the change back, redo with --from-stage, or, for this stage alone, "
                f"write {planned.name}.KEY VALUE"
            )
        raise WSISError(
            f"stage {planned.name} needs {name}, which is {status.state.value} in {folder}"
            f" ({status.detail or 'unfinished'}); {advice}"
        )


def _open_folder(planned: PlannedStage, manifest: Manifest, *, force: bool) -> None:
    folder = planned.folder
    try:
        clear_folder(folder, leftovers_only=not force)
        folder.mkdir(parents=True, exist_ok=True)
        manifest.write(folder)
        with atomic_write(folder / "config.yaml", "w") as stream:
            stream.write(planned.complete_config())
    except OSError as error:
        raise WSISError(f"cannot write to {folder} ({error.strerror}); set OUTPUT_DIR") from None


def _close_folder(planned: PlannedStage, manifest: Manifest, outcome: Outcome) -> None:
    """Note that the stage is done, and what it has made."""
    manifest.status, manifest.product = DONE, outcome.product
    manifest.counts, manifest.skipped = outcome.counts, outcome.skipped
    manifest.files = {path.name: path.stat().st_size for path in product_files(planned)}
    manifest.versions = package_versions()
    manifest.write(planned.folder)
    counts = ", ".join(f"{number} {what}" for what, number in outcome.counts.items())
    logger.info("%s: %s, %.1f s, %s", planned.name, counts, manifest.seconds, planned.folder)


def describe_stages(pipeline: Pipeline, chosen: Sequence[PlannedStage]) -> str:
    """The table of ``--list-stages``."""
    from tabulate import tabulate

    problem, statuses = "", Statuses(pipeline, Images())
    rows = []
    for planned in chosen:
        state = ("unknown", "")
        if not problem:
            try:
                status = statuses.of(planned)
                state = (status.state.value, status.detail)
            except DataError as error:  # the stages can be listed all the same
                problem = f"\n\nwhat is done cannot be told: {error}"
        folder = os.path.relpath(planned.folder, Path.cwd())
        rows.append((planned.name, planned.stage.kind, *state, folder))
    return tabulate(rows, headers=("stage", "kind", "state", "detail", "folder")) + problem

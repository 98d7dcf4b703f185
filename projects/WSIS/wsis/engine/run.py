"""Runs the chosen stages of a pipeline, in every process of the run."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from wsis.commands import writing
from wsis.data.builtin import check_supervision, given_name, reading_once, reading_together
from wsis.data.files import write_json
from wsis.data.records import compact
from wsis.data.supervision import same_tags
from wsis.data.user import register_datasets
from wsis.data.weights import ADDRESSES, how_to_get
from wsis.engine.ending import tell_ending
from wsis.engine.evaluate import collect_figures, evaluate, evaluate_weights
from wsis.engine.folder import INITIAL_WEIGHTS, StageFolder, State, open_folders
from wsis.engine.launch import keep_freed_memory
from wsis.engine.lock import check_shared, rank_lock
from wsis.engine.manifest import look_up
from wsis.engine.model_zoo import unlike_the_zoo
from wsis.engine.pipeline import PIPELINE, Pipeline, load_pipeline
from wsis.engine.runners import run_stage
from wsis.errors import DataError, WSISError, about
from wsis.modeling.checkpoint import local_file
from wsis.ready import packaged
from wsis.stage import InferStage, TrainStage

logger = logging.getLogger(__name__)

_PIECE = 1 << 26  # bytes that are sent to other processes at once
_ANNOTATION_KEYS = {
    "box": "bbox",
    "point": "point",
    "mask": "segmentation",
}  # a supervision's own in an annotation


@reading_once()
def run(
    config_file: str,
    overrides: Sequence[str],
    selection: Mapping[str, str | None],
    *,
    datasets: Sequence[Mapping[str, Any]] = (),
    force: bool,
    resume: bool,
    eval_only: bool,
    pipeline: Pipeline | None = None,
) -> None:
    """Do what was asked; every process of the run calls this with the same arguments.

    Args:
        config_file: a pipeline.
        overrides: KEY VALUE pairs.
        selection: arguments of `wsis.engine.pipeline.Pipeline.select`.
        datasets: entries of data sets that the config may name.
        force: redo the chosen stages from scratch.
        resume: train on where only SOLVER.MAX_ITER has grown.
        eval_only: evaluate what is there, or MODEL.WEIGHTS of ``overrides``, and make nothing.
        pipeline: that of ``config_file``, where this process has loaded it already.

    Raises:
        WSISError: a stale stage, a missing product, bad data, a diverged training.
    """
    for name in ("wsis", "fvcore", "detectron2"):
        setup_logger(distributed_rank=comm.get_rank(), name=name)
    if pipeline is None:
        register_datasets(datasets)
        with _one_reads():
            pipeline = load_pipeline(config_file, overrides, num_processes=comm.get_world_size())
    if pipeline.stages[0].cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()
    check_shared(pipeline.output_dir)
    with rank_lock(pipeline.output_dir):
        _sweep(pipeline)
        own = overrides[2:] if overrides[:1] == ("MODEL.DEVICE",) else overrides  # after the door's
        words = (config_file, *own)
        if eval_only and _evaluate_checkpoint(pipeline, selection, words):
            return
        _run_chosen(pipeline, selection, words, force=force, resume=resume, eval_only=eval_only)


def _of_main(make: Callable[[], Any]) -> Any:
    """What the main process makes; its arrays are sent as they are, without a copy in between."""
    main, buffers = comm.is_main_process(), list[Any]()
    made = make() if main else None
    data = pickle.dumps(made, protocol=5, buffer_callback=buffers.append) if main else b""
    box: list[Any] = [data, [buffer.raw().nbytes for buffer in buffers]]
    dist.broadcast_object_list(box, src=0)
    data, sizes = box
    if not main:
        buffers = [bytearray(size) for size in sizes]
    device = comm.get_local_rank() if dist.get_backend() == "nccl" else "cpu"
    for buffer in (buffer for buffer, size in zip(buffers, sizes, strict=True) if size):
        content = torch.from_numpy(np.frombuffer(buffer, dtype=np.uint8))
        for piece in content.split(_PIECE):  # a GPU need not have room for all
            sent = piece.to(device)
            dist.broadcast(sent, src=0)
            if not main:
                piece.copy_(sent)
    return made if main else pickle.loads(data, buffers=buffers)  # noqa: S301


def _one_reads() -> AbstractContextManager[None]:
    """In the block, the main process reads data sets for the others."""
    return nullcontext() if comm.get_world_size() == 1 else reading_together(_of_main)


def _run_chosen(
    pipeline: Pipeline,
    selection: Mapping[str, str | None],
    words: Sequence[str],
    *,
    force: bool,
    resume: bool,
    eval_only: bool,
) -> None:
    folders = open_folders(pipeline)
    chosen = [folders[planned.name] for planned in pipeline.select(**selection)]
    with _one_reads():
        _check_chosen(chosen)
    if not eval_only:
        for folder in chosen:
            _fetch_weights(folder, force=force)  # hours before the stage that would miss them
        _note_stages(pipeline)
    worked = False
    for folder in chosen:
        with about(f"stage {folder.name}"):
            if not eval_only:
                worked |= _bring_to_its_end(folder, force=force, resume=resume)
            status = folder.status()
            if status.state is State.DONE:
                worked |= evaluate(folder, again=eval_only)
        if status.state is not State.DONE and folder.planned.stage.evaluation:
            detail = f"{status.state.value} ({status.detail})"
            logger.warning("%s is %s and is not evaluated", folder.name, detail)
        comm.synchronize()
    if not worked and not eval_only:
        logger.info("Nothing to do: every chosen stage of %s is done", pipeline.name)
    done = [name for name, folder in folders.items() if folder.status().state is State.DONE]
    if comm.is_main_process():
        found, shown = collect_figures(pipeline, done), [folder.name for folder in chosen]
        tell_ending(pipeline, found, done=done, shown=shown, words=words)
    if eval_only and not {folder.name for folder in chosen} & set(done):
        raise WSISError(
            f"nothing to evaluate: no chosen stage of {pipeline.name} is done and up to date in "
            f"{pipeline.output_dir}; run without --eval-only first, or correct OUTPUT_DIR and what "
            "--list-stages names"
        )


def _fetch_weights(folder: StageFolder, *, force: bool) -> None:
    """Refuse a stage without the weights that it starts from; download those of an address.

    Warns of weights of the model zoo that learnt from another kind of input.
    """
    needed = folder.initial_weights()
    for name, key in INITIAL_WEIGHTS.items():
        address = packaged(look_up(folder.planned.cfg, key))
        if name not in needed or "://" not in address:
            continue
        done = folder.status().state is State.DONE
        begun = name == "weights" and any(folder.path.glob("*.pth"))  # goes on from its checkpoint
        if (done or begun) and not force:
            continue
        advice = how_to_get(address) or "download them yourself"
        path = local_file(address, f"{advice}, or name a file by {folder.name}.{key}")
        if name == "trunk" and address in ADDRESSES.values():  # elsewhere a file: contents count
            folder.planned = folder.planned.with_values({key: path})
        if differing := unlike_the_zoo(folder.planned.cfg):
            logger.warning("%s: other input than of %s: %s", folder.name, address, differing)


def _sweep(pipeline: Pipeline) -> None:
    """Delete what a killed run has half-written: figures and predictions of any stage.

    Its artifacts are left to the stage itself, which looks through them when it goes on.
    """
    if not comm.is_main_process():
        return
    for folder in (pipeline.output_dir, *(planned.folder for planned in pipeline.stages)):
        for path in (*folder.glob(".*.tmp"), *folder.glob("predictions/*/.*.tmp")):
            with suppress(OSError):  # a folder that cannot be written is told when it is
                path.unlink()


def _note_stages(pipeline: Pipeline) -> None:
    """Write down, for reports, which stages there are; a pipeline of one stage writes nothing."""
    if comm.is_main_process() and len(pipeline.stages) > 1:
        path = pipeline.output_dir / PIPELINE
        with writing(path, "another OUTPUT_DIR"):
            write_json(path, [planned.name for planned in pipeline.stages])


def _evaluate_checkpoint(
    pipeline: Pipeline, selection: Mapping[str, str | None], words: Sequence[str]
) -> bool:
    """Evaluate the checkpoint that the command (config file, overrides) names as MODEL.WEIGHTS.

    Returns:
        whether there is such a checkpoint. One that fits no network, but from which the run
        started, belongs to its config: the run's own products are to be evaluated.

    Raises:
        DataError: it fits the network of no chosen stage.
    """
    folders, keys = open_folders(pipeline), words[1::2]
    given = [
        folder
        for folder in (folders[planned.name] for planned in pipeline.select(**selection))
        if {"MODEL.WEIGHTS", f"{folder.name}.MODEL.WEIGHTS"} & set(keys)
        and isinstance(folder.planned.stage, TrainStage)
        and folder.planned.stage.evaluation
        and folder.planned.cfg.MODEL.WEIGHTS
    ]
    entries, misfits = evaluate_weights(given)
    if len(misfits) < len(given):
        if comm.is_main_process():
            shown = [folder.name for folder in given if folder.name not in misfits]
            found = collect_figures(pipeline, (), entries)
            tell_ending(pipeline, found, done=(), shown=shown, others=entries, words=words)
        return True
    if given and not any(folder.started_from_its_weights() for folder in given):
        reasons = "; ".join(dict.fromkeys(misfits.values()))
        raise DataError(f"nothing to evaluate on {', '.join(misfits)}: {reasons}")
    return False


def _check_chosen(chosen: Sequence[StageFolder]) -> None:
    """Before the first stage starts, find the errors that would stop a later one."""
    passed_over: dict[str, list[str]] = {}
    for folder in chosen:
        _ = folder.dataset_dicts
        stage = folder.planned.stage
        if not (isinstance(stage, TrainStage) and "pseudo_labels" in folder.sources):
            check_supervision(folder.dataset_names, stage.supervision, stage.name)
            if said := _check_annotated(folder):
                passed_over.setdefault(said, []).append(folder.name)
    for said, names in passed_over.items() if comm.is_main_process() else ():
        verb = "works" if len(names) == 1 else "work"
        logger.warning("%s %s on %s", ", ".join(names), verb, said)


def _check_annotated(folder: StageFolder) -> str:
    """Refuse a data set without any box (or point) for a stage that works on boxes (points).

    Returns:
        where only some objects have none, or tags teach nothing, the end of a sentence about that,
        else "".
    """
    stage = folder.planned.stage
    needed, names = stage.supervision, ", ".join(map(given_name, folder.dataset_names))
    if needed == "image" and isinstance(stage, TrainStage) and same_tags(folder.dataset_dicts):
        return (
            f"tags, and every image of {names} has the same, which teach nothing of what a class "
            "looks like; add images without it, or draw points or boxes (docs/own_data.md)"
        )
    if needed == "image" or (needed == "mask" and not folder.planned.cfg.MODEL.MASK_ON):
        return ""
    images = compact(folder.dataset_dicts)
    found, objects = images.objects(_ANNOTATION_KEYS[needed]), images.objects()
    drawn = False
    if needed == "mask" and not 0 < found.sum() == objects.sum():  # those of VOC lie in files
        in_files = np.array(["instance_file_name" in head for head in images.heads], dtype=bool)
        found, drawn = np.where(in_files, objects, found), bool(in_files.any())
    having, total = int(found.sum()), int(objects.sum())
    if not having and not drawn:
        raise DataError(
            f"stage {folder.name} needs {needed} annotations, and no image of {names} has one; "
            "name one that has them (DATA.TRAIN), or take a pipeline for what it has, as "
            "tools/check_data.py proposes"
        )
    if having == total:
        return ""
    lacking = f"{total - having} of {total} objects of {names} have none"
    if needed == "mask" and folder.planned.cfg.WSIS.ON_ERROR != "skip":
        raise DataError(
            f"stage {folder.name} needs masks: {lacking}; draw them, leave these objects out, or "
            "set MODEL.MASK_ON False"
        )
    kinds = {"box": "boxes", "point": "points", "mask": "masks"}
    them = "their images" if needed == "mask" else "they"
    return f"{kinds[needed]}: {lacking}, and {them} are passed over"


def _bring_to_its_end(folder: StageFolder, *, force: bool, resume: bool) -> bool:
    """Run a stage from where it stands.

    Returns:
        whether there was anything to do.
    """
    _check_sources(folder)
    status = folder.status()
    if not force:
        if status.state is State.DONE:
            logger.info("%s: done (%s)", folder.name, status.detail)
            return False
        if status.state is State.STALE and not (resume and status.extends):
            advice = "Train on with --resume, redo" if status.extends else "Redo"
            raise WSISError(
                f"stage {folder.name} in {folder.path} is stale: {status.detail}. {advice} it and "
                f"what follows with --from-stage {folder.name} --force, take the change back, "
                "or name another OUTPUT_DIR"
            )
    stage = folder.planned.stage
    if isinstance(stage, InferStage) and stage.measured is not None:
        products = {product: source.reader for product, source in folder.sources.items()}
        folder.planned = folder.planned.with_values(stage.measured(products))
    if comm.is_main_process():
        folder.open(force=force)
    comm.synchronize()
    logger.info("%s: %s", folder.name, stage.title)
    run_stage(folder)
    comm.synchronize()
    folder.forget()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return True


def _check_sources(folder: StageFolder) -> None:
    """Refuse to start if a product that the stage reads is missing, unfinished or stale."""
    for source in folder.sources.values():
        status = source.status()
        if status.state is State.DONE:
            continue
        begun = all(one.status().state is State.DONE for one in source.sources.values())
        advice = f"run --{'stage' if begun else 'until-stage'} {source.name} first"
        if status.state is State.STALE:
            advice = (
                "take the change back, redo with --from-stage, or, for this stage alone, "
                f"write {folder.name}.KEY VALUE"
            )
        raise WSISError(
            f"stage {folder.name} needs {source.name}, which is {status.state.value} in "
            f"{source.path} ({status.detail or 'unfinished'}); {advice}"
        )

"""Runs a stage of any kind: does what is missing in its run folder, and closes the folder."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from heapq import merge
from itertools import islice
from pathlib import Path

from detectron2.utils import comm

from wsis.data.artifacts import ProductReader
from wsis.data.inspect_data import require_pictures
from wsis.data.label_files import load_pseudo_labels
from wsis.data.mappers import build_mapper
from wsis.data.pseudo_labels import PseudoLabels
from wsis.data.records import Record, Records, compact
from wsis.engine.evaluate import evaluate_on_test_sets
from wsis.engine.folder import StageFolder
from wsis.engine.image_stages import SHARES, artifact_maker, close_artifacts, work_through
from wsis.engine.manifest import package_versions
from wsis.engine.shares import shares
from wsis.engine.trainer import Trainer, keep_weights
from wsis.engine.verify import digest_of_product
from wsis.errors import DataError
from wsis.stage import ExportStage, TrainStage

logger = logging.getLogger(__name__)

Products = Mapping[str, ProductReader]
PARTS = ".parts"  # in the run folder while several processes export


def run_stage(folder: StageFolder) -> None:
    """Bring a stage to its end, in every process of the run.

    Raises:
        WSISError: bad data, a diverged training, a folder that cannot be written.
    """
    stage = folder.planned.stage
    products = {product: source.reader for product, source in folder.sources.items()}
    if isinstance(stage, TrainStage):
        run_train(folder, stage, products)
    elif isinstance(stage, ExportStage):
        run_export(folder, stage, products)
    else:
        work_through(folder, *artifact_maker(folder.planned, products))
        comm.synchronize()
        close_artifacts(folder)


def run_train(folder: StageFolder, stage: TrainStage, products: Products) -> None:
    """Train to the end, from the last checkpoint if there is one."""
    cfg = folder.planned.cfg
    records = training_dicts(folder, products)
    if comm.is_main_process() and not folder.images.sizes(folder.dataset_names):  # one is missing
        require_pictures(records, cfg.WSIS.ON_ERROR, folder.images.say)
    weights = str(products[cfg.WSIS.INIT_FROM].weights) if cfg.WSIS.INIT_FROM else None
    if cfg.SOLVER.MAX_ITER == 0:
        keep_weights(cfg, weights)
    else:
        order = None
        if stage.samples is not None:
            records, order = stage.samples(records, cfg)
        evaluate = None
        if stage.evaluation and cfg.DATASETS.TEST:
            evaluate = partial(evaluate_on_test_sets, folder)
        elif cfg.TEST.EVAL_PERIOD > 0:
            logger.warning("%s: TEST.EVAL_PERIOD: there is nothing to evaluate on", folder.name)
        trainer = Trainer(
            cfg,
            records,
            mapper=build_mapper(cfg, stage.mapper, is_train=True, products=products),
            weights=weights,
            order=order,
            on_skip=lambda failure: folder.log(failure.key, {"skipped": failure.message}),
            evaluate=evaluate,
        )
        trainer.resume_or_load()
        trainer.train()
    comm.synchronize()
    if comm.is_main_process():
        logged = folder.logged()
        skipped = {key: str(logged[key]["skipped"]) for key in sorted(logged)}
        counts = {"iterations": cfg.SOLVER.MAX_ITER}
        if cfg.SOLVER.MAX_ITER:
            counts = {"images": len(records) - len(skipped)} | counts
        folder.close(digest_of_product(folder), counts, skipped)


def training_dicts(folder: StageFolder, products: Products) -> Sequence[Record]:
    """What a training stage trains on: the data set, or the pseudo labels made for it.

    Raises:
        DataError: tags are to be learnt and no image has any.
    """
    stage, found = folder.planned.stage, compact(folder.dataset_dicts)
    if stage.supervision == "image" and not any(d["image_labels"] for d in found.heads):
        raise DataError(
            f"stage {folder.name}: no image of {', '.join(folder.dataset_names)} has a tag "
            "(image_labels, or annotations with a category); see datasets/README.md"
        )
    if "pseudo_labels" in products:
        found = _pseudo_labelled(folder, found)
    if stage.supervision == "mask" and folder.planned.cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        found = found[found.objects() > 0]
    return found


def _pseudo_labelled(folder: StageFolder, records: Records) -> Records:
    """The data set with the pseudo labels that were made for it."""
    source, classes = folder.sources["pseudo_labels"], folder.planned.cfg.WSIS.CLASSES
    (path,) = source.product_files()
    found = load_pseudo_labels(path, records.heads, class_names=classes)
    if not any(record["annotations"] for record in found):
        least = source.planned.cfg.WSIS.PSEUDO_LABELS.MIN_SCORE
        makers = ", ".join(maker.name for maker in source.sources.values())
        raise DataError(
            f"stage {folder.name} has no pseudo label to learn from: {path} has {len(found)} "
            f"images and no mask, for stage {makers} made none that scores at least "
            f"WSIS.PSEUDO_LABELS.MIN_SCORE ({least:g}); lower that, or see what {makers} made with "
            "tools/report.py (where masks start from peaks, tools/peak_thresholds.py helps)"
        )
    return compact(found)


def run_export(folder: StageFolder, stage: ExportStage, products: Products) -> None:
    """Write one file from all artifacts, of which each process reads its share."""
    path, cfg = folder.path / stage.file_name, folder.planned.cfg
    if comm.is_main_process():
        shutil.rmtree(folder.path / PARTS, ignore_errors=True)  # of a killed run
    labels = stage.function(compact(folder.dataset_dicts).heads, products, cfg)
    parts = _parts_of_all(labels, folder.path) if comm.get_world_size() > 1 else None
    if not comm.is_main_process():
        return
    info = {
        "description": "pseudo labels made by WSIS",
        "method": cfg.WSIS.METHOD,
        "config": folder.manifest.digest,
        "versions": package_versions(),
    }
    counts = labels.write(path, info, parts)
    _tell_written(path, counts, cfg.WSIS.PSEUDO_LABELS.MIN_SCORE)
    shutil.rmtree(folder.path / PARTS, ignore_errors=True)
    folder.close(digest_of_product(folder), counts)


def _tell_written(path: Path, counts: Mapping[str, int], min_score: float) -> None:
    """Log what a file of pseudo labels holds."""
    images, instances = counts["images"], counts["annotations"]
    logger.info("pseudo labels: %d images, %d instances in %s", images, instances, path)
    if not instances:
        logger.warning(
            "pseudo labels: no instance is left; lower WSIS.PSEUDO_LABELS.MIN_SCORE (now %g), or "
            "look at what the stages before made (tools/report.py)",
            min_score,
        )


def _parts_of_all(labels: PseudoLabels, folder: Path) -> Iterator[list[str] | None]:
    """What `labels.of_image` gives for all images, in order, made by all processes.

    Each writes what it makes into a file of its own, in ascending order of the images.
    """
    parts = folder / PARTS
    counter = parts / SHARES
    if comm.is_main_process():
        parts.mkdir()
        counter.write_bytes(b"")
    comm.synchronize()
    with open(parts / str(comm.get_rank()), "w", encoding="utf-8") as stream:
        for index in shares(len(labels), counter):
            found = labels.of_image(index)
            lines = [str(index), str(-1 if found is None else len(found)), *(found or ())]
            stream.writelines(f"{line}\n" for line in lines)
    comm.synchronize()
    names = map(str, range(comm.get_world_size()))
    return (found for _, found in merge(*(_read_part(parts / name) for name in names)))


def _read_part(path: Path) -> Iterator[tuple[int, list[str] | None]]:
    """What a process wrote: index of an image, and its annotations."""
    with open(path, encoding="utf-8") as stream:
        for index in stream:
            count = int(next(stream))
            texts = [line.rstrip("\n") for line in islice(stream, max(count, 0))]
            yield int(index), None if count < 0 else texts

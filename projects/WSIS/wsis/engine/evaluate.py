"""Evaluates products once, keeps the figures beside them, and reports them together."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.modeling import DatasetMapperTTA, GeneralizedRCNNWithTTA
from detectron2.utils import comm
from torch import nn

from wsis.commands import writing
from wsis.config import flatten
from wsis.data.builtin import class_names
from wsis.data.checks import load_json
from wsis.data.files import write_json
from wsis.data.mappers import build_mapper
from wsis.data.stream import Failure, single_pass_loader
from wsis.data.working_size import AtWorkingSize
from wsis.engine.checkpoint import build_inference_model
from wsis.engine.folder import StageFolder
from wsis.engine.launch import trimming
from wsis.engine.manifest import IMAGE_FILES, digest_of, look_up, package_versions
from wsis.engine.pipeline import Pipeline, PlannedStage
from wsis.engine.progress import progress
from wsis.errors import DataError
from wsis.evaluation.image_loop import Results
from wsis.evaluation.results import format_table, json_results, stage_result, write_metrics
from wsis.stage import TrainStage

logger = logging.getLogger(__name__)

EVALUATION = "evaluation.json"
METRICS = "metrics.json"
_ENTRY = {"stage", "dataset", "protocol", "metrics"}  # keys that every figure has


class ThinImageTTA(DatasetMapperTTA):
    """Detectron2's images of TEST.AUG, larger than MAX_SIZE where a side would become 0 pixels."""

    def __call__(self, dataset_dict: dict[str, Any]) -> list[dict[str, Any]]:
        """As Detectron2's."""
        shorter, longer = sorted(dataset_dict["image"].shape[-2:])
        size = max(self.max_size, -(-longer // (2 * shorter)))  # so that half a pixel is left
        same = DatasetMapperTTA(min_sizes=self.min_sizes, max_size=size, flip=self.flip)
        return same(dataset_dict)


@torch.no_grad()
def evaluate_network(folder: StageFolder, model: nn.Module, name: str) -> Results:
    """Run a network, in eval mode, over the test set ``name``.

    With WSIS.ON_ERROR "skip" an image that cannot be read stays in the figures: all of its objects
    count as missed.

    Returns:
        Entries of ``metrics.json`` (`wsis.evaluation.results.stage_result`).
    """
    planned, dataset_dicts = folder.planned, folder.images.named((name,))
    stage, cfg = planned.stage, planned.cfg
    assert isinstance(stage, TrainStage)
    assert stage.evaluation is not None
    if cfg.TEST.AUG.ENABLED:
        model = GeneralizedRCNNWithTTA(cfg, model, ThinImageTTA(cfg))
    mapper = build_mapper(cfg, stage.mapper, is_train=False, products={})
    mine = dataset_dicts[comm.get_rank() :: comm.get_world_size()]
    loader = single_pass_loader(mine, mapper, num_workers=cfg.DATALOADER.NUM_WORKERS)
    evaluator = stage.evaluation(name, dataset_dicts, cfg, planned.folder / "predictions" / name)
    evaluator.reset()
    skipped: dict[str, str] = {}
    with progress(loader, f"{planned.name} on {name}", total=len(mine)) as bar:
        for record, sample in zip(mine, trimming(bar), strict=True):
            if not isinstance(sample, Failure):
                evaluator.process([sample], model([sample]))
            elif cfg.WSIS.ON_ERROR == "skip" and not sample.fatal:
                logger.warning("counted as missed, %s: %s", sample.key, sample.message)
                evaluator.miss(record)
                skipped[sample.key] = sample.message
            else:
                raise sample.error()
    found = evaluator.evaluate()
    shares = comm.gather(skipped, dst=0)
    skipped = dict(sorted(item for share in shares for item in share.items()))
    return [
        stage_result(
            planned.name,
            name,
            protocol=p,
            metrics=metrics | {"images_skipped": len(skipped)},
            skipped=skipped,
        )
        for p, metrics in found.items()
    ]


def evaluate_on_test_sets(folder: StageFolder, model: nn.Module) -> Results:
    """Figures of a network on all of ``DATASETS.TEST``, see `evaluate_network`."""
    results: Results = []
    for name in folder.planned.cfg.DATASETS.TEST:
        results += evaluate_network(folder, model, name)
    return results


def _evaluate_products(folder: StageFolder) -> Results:
    """Figures of a product that has an artifact for each image."""
    planned, results = folder.planned, []
    assert planned.stage.evaluation is not None
    for name in _datasets(planned):
        mine = folder.images.named((name,))[comm.get_rank() :: comm.get_world_size()]
        small = AtWorkingSize(mine, planned.cfg.INPUT.MAX_PIXELS)  # as the product
        found = planned.stage.evaluation(small, folder.reader, class_names(name), planned.cfg)
        results += [stage_result(planned.name, name, **entry) for entry in found]
    return results


def evaluate(folder: StageFolder, *, again: bool = False) -> bool:
    """Evaluate a finished product and write ``evaluation.json`` into its folder.

    A product that was evaluated before with the same options is not evaluated again, except with
    ``again`` (``--eval-only``).

    Returns:
        whether there was anything to evaluate.
    """
    planned = folder.planned
    if not planned.stage.evaluation:
        return False
    if not _datasets(planned):
        logger.info("%s: there is no DATA.VAL to evaluate it on", planned.name)
        return False
    digest, before = _digest(folder), _read(folder.path)
    images = folder.images.sizes(_datasets(planned))
    # Figures of versions that did not look at image files are not computed again.
    known = digest == before.get("digest") and images == before.get(IMAGE_FILES, images)
    if comm.all_gather(known)[0] and not again:
        return False
    if isinstance(planned.stage, TrainStage):
        model = build_inference_model(planned.cfg, folder.reader.weights)
        results = evaluate_on_test_sets(folder, model)
    else:
        results = _evaluate_products(folder)
    if comm.is_main_process():
        content = {"digest": digest, IMAGE_FILES: images, "results": json_results(results)}
        write_json(folder.path / EVALUATION, content)
    return True


def _datasets(planned: PlannedStage) -> tuple[str, ...]:
    """The data sets on which a product is evaluated."""
    cfg = planned.cfg
    if isinstance(planned.stage, TrainStage):
        return tuple(cfg.DATASETS.TEST)
    return tuple(cfg.WSIS.EVALUATION.IMAGES) or tuple(cfg.WSIS.IMAGES)


def _digest(folder: StageFolder) -> str:
    """Identifies what was evaluated, how, and against which ground truth."""
    planned, cfg, names = folder.planned, folder.planned.cfg, _datasets(folder.planned)
    config: dict[str, Any] = {"evaluation": flatten(cfg.WSIS.EVALUATION, "EVALUATION")}
    if isinstance(planned.stage, TrainStage):
        everything = flatten(cfg.MODEL, "MODEL") | flatten(cfg.INPUT, "INPUT")
        of_images = ("_TEST", "MAX_PIXELS")
        config["test"] = {k: v for k, v in everything.items() if k.endswith(of_images)}
        config["detections"] = cfg.TEST.DETECTIONS_PER_IMAGE
        if cfg.TEST.AUG.ENABLED:
            config |= flatten(cfg.TEST.AUG, "TEST.AUG")
    for key in planned.stage.evaluation_keys:
        config |= flatten(look_up(cfg, key), key)
    truth = [folder.images.fingerprint((name,), "mask") for name in names]
    return digest_of({"product": folder.product, "truth": truth, **config, "datasets": names})


def report(pipeline: Pipeline, done: Sequence[str], *, shown: Sequence[str]) -> None:
    """Write the figures of the stages ``done`` to ``OUTPUT_DIR/metrics.json``, and log a table of
    those of the stages ``shown``. Products that are unfinished or stale have no figures.
    """
    found = [
        entry
        for planned in pipeline.stages
        if planned.name in done
        for entry in _read(planned.folder).get("results", [])
    ]
    place = str(pipeline.output_dir)
    configs = [  # equal runs are equal wherever they lie
        {key: value for key, value in flatten(planned.cfg, "").items() if place not in str(value)}
        for planned in pipeline.stages
    ]
    path = pipeline.output_dir / METRICS
    with writing(path, "another OUTPUT_DIR"):
        write_metrics(path, found, versions=package_versions(), config=digest_of(configs))
    if rows := [entry for entry in found if entry["stage"] in shown]:
        table = format_table(rows)
        logger.info("Figures of %s (also in %s):\n%s", pipeline.name, path, table)


def _read(folder: Path) -> dict[str, Any]:
    """What `evaluate` wrote, {} where there is nothing, or nothing whole."""
    try:
        stored = load_json(folder / EVALUATION)
        whole = all(entry.keys() >= _ENTRY for entry in stored.get("results", []))
    except (DataError, AttributeError, TypeError):
        return {}
    return stored if whole else {}

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
from wsis.data.checks import load_json
from wsis.data.files import write_json
from wsis.data.inspect_data import require_pictures
from wsis.data.mappers import build_mapper
from wsis.data.stream import Failure, single_pass_loader
from wsis.data.user import entries_of
from wsis.data.working_size import AtWorkingSize, as_sample, at_working_size
from wsis.engine.checkpoint import build_inference_model
from wsis.engine.folder import StageFolder
from wsis.engine.launch import trimming
from wsis.engine.manifest import (
    IMAGE_FILES,
    digest_of,
    digest_of_weights,
    look_up,
    package_versions,
)
from wsis.engine.pipeline import Pipeline, PlannedStage
from wsis.errors import DataError
from wsis.evaluation.evaluator import Results, evaluate_product
from wsis.evaluation.results import (
    are_results,
    is_defined,
    json_results,
    stage_result,
    write_metrics,
)
from wsis.progress import progress
from wsis.stage import TrainStage

logger = logging.getLogger(__name__)

EVALUATION = "evaluation.json"
METRICS = "metrics.json"
PREDICTIONS = "predictions"  # in a stage's folder
OTHER_WEIGHTS = "other_weights"  # in OUTPUT_DIR: predictions of checkpoints that are not the run's


class ThinImageTTA(DatasetMapperTTA):
    """Detectron2's images of TEST.AUG, larger than MAX_SIZE where a side would become 0 pixels."""

    def __call__(self, dataset_dict: dict[str, Any]) -> list[dict[str, Any]]:
        """As Detectron2's."""
        shorter, longer = sorted(dataset_dict["image"].shape[-2:])
        size = max(self.max_size, -(-longer // (2 * shorter)))  # so that half a pixel is left
        same = DatasetMapperTTA(min_sizes=self.min_sizes, max_size=size, flip=self.flip)
        return same(dataset_dict)


@torch.no_grad()
def evaluate_network(
    folder: StageFolder, model: nn.Module, name: str, predictions: Path
) -> Results:
    """Run a network, in eval mode, over the test set ``name``; write what it predicts.

    With WSIS.ON_ERROR "skip" an image that cannot be read stays in the figures: all of its objects
    count as missed.

    Returns:
        Entries of ``metrics.json`` (`wsis.evaluation.results.stage_result`).
    """
    planned, dataset_dicts = folder.planned, folder.images.named((name,))
    stage, cfg = planned.stage, planned.cfg
    if comm.is_main_process():
        require_pictures(dataset_dicts, cfg.WSIS.ON_ERROR, folder.images.say)
    assert isinstance(stage, TrainStage)
    assert stage.evaluation is not None
    if cfg.TEST.AUG.ENABLED:
        model = GeneralizedRCNNWithTTA(cfg, model, ThinImageTTA(cfg))
    mapper = build_mapper(cfg, stage.mapper, is_train=False, products={})
    mine = dataset_dicts[comm.get_rank() :: comm.get_world_size()]
    loader = single_pass_loader(mine, mapper, num_workers=cfg.DATALOADER.NUM_WORKERS)
    evaluator = stage.evaluation(name, cfg, predictions / name)
    skipped: dict[str, str] = {}
    with progress(loader, f"{planned.name} on {name}", total=len(mine)) as bar:
        for record, sample in zip(mine, trimming(bar, kept=cfg.MODEL.DEVICE == "cpu"), strict=True):
            if not isinstance(sample, Failure):
                evaluator.add(as_sample(record, sample), model([sample])[0])
            elif cfg.WSIS.ON_ERROR == "skip" and not sample.fatal:
                logger.warning("counted as missed, %s: %s", sample.key, sample.message)
                evaluator.add(at_working_size(record, cfg.INPUT.MAX_PIXELS), None)
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
        if is_defined(metrics)
    ]


def evaluate_on_test_sets(
    folder: StageFolder, model: nn.Module, predictions: Path | None = None
) -> Results:
    """Figures of a network on all of ``DATASETS.TEST``, see `evaluate_network`."""
    place, results = predictions or folder.path / PREDICTIONS, []
    for name in folder.planned.cfg.DATASETS.TEST:
        results += evaluate_network(folder, model, name, place)
    return results


def evaluate_weights(folders: Sequence[StageFolder]) -> tuple[Results, dict[str, str]]:
    """Figures of the checkpoint that each stage's MODEL.WEIGHTS names, where it fits the network.

    Nothing of the run itself is touched: predictions go to ``OUTPUT_DIR/other_weights``.

    Args:
        folders: of training stages that have an evaluation.

    Returns:
        entries: with ``weights``: the ``file`` and the ``digest`` of its tensors.
        misfits: by stage, why it has none.
    """
    results, misfits = [], {}
    for folder in folders:
        cfg, weights = folder.planned.cfg, str(folder.planned.cfg.MODEL.WEIGHTS)
        try:
            if not cfg.DATASETS.TEST:
                raise DataError(f"there is no DATA.VAL to evaluate {weights} on")
            if "://" not in weights and not Path(weights).is_file():
                raise DataError(f"MODEL.WEIGHTS {weights} does not exist")
            model = build_inference_model(cfg, weights)
        except DataError as error:
            logger.info("%s: %s", folder.name, error)
            misfits[folder.name] = str(error)
            continue
        digest = weights if "://" in weights else digest_of_weights(Path(weights))
        name = f"{Path(weights).stem}-{digest_of(digest)[:8]}"
        place = folder.path.parent / OTHER_WEIGHTS / name / folder.name
        found = evaluate_on_test_sets(folder, model, place)
        results += [entry | {"weights": {"file": weights, "digest": digest}} for entry in found]
    return results, misfits


def _evaluate_products(folder: StageFolder) -> Results:
    """Figures of a product that has an artifact for each image."""
    planned, results = folder.planned, []
    assert planned.stage.evaluation is not None
    for name in evaluated_on(planned):
        mine = folder.images.named((name,))[comm.get_rank() :: comm.get_world_size()]
        small = AtWorkingSize(mine, planned.cfg.INPUT.MAX_PIXELS)  # as the product
        evaluator = planned.stage.evaluation(name, planned.cfg)
        found = evaluate_product(evaluator, small, folder.reader)
        results += [stage_result(planned.name, name, **entry) for entry in found]
    return results


def evaluate(folder: StageFolder, *, again: bool = False) -> bool:
    """Evaluate a finished product and write ``evaluation.json`` into its folder.

    A product that was evaluated before with the same options is not evaluated again, except with
    ``again`` (``--eval-only``). Its figures on other data sets and by other protocols stay.

    Returns:
        whether there was anything to evaluate.
    """
    planned = folder.planned
    if not planned.stage.evaluation:
        return False
    if not evaluated_on(planned):
        logger.info("%s: there is no DATA.VAL to evaluate it on", planned.name)
        return False
    before, digest, images = read_evaluation(folder.path / EVALUATION), "", ""
    if comm.is_main_process():  # it alone looks at the files
        digest, images = _digest(folder), folder.images.sizes(evaluated_on(planned))
    # Figures of versions that did not look at image files are not computed again.
    known = digest == before.get("digest") and images in ("", before.get(IMAGE_FILES, images))
    if comm.all_gather(known)[0] and not again:
        return False
    if isinstance(planned.stage, TrainStage):
        model = build_inference_model(planned.cfg, folder.reader.weights)
        results = evaluate_on_test_sets(folder, model)
    else:
        results = _evaluate_products(folder)
    if comm.is_main_process():
        product = folder.product
        if before.get("product", product) == product:
            results = _joined(results, before.get("results", []))
        content: dict[str, Any] = {"digest": digest, "product": product, IMAGE_FILES: images}
        # for pictures of predictions: perhaps no config of a stage describes these data sets
        described = [*before.get("datasets", []), *entries_of(evaluated_on(planned))]
        named = {entry["NAME"]: entry for entry in described}
        content |= {"results": json_results(results), "datasets": list(named.values())}
        write_json(folder.path / EVALUATION, content)
    return True


def evaluated_on(planned: PlannedStage) -> tuple[str, ...]:
    """The data sets on which a product is evaluated."""
    cfg = planned.cfg
    if isinstance(planned.stage, TrainStage):
        return tuple(cfg.DATASETS.TEST)
    return tuple(cfg.WSIS.EVALUATION.IMAGES) or tuple(cfg.WSIS.IMAGES)


def _digest(folder: StageFolder) -> str:
    """Identifies what was evaluated, how, and against which ground truth."""
    planned, cfg, names = folder.planned, folder.planned.cfg, evaluated_on(folder.planned)
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


def collect_figures(
    pipeline: Pipeline, done: Sequence[str], others: Sequence[dict[str, Any]] = ()
) -> Results:
    """Write the figures of the stages ``done`` to ``OUTPUT_DIR/metrics.json``; all that it has now.

    Other figures that the file has stay, also those of stages that are stale or not of this
    pipeline.

    Args:
        pipeline: whose stages they are.
        done: stages with a product that is finished and up to date.
        others: figures of `evaluate_weights`, which stand beside the run's own.
    """
    path = pipeline.output_dir / METRICS
    places = {planned.name: number for number, planned in enumerate(pipeline.stages)}
    own = [
        entry
        for planned in pipeline.stages
        if planned.name in done
        for entry in read_evaluation(planned.folder / EVALUATION).get("results", [])
    ]
    kept = read_evaluation(path).get("stages", [])
    kept = [entry for entry in kept if entry.get("weights") or entry["stage"] not in done]
    found = _joined([*own, *others], kept)
    found.sort(key=lambda entry: (places.get(entry["stage"], len(places)), "weights" in entry))
    place = str(pipeline.output_dir)
    configs = [  # equal runs are equal wherever they lie
        {key: value for key, value in flatten(planned.cfg, "").items() if place not in str(value)}
        for planned in pipeline.stages
    ]
    with writing(path, "another OUTPUT_DIR"):
        write_metrics(path, found, versions=package_versions(), config=digest_of(configs))
    return found


def _joined(new: Results, old: Results) -> Results:
    """Entries, and the older ones that none of them replaces."""

    def identity(entry: dict[str, Any]) -> tuple[str, ...]:
        weights = entry.get("weights", {}).get("digest", "")
        return entry["stage"], entry["dataset"], entry["protocol"], weights

    known = {identity(entry) for entry in new}
    return [*new, *(entry for entry in old if identity(entry) not in known)]


def read_evaluation(path: Path) -> dict[str, Any]:
    """The content of ``evaluation.json`` or ``metrics.json``; {} if it is missing or damaged."""
    try:
        stored = load_json(path)
        entries = stored.get("results", stored.get("stages", []))
        named = all(isinstance(entry["NAME"], str) for entry in stored.get("datasets", []))
        sound = are_results(entries) and named
    except (DataError, AttributeError, TypeError, KeyError):
        return {}
    return stored if sound else {}

"""The product checks of the stages that exist; `wsis.evaluation.registry` names them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from wsis.data.artifacts import ProductReader
from wsis.data.pseudo_labels import load_pseudo_labels
from wsis.evaluation.cam import cam_components, cam_label_map, cam_of_artifact
from wsis.evaluation.labels import InterPixelLabelMeasure
from wsis.evaluation.pseudo_labels import QualityMeasure
from wsis.evaluation.semantic import LabelPair, SemanticMeasure
from wsis.evaluation.streaming import InstancePrediction, StreamingEvaluation
from wsis.evaluation.voc_instance import (
    VOCInstanceEvaluator,
    no_instances,
    prediction_of_artifact,
)
from wsis.evaluation.walk import Arrays, CheckOptions, Reader, Results, Walk
from wsis.layers.run_lengths import decode_rles

DatasetDicts = Sequence[dict[str, Any]]
PSEUDO_LABEL_FILE = "pseudo_labels.json"


def _check_instances(
    title: str,
    dataset_dicts: DatasetDicts,
    product: Reader,
    options: CheckOptions,
    *,
    to_prediction: Callable[[Arrays], InstancePrediction] = prediction_of_artifact,
) -> Results:
    """Average precision and pseudo-label quality of one source of instances."""
    evaluator = VOCInstanceEvaluator(
        dataset_dicts,
        options.class_names,
        load_ground_truth=options.load_ground_truth,
        protocols=options.protocols,
        options=options.protocol_options,
        output_dir=options.output_dir,
        extra_measures=[QualityMeasure(options.class_names, min_score=options.min_score)],
    )
    walk = Walk(title, options)
    for record, truth, arrays in walk.over(dataset_dicts, product):
        found = no_instances(truth.void.shape) if arrays is None else to_prediction(arrays)
        evaluator.add(record["image_key"], found, truth=truth)
    return walk.entries(evaluator.evaluate())


def check_instances(
    dataset_dicts: DatasetDicts, product: ProductReader, options: CheckOptions
) -> Results:
    """Product ``instances``: every protocol, and the quality of the masks as pseudo labels."""
    return _check_instances("instances", dataset_dicts, product, options)


class _PseudoLabelReader:
    """The instances in an exported pseudo-label file, by image key."""

    def __init__(self, records: DatasetDicts) -> None:
        self._records = {record["image_key"]: record for record in records}

    def __contains__(self, key: str) -> bool:
        return key in self._records

    def __getitem__(self, key: str) -> Arrays:
        record = self._records[key]
        annotations = record["annotations"]
        size = record["height"], record["width"]
        return {
            "classes": np.array([a["category_id"] for a in annotations], dtype=np.int64),
            "scores": np.array([a["score"] for a in annotations], dtype=np.float32),
            "masks": decode_rles([a["segmentation"] for a in annotations], size),
        }


def check_pseudo_labels(
    dataset_dicts: DatasetDicts, product: ProductReader, options: CheckOptions
) -> Results:
    """The exported JSON, as product ``instances``: equal figures for what passed its threshold."""
    path = product.folder / PSEUDO_LABEL_FILE
    labelled = load_pseudo_labels(path, dataset_dicts, class_names=options.class_names)
    return _check_instances("pseudo labels", dataset_dicts, _PseudoLabelReader(labelled), options)


def check_cam(
    dataset_dicts: DatasetDicts, product: ProductReader, options: CheckOptions
) -> Results:
    """Product ``cam``: mIoU, and the baseline "components of the CAM" at each threshold.

    The baseline is the floor that any instance method has to clear; several thresholds are given
    so that it cannot be beaten merely by a bad choice of its own.
    """
    names = options.class_names
    evaluators = {
        threshold: VOCInstanceEvaluator(
            dataset_dicts,
            names,
            load_ground_truth=options.load_ground_truth,
            protocols=options.protocols,
            options=options.protocol_options,
        )
        for threshold in options.cam_thresholds
    }
    first = options.cam_thresholds[0]
    semantic = SemanticMeasure(names, protocol=f"semantic, CAM > {first:g}")
    labels = StreamingEvaluation([semantic])
    walk = Walk("CAM", options)
    for record, truth, arrays in walk.over(dataset_dicts, product):
        key, size = record["image_key"], truth.void.shape
        keys, cam = np.zeros(0, dtype=np.int64), np.zeros((0, *size), dtype=np.float32)
        if arrays is not None:
            keys, cam = cam_of_artifact(arrays)
        label = cam_label_map(keys, cam, threshold=first)
        labels.add(key, LabelPair(key, label, truth.semantic(len(names))))
        for threshold, evaluator in evaluators.items():
            evaluator.add(key, cam_components(keys, cam, threshold=threshold), truth=truth)
    results = dict(labels.finish())
    for threshold, evaluator in evaluators.items():
        for protocol, metrics in evaluator.evaluate().items():
            results[f"{protocol}, baseline CAM > {threshold:g}"] = metrics
    return walk.entries(results)


def _check_labels(
    title: str,
    measure: SemanticMeasure | InterPixelLabelMeasure,
    dataset_dicts: DatasetDicts,
    product: ProductReader,
    options: CheckOptions,
    *,
    missing: int,
) -> Results:
    """A product of label maps; ``missing`` is the label where there is no product."""
    stream = StreamingEvaluation([measure])
    walk = Walk(title, options)
    for record, truth, arrays in walk.over(dataset_dicts, product):
        label = np.full(truth.void.shape, missing) if arrays is None else arrays["label"]
        key = record["image_key"]
        stream.add(key, LabelPair(key, label, truth.semantic(len(options.class_names))))
    return walk.entries(stream.finish())


def check_semantic(
    dataset_dicts: DatasetDicts, product: ProductReader, options: CheckOptions
) -> Results:
    """Product ``semantic``: mIoU over the background and C classes."""
    measure = SemanticMeasure(options.class_names)
    return _check_labels("semantic labels", measure, dataset_dicts, product, options, missing=0)


def check_inter_pixel_label(
    dataset_dicts: DatasetDicts, product: ProductReader, options: CheckOptions
) -> Results:
    """Product ``inter_pixel_label``: share unknown, precision of the rest."""
    measure = InterPixelLabelMeasure(options.class_names)
    return _check_labels(
        "inter-pixel labels", measure, dataset_dicts, product, options, missing=255
    )

"""Checks of the products that several methods share; see `wsis.evaluation.image_loop`.

K classes of an image, H x W pixels. CAMs are normalised to a maximum of 1 per class.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
from detectron2.config import CfgNode

from wsis.evaluation.image_loop import DatasetDicts, ImageLoop, Product, Results
from wsis.evaluation.predictions import InstancePair, InstancePrediction, ProtocolOptions
from wsis.evaluation.pseudo_labels import QualityMeasure
from wsis.evaluation.semantic import LabelPair, SemanticMeasure
from wsis.evaluation.streaming import Measure
from wsis.evaluation.voc_instance import build_measures
from wsis.layers.components import detect_components, winning_channels


def cam_label_map(keys: np.ndarray, cam: np.ndarray, *, threshold: float) -> np.ndarray:
    """Semantic label map by argmax over [threshold, CAMs], (H, W) int64: 0 background, class + 1.

    Keys are (K,) class ids, ascending, and cam is (K, H, W) float.
    """
    winners = winning_channels(cam, threshold)
    return np.concatenate([[0], np.asarray(keys, dtype=np.int64) + 1])[winners + 1]


def cam_components(
    keys: np.ndarray, cam: np.ndarray, *, threshold: float, min_area: float = 0.01
) -> InstancePrediction:
    """The baseline: connected components of thresholded CAMs as instances.

    It differs from IRNet's instances (irnet spec 6.5) only in that the CAMs were neither
    split by the displacement field nor spread by the random walk: 4-connected components, the
    largest value in a component as its score, 0 below ``min_area``, a share of the image. A pixel
    goes to the class with the largest CAM, if that exceeds the threshold; see `cam_label_map`.
    """
    cam = np.asarray(cam, dtype=np.float32)
    smallest = min_area * cam.shape[1] * cam.shape[2]
    # No CAM (no label on the image) leaves everything to the background.
    scores = cam.max(axis=0, initial=0.0)
    found = detect_components(winning_channels(cam, threshold), scores, min_area=smallest)
    classes = np.asarray(keys, dtype=np.int64)[found.channels]
    return InstancePrediction(classes, found.scores, found.masks)


def _instance_measures(class_names: Sequence[str], cfg: CfgNode) -> list[Measure]:
    """The protocols of ``WSIS.EVALUATION``."""
    names, options = cfg.WSIS.EVALUATION.PROTOCOLS, ProtocolOptions.of(cfg)
    return build_measures(class_names, names, options=options)


def _add_instances(measures: Sequence[Measure], pair: InstancePair, num_classes: int) -> None:
    """Measure one image; `DataError` where the instances do not fit it."""
    pair.prediction.check(pair.key, size=pair.truth.void.shape, num_classes=num_classes)
    for measure in measures:
        measure.add(pair.key, pair)


def check_instances(
    dataset_dicts: DatasetDicts, product: Product, class_names: Sequence[str], cfg: CfgNode
) -> Results:
    """Product ``instances``: every protocol, and the quality of the masks as pseudo labels."""
    quality = QualityMeasure(class_names, min_score=cfg.WSIS.EVALUATION.MIN_SCORE)
    measures = [*_instance_measures(class_names, cfg), quality]
    loop = ImageLoop("instances", dataset_dicts, product)
    for record, truth, arrays in loop:
        found = InstancePrediction.nothing(truth.void.shape)
        if arrays is not None:
            found = InstancePrediction.of_artifact(arrays)
        pair = InstancePair(record["image_key"], found, truth)
        _add_instances(measures, pair, len(class_names))
    return loop.results(measures)


def check_cam(
    dataset_dicts: DatasetDicts, product: Product, class_names: Sequence[str], cfg: CfgNode
) -> Results:
    """Product ``cam``: mIoU at the first threshold, and `cam_components` at each.

    Several are given, so that the baseline does not look weak because of one badly chosen
    threshold.
    """
    thresholds = cfg.WSIS.EVALUATION.CAM_THRESHOLDS
    first = thresholds[0]
    labels = SemanticMeasure(class_names, protocol=f"semantic, CAM > {first:g}")
    baselines = {threshold: _instance_measures(class_names, cfg) for threshold in thresholds}
    loop = ImageLoop("CAM", dataset_dicts, product)
    for record, truth, arrays in loop:
        key, size = record["image_key"], truth.void.shape
        keys, cam = np.zeros(0, dtype=np.int64), np.zeros((0, *size), dtype=np.float32)
        if arrays is not None:
            keys, cam = arrays["keys"], arrays["high_res"].astype(np.float32)
        label = cam_label_map(keys, cam, threshold=first)
        labels.add(key, LabelPair(key, label, truth.semantic(len(class_names))))
        for threshold, measures in baselines.items():
            found = cam_components(keys, cam, threshold=threshold)
            _add_instances(measures, InstancePair(key, found, truth), len(class_names))
    for threshold, measures in baselines.items():
        for measure in measures:
            measure.protocol += f", baseline CAM > {threshold:g}"
    return loop.results([labels, *chain(*baselines.values())])


def check_labels(
    title: str,
    measure: Measure,
    dataset_dicts: DatasetDicts,
    product: Product,
    class_names: Sequence[str],
    *,
    missing: int,
) -> Results:
    """A product of label maps, ``label`` (H, W), by a measure of `LabelPair`.

    Without a map every pixel counts as ``missing``; the title is that of the progress bar.

    Raises:
        DataError: a label map of another size, or with unknown labels.
    """
    loop = ImageLoop(title, dataset_dicts, product)
    for record, truth, arrays in loop:
        label = np.full(truth.void.shape, missing) if arrays is None else arrays["label"]
        key = record["image_key"]
        measure.add(key, LabelPair(key, label, truth.semantic(len(class_names))))
    return loop.results([measure])


def check_semantic(
    dataset_dicts: DatasetDicts, product: Product, class_names: Sequence[str], cfg: CfgNode
) -> Results:
    """Product ``semantic``: mIoU over the background and C classes."""
    measure = SemanticMeasure(class_names)
    return check_labels("semantic labels", measure, dataset_dicts, product, class_names, missing=0)
